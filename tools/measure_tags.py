"""How often are the tags right that a TagWorld model's routing predicts? Measured on test cases, kept in its folder.

    python tools/measure_tags.py --cases 24 --seed 1000 [--model FOLDER] [--json FILE] [--dry-run]

It prints the whole score and writes tags_right.json into the model folder, where `tagmoe edit --explain` reads it. The
default is the packaged model's folder in src.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tagmoe.cli.models import load_model, model_name
from tagmoe.evaluate.tagworld import cases
from tagmoe.laboratory.routing.tag_scores import measure, tags_right
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.routing.predicted_tags import Alignment, TagScore


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="pipeline folder; by default the packaged model")
    parser.add_argument("--cases", type=int, default=24, help="cases of each of the 25 tasks")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the score of every tag to this file")
    parser.add_argument("--dry-run", action="store_true", help="leave the model folder as it is")
    options = parser.parse_args()
    folder = options.model or packaged_folder()
    alignment = Alignment.load(folder)
    pipeline = load_model(options.model)
    samples = cases(options.cases, options.seed)
    found = measure(pipeline, alignment, samples, seed=options.seed)
    command = f"python tools/measure_tags.py --cases {options.cases} --seed {options.seed}"
    print(f"{model_name(options.model)}: {command}")
    print(table(found))
    kept = tags_right(found, pipeline, folder, seed=options.seed, command=command)
    print(f"exact sets: 95 % interval {kept.exact_low:.3f} to {kept.exact_high:.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps({"command": command, **found.as_json()}, indent=1) + "\n", encoding="utf-8")
    if not options.dry_run:
        print(kept.save(folder))


def table(found: TagScore) -> str:
    """The score in lines for people."""
    lines = [
        f"{found.n} cases: exact sets {found.exact:.3f}, F1 {found.f1:.3f}",
        f'always "{found.baseline}": exact sets {found.baseline_exact:.3f}, F1 {found.baseline_f1:.3f}',
        f"{'tag':<26}{'cases':>6}{'precision':>11}{'recall':>8}",
    ]
    for tag, counts in found.tags.items():
        precision, recall = ("-" if value is None else f"{value:.2f}" for value in (counts.precision, counts.recall))
        lines.append(f"{tag:<26}{counts.support:>6}{precision:>11}{recall:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
