"""Write docs/results/packaged.md, docs/results/tagworld.md and the model card from the result files.

    tagmoe demo --cases 24 --seed 1000 --out /path/to/demo && cp /path/to/demo/results.json docs/results/tagworld.json
    tagmoe ablation run recipes/tagworld/ablation --out runs/ablation
    tagmoe ablation interference recipes/tagworld/ablation --out runs/ablation
    tagmoe ablation run recipes/tagworld/ablation --out runs/longer --arms dense,moe,align --set unified.steps=1600
    python tools/write_results.py [runs/ablation] [longer=runs/longer]

A folder of runs is copied to docs/results/ablation first, so that the page can be written again without it. One that
is given a name holds some arms again with other shared settings, and goes to docs/results/ablation/NAME.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from tagmoe.laboratory.ablation.arms import arm_names
from tagmoe.laboratory.ablation.collection import QUANTITIES, Collection, read_collection
from tagmoe.laboratory.ablation.figures import figures, gradient_figure
from tagmoe.laboratory.ablation.report import facts
from tagmoe.laboratory.ablation.table import (
    FLOW,
    INFORMATION,
    LOGGED,
    PAPER_ARMS,
    SUBSETS,
    SUCCESS,
    TAGS,
    phrase,
    summarise,
)
from tagmoe.report.numbers import FILTERS

TOOLS = Path(__file__).parent
DOCS = TOOLS.parent / "docs"
RESULTS = DOCS / "results"
CARD = DOCS.parent / "src" / "tagmoe" / "pipeline" / "tagworld" / "README.md"
ARMS = DOCS.parent / "recipes" / "tagworld" / "ablation"
WRITTEN = "<!-- written by tools/write_results.py -->"
BASELINE, FULL = "moe", "align"
"""What differences are taken to: the mixture alone; for the switches, which change one thing each, the paper's arm."""

COMPARED = (SUCCESS, FLOW, INFORMATION)
GROUPS = {
    "Quality": QUANTITIES,
    "Success by kind of case": SUBSETS,
    "Training and routing": (FLOW.name, INFORMATION.name, *LOGGED, TAGS.name),
}
"""Tables narrow enough for a page."""
PLACES = ("output_dir", "cache_dir", "dense")


def main(folders: list[str]) -> None:
    """Render the results into all three files."""
    known = arm_names(ARMS)
    for name, _, folder in (text.rpartition("=") for text in folders):
        copy_results(read_collection(Path(folder), known=known), RESULTS / "ablation" / name)
        measured = Path(folder) / "interference.json"
        if measured.exists() and not name:
            shutil.copy(measured, RESULTS / "interference.json")
    data = json.loads((RESULTS / "tagworld.json").read_text(encoding="utf-8"))
    (RESULTS / "packaged.md").write_text(f"# The packaged model\n\n{WRITTEN}\n{page(data)}\n", encoding="utf-8")
    text = f"# Results on TagWorld\n\n{WRITTEN}\nThe score of the packaged model is on [its own page](packaged.md).\n"
    if any((RESULTS / "ablation").glob("*.json")):
        main_grid = read_collection(RESULTS / "ablation", known=known)
        text += f"\n## The ablation\n\n{ablation(main_grid, RESULTS)}"
        names = sorted(path.name for path in (RESULTS / "ablation").iterdir() if path.is_dir())
        grids = {name: read_collection(RESULTS / "ablation" / name, known=known) for name in names}
        if grids:
            text += f"\n## Other sizes and lengths\n\n{other_grids(main_grid, grids)}"
    measured = RESULTS / "interference.json"
    if measured.exists():
        text += f"\n## Do tasks interfere?\n\n{interference(json.loads(measured.read_text(encoding='utf-8')))}"
    (RESULTS / "tagworld.md").write_text(text, encoding="utf-8")
    CARD.write_text(card(data), encoding="utf-8")


