"""Two runs case by case; what cannot be compared is refused with its reason."""

from __future__ import annotations

from tagmoe.errors import ResultError
from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.comparison.summary import Summary, metrics_of, summarise
from tagmoe.evaluate.run_folder import Run
from tagmoe.evaluate.scoring import read_scores


def compare(prepared: Prepared, a: Run, b: Run, *, draws: int = 2000, seed: int = 0) -> Summary:
    """The summary of both, with the differences of b to a.

    Raises ResultError where one was scored by a metric that the other lacks, by another version, or is asked otherwise.
    """
    kinds = list(metrics_of([a, b]))
    scores = [read_scores(run, kinds) for run in (a, b)]
    for run, own, other in ((a, scores[0], scores[1]), (b, scores[1], scores[0])):
        lacks = sorted(other.keys() - own.keys())
        if lacks:
            raise ResultError(
                f"The runs cannot be compared: {str(run.folder)!r} has no scores of the metric {lacks[0]!r}; run "
                "tagmoe eval score on both."
            )
    asked = [run.facts.editor.get("asking") for run in (a, b)]
    if None not in asked and asked[0] != asked[1]:
        raise ResultError(
            f"The runs cannot be compared: their editors were asked differently ({asked[0]} and {asked[1]}); generate "
            "one of them again."
        )
    if a.facts.rewriting != b.facts.rewriting:
        raise ResultError("The runs cannot be compared: their instructions were rewritten differently.")
    return summarise(prepared, [a, b], draws=draws, seed=seed)
