"""`tagmoe data refine`: try a new version of the rule set on a gold set, and adopt it only where nothing falls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.options import MOST_ROWS, AsJson, FixedSeed
from tagmoe.cli.output import check_output_file, log, print_result, write_text
from tagmoe.cli.progress import count_bar
from tagmoe.cli.vlm_options import Concurrency, Endpoints, Pixels, ServedModel, Timeout, need_vlm_extra, open_vlm
from tagmoe.errors import DataError, TagMoEError, UsageError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.annotation.quality.gold import Change
    from tagmoe.annotation.quality.refine import Decision


def refine(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store with gold tags.")],
    rules: Annotated[Path, typer.Option(metavar="NEW.yaml", help="The new rules; with --propose, the file to write.")],
    gold: Annotated[
        str, typer.Option(metavar="ANNOTATOR", help="Annotator whose tags are right; 'tags' is what training reads.")
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="OLD.yaml", help="The current rules; by default the packaged ones.")
    ] = None,
    endpoint: Endpoints = None,
    model: ServedModel = None,
    annotator: Annotated[
        str, typer.Option(metavar="NAME", help="Annotator whose answers are reused, and which gets the adopted ones.")
    ] = "vlm",
    propose: Annotated[
        bool, typer.Option("--propose", help="Let the model write new rules from its mistakes, without a trial.")
    ] = False,
    tags: Annotated[int, typer.Option(min=1, max=18, help="With --propose: tags to improve, the worst first.")] = 3,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST_ROWS, help="Gold rows to try, drawn at random; by default all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of decisions and answers; by default beside NEW.yaml.")
    ] = None,
    votes: Annotated[int, typer.Option(min=1, max=100, help="Times to ask for each row, as in `annotate`.")] = 1,
    per_tag: Annotated[bool, typer.Option("--per-tag", help="Ask for each tag, as in `annotate`.")] = False,
    concurrency: Concurrency = 16,
    timeout: Timeout = 120,
    pixels: Pixels = 1024 * 1024,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two rule sets on gold tags; exits with 1, changing nothing, if gold F1 or inverse-consistency falls.

    Only rows that the changed rules affect are asked again. Example:
    tagmoe data refine my/store --rules two.yaml --against one.yaml --gold people --endpoint URL --model NAME
    """
    need_vlm_extra()
    from tagmoe.annotation.ask.annotators import VLMAnnotator
    from tagmoe.annotation.quality.gold import gold_set
    from tagmoe.annotation.quality.propose import propose as ask_for
    from tagmoe.annotation.quality.refine import Version, propose_rules
    from tagmoe.annotation.quality.refine import refine as run
    from tagmoe.annotation.rules.rule_set import load_rules, packaged_rules
    from tagmoe.data.store.store import Store

    if annotator == gold:
        raise UsageError(f"The annotator and the gold side are both {gold!r}; gold tags must come from another.")
    if propose:
        check_output_file(rules, force=False, extensions=(".yaml", ".yml"), kind="rules")
    old = packaged_rules() if against is None else load_rules(against)
    new = old if propose else load_rules(rules)
    opened = Store.open(store)
    gold_rows = gold_set(opened, gold, limit, judged=annotator)
    folder = _folder(out if out is not None else rules.parent / f"{rules.stem}-decisions")
    vlm = open_vlm(endpoint or [], model, concurrency=concurrency, timeout=timeout)
    options: dict[str, Any] = {"pixels": pixels, "votes": votes, "per_tag": per_tag, "seed": seed}
    with asyncio.Runner() as runner, count_bar("asking") as progress:
        try:
            before = Version.of(VLMAnnotator(vlm, old, **options), old, runner)
            if propose:
                proposed = propose_rules(
                    opened,
                    gold_rows,
                    old,
                    before,
                    lambda question: runner.run(ask_for(vlm, question)),
                    annotator=annotator,
                    folder=folder,
                    tags=tags,
                    progress=progress,
                )
                changed = [name for name, words in proposed.guidance.items() if words != old.guidance[name]]
                write_text(proposed.to_yaml(), rules)
                log("read and correct them, then run the same command without --propose.")
                data = {"rules": str(rules), "version": proposed.version, "tags": changed}
                text = f"rules {proposed.version!r} proposed for {', '.join(changed) or 'no tag'}: {rules}"
                print_result(data, text, as_json=as_json)
                return
            after = Version.of(VLMAnnotator(vlm, new, **options), new, runner)
            decision = run(
                opened,
                gold_rows,
                before,
                after,
                annotator=annotator,
                gold_name=gold,
                folder=folder,
                progress=progress,
            )
        finally:
            runner.run(vlm.close())
    print_result(_data(decision), _text(decision), as_json=as_json)
    if not decision.adopted:
        raise TagMoEError(
            f"The rules {new.version!r} are not adopted: {', '.join(decision.reasons)}; see {str(decision.file)!r}."
        )
    log(f"annotate the rest by them: tagmoe data annotate {store} --rules {rules} --name {annotator} ...")


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {str(path)!r} cannot be made ({error.strerror}).") from error
    return path


def _data(decision: Decision) -> dict[str, Any]:
    comparison = decision.comparison
    figures = {
        "micro_f1": comparison.micro_f1,
        "macro_f1": comparison.macro_f1,
        "inverse_consistency": comparison.inverse,
    }
    return {
        "adopted": decision.adopted,
        "reasons": decision.reasons,
        "decision": str(decision.file),
        "gold_rows": comparison.rows,
        "inverse_pairs": comparison.pairs,
        "asked": decision.asked,
        "reused": decision.reused,
        **{name: {"before": one.before, "after": one.after} for name, one in figures.items()},
    }


def _text(decision: Decision) -> str:
    comparison = decision.comparison
    lines = [
        f"{counted(comparison.rows, 'gold row')}, {counted(comparison.pairs, 'inverse pair')}; "
        f"{counted(decision.asked, 'row')} asked by the new rules, "
        f"{decision.reused} known",
        f"{'':26}{'before':>8}{'after':>8}  difference",
    ]
    named = (("gold F1, all tags", comparison.micro_f1), ("gold F1, mean of tags", comparison.macro_f1))
    for name, change in (*named, ("inverse-consistency", comparison.inverse)):
        lines.append(f"  {name:<24}{_change(change)}")
    for tag, (before, after) in sorted(comparison.tags.items(), key=lambda item: item[1][1] - item[1][0]):
        if before != after:
            lines.append(f"    {tag:<22}{before:>8.3f}{after:>8.3f}  {after - before:+.3f}")
    return "\n".join([*lines, f"{'adopted' if decision.adopted else 'refused'}: {decision.file}"])


def _change(change: Change) -> str:
    if change.before is None or change.after is None or change.difference.value is None:
        return f"{'-':>8}{'-':>8}"
    difference = change.difference
    bounds = f" ({difference.low:+.3f} to {difference.high:+.3f})" if difference.has_interval else ""
    return f"{change.before:>8.3f}{change.after:>8.3f}  {difference.value:+.3f}{bounds}"