def copy_results(collection: Collection, folder: Path) -> None:
    """Keep every result as ARM-seed-S.json; results of earlier runs are replaced as a whole, never mixed in."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for result in collection.results():
        result.write(folder / f"{result.arm}-seed-{result.seed}.json")


def ablation(collection: Collection, results: Path) -> str:
    """Markdown of the ablation; its figures are written to the folder ablation beside the page."""
    summary = summarise(collection, BASELINE)
    drawn = figures(summary)
    for name, svg in drawn.items():
        (results / "ablation" / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")
    others = collection.arms.keys() - PAPER_ARMS.keys()
    return template("ablation.md.j2").render(
        **facts(summary),
        figure=lambda name, text: f"![{text}](ablation/{name}.svg)\n" if name in drawn else f"No data: {text}.\n",
        compared=COMPARED,
        fewer=[row for row in summary.rows if row.missing_seeds],
        groups={title: [c for c in summary.columns if c.name in names] for title, names in GROUPS.items()},
        switches=summarise(collection, FULL) if others and FULL in collection.arms else None,
    )


def other_grids(main_grid: Collection, grids: dict[str, Collection]) -> str:
    """Markdown of the same arms under other shared settings, beside those of the ablation."""
    rows = []
    for name, collection in {"the ablation": main_grid, **grids}.items():
        # the same arms and seeds in each grid: what differs is the setting
        arms = [arm for arm in main_grid.arms if all(arm in grid.arms for grid in grids.values())]
        seeds = sorted(set(main_grid.seeds).intersection(*(grid.seeds for grid in grids.values())))
        chosen = replace(collection, arms={a: {s: collection.arms[a][s] for s in seeds} for a in arms}, missing=())
        rows.append((name, changes(main_grid.first.settings, collection.first.settings), summarise(chosen, BASELINE)))
    return template("grids.md.j2").render(
        grids=rows, columns=COMPARED, phrase=phrase, success=SUCCESS, baseline=BASELINE
    )


def changes(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings in which two runs of one arm differ, with the second one's values; places do not count."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        before, after = one.get(key), other.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{prefix}{key}.")
        elif before != after and f"{prefix}{key}" not in PLACES:
            found.append(f"{prefix}{key}={after}")
    return found


def interference(data: dict[str, Any]) -> str:
    """Markdown of `tagmoe ablation interference`; its figure is written to the folder ablation beside the page."""
    svg = gradient_figure(data["gradients"])
    (RESULTS / "ablation" / "gradients.svg").write_text(svg + "\n", encoding="utf-8")
    return template("interference.md.j2").render(**data)


def template(name: str) -> Template:
    """A Markdown template of this folder; a name that it lacks is an error, not a blank."""
    environment = Environment(
        loader=FileSystemLoader(TOOLS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= FILTERS
    return environment.get_template(name)


def page(data: dict[str, Any]) -> str:
    """Markdown: the headline, by task, held out."""
    per_task = data["tasks"][0]["n"]
    low, high = data["success_low"], data["success_high"]
    lines = [
        f"Packaged model, {data['n']} held-out cases ({per_task} of each of {len(data['tasks'])} tasks), "
        f"{data['steps']} steps, guidance {data['cfg']:g}, seed {data['seed']}; judged by the oracle from the pixels.",
        f"`{data['command']}`",
        "",
        f"**Success {data['success']:.3f}** (95 % interval {low:.3f} to {high:.3f}); scene outside the edit unchanged "
        f"**{data['unchanged']:.3f}**; subject {data['subject']:.3f}, face {data['face']:.3f}, "
        f"style {data['style']:.3f}.",
        "",
        "| task | success | unchanged | task | success | unchanged |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        f"{row['task']} | {row['success']:.2f} | {'-' if row['unchanged'] is None else format(row['unchanged'], '.2f')}"
        for row in data["tasks"]
    ]
    half = -(-len(rows) // 2)
    rows += [" | | "] * (2 * half - len(rows))
    lines += [f"| {left} | {right} |" for left, right in zip(rows[:half], rows[half:], strict=True)]
    lines += ["", "| cases | success | n |", "|---|---|---|"]
    lines += [f"| {name} | {share['value']:.3f} | {share['n']} |" for name, share in data["held_out"].items()]
    return "\n".join(lines)


def card(data: dict[str, Any]) -> str:
    """The model card that ships beside the weights."""
    worst = sorted(data["tasks"], key=lambda row: row["success"])[:3]
    card_text = (TOOLS / "model_card.md.j2").read_text(encoding="utf-8")
    tags = json.loads((CARD.parent / "tags_right.json").read_text(encoding="utf-8"))
    return Template(card_text, keep_trailing_newline=True, undefined=StrictUndefined).render(
        **data, worst=worst, tags=tags
    )


if __name__ == "__main__":
    main(sys.argv[1:])
