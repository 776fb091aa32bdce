"""Where does the signature g (Eq. 3) of a TagWorld model know the task from: by stream of tokens and mixture layer?

    python tools/measure_signature.py --cases 24 --seed 90210 [--model FOLDER] [--markdown FILE] [--json FILE]

It edits test cases and splits the variance of g between tasks into the parts of `tagmoe.routing.streams`. The reference
tokens of the last mixture are called dead: their output is dropped, so they cannot change a pixel. Only cases with
reference pictures are used. The default is the packaged model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tagmoe.cli.models import load_model, model_name
from tagmoe.laboratory.routing.recorder import Drawn, draw, tagworld_cases
from tagmoe.report.numbers import percent
from tagmoe.routing.streams import STREAMS, Streams, image_weights, parts_of, streams
from tagmoe.routing.tables import plain


def main() -> None:
    """Edit the cases, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="pipeline folder; by default the packaged model")
    parser.add_argument("--cases", type=int, default=24, help="cases of each editing task")
    parser.add_argument("--seed", type=int, default=90210)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    pipeline = load_model(options.model)
    cases = [case for case in tagworld_cases(options.cases, options.seed) if case.sources]
    drawn = draw(pipeline, cases, batch=options.batch)
    parts_C2LN, tasks = [], []
    for one in drawn:
        parts_C2LN.append(parts(one))
        tasks.append(str(cases[one.index].facts.task))
    found = streams(np.stack(parts_C2LN), tasks)
    command = f"python tools/measure_signature.py --cases {options.cases} --seed {options.seed}"
    text = f"{model_name(options.model)}, `{command}`, {found.cases} cases of {found.tasks} tasks:\n\n{table(found)}\n"
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json is not None:
        data = {"command": command, "streams": list(STREAMS), **plain(found)}
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def parts(drawn: Drawn) -> np.ndarray:
    """What each stream and layer adds to g of one case, (2, L, N), from the traces of its batch."""
    first = drawn.traces[0]
    weight_LI = image_weights(first.routing_tokens, first.grids, len(first.scores_LBTN))
    images = range(len(first.grids))
    means = [[trace.image(i)[:, drawn.row].mean(dim=(1, 2)).numpy() for i in images] for trace in drawn.traces]
    return parts_of(np.array(means, dtype=np.float64).transpose(0, 2, 1, 3), weight_LI)


def table(found: Streams) -> str:
    """The shares of each part as a Markdown table."""
    lines = [
        "| tokens | mixture layer | weight in g | of its variance between tasks | 95 % interval |",
        "|---|---|---:|---:|---|",
    ]
    layers = found.weight_SL.shape[1]
    for stream, tokens in enumerate(STREAMS):
        for layer in range(layers):
            dead = tokens == "references" and layer + 1 == layers
            place = f"{tokens}{' (dead)' if dead else ''} | {layer + 1}"
            lines.append(row(place, found.weight_SL[stream, layer], *of(found.variance_SL, (stream, layer))))
        lines.append(row(f"{tokens} | all", found.weight_SL[stream].sum(), *of(found.stream_S, (stream,))))
    return "\n".join(lines)


def of(interval: object, place: tuple[int, ...]) -> list[float]:
    """Value, low and high of one entry."""
    return [float(getattr(interval, name)[place]) for name in ("value", "low", "high")]


def row(place: str, weight: float, value: float, low: float, high: float) -> str:
    """One line of the table."""
    return f"| {place} | {percent(weight, 1)} | {percent(value, 1)} | {percent(low, 1)} to {percent(high, 1)} |"


if __name__ == "__main__":
    main()
