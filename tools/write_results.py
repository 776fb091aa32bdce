"""Write docs/results/packaged.md, docs/results/tagworld.md and the model card from the result files.

    python tools/measure_packaged.py
    tagmoe ablation run recipes/tagworld/ablation --out runs/ablation
    tagmoe ablation interference recipes/tagworld/ablation --out runs/ablation
    tagmoe ablation run recipes/tagworld/ablation --out runs/longer --arms dense,moe,align --set unified.steps=1600
    python tools/write_results.py [runs/ablation] [longer=runs/longer]

A folder of runs is first copied to docs/results/ablation, so that the page can be written again without it. NAME=FOLDER
gives runs of some of the arms with other shared settings. They are copied to docs/results/ablation/NAME.
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
"""The reference arm of each difference: the mixture alone or, for switches that change one thing, the paper's arm."""

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
    data = json.loads((RESULTS / "packaged.json").read_text(encoding="utf-8"))
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
    """Copy every result as ARM-seed-S.json. Results of earlier runs are deleted first, so that none are mixed."""
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
    """Markdown that compares the ablation with the same arms under other shared settings."""
    rows = []
    for name, collection in {"the ablation": main_grid, **grids}.items():
        # Only arms and seeds that every grid has, so that nothing but the setting differs.
        arms = [arm for arm in main_grid.arms if all(arm in grid.arms for grid in grids.values())]
        seeds = sorted(set(main_grid.seeds).intersection(*(grid.seeds for grid in grids.values())))
        chosen = replace(collection, arms={a: {s: collection.arms[a][s] for s in seeds} for a in arms}, missing=())
        rows.append((name, changes(main_grid.first.settings, collection.first.settings), summarise(chosen, BASELINE)))
    return template("grids.md.j2").render(
        grids=rows, columns=COMPARED, phrase=phrase, success=SUCCESS, baseline=BASELINE
    )


def changes(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings in which two runs of one arm differ, with the values of the second. Paths are ignored."""
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
    """A Markdown template of this folder. An undefined variable is an error, not a blank."""
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
    """Markdown of the packaged model's score: the headline, the seeds, the tasks, the held-out cases."""
    n, seeds = data["success"]["n"], data["seeds"]
    per_task = data["tasks"]["add"]["success"]["n"] // len(seeds)
    seen = _seen_alone(data)
    head = "| {} | success | edit done | tags read off the routing |"
    columns = ("success", "edit_done", "tags")
    lines = [
        f"Packaged model, {n} test cases: {per_task} of each of {len(data['tasks'])} "
        f"tasks at each of {len(seeds)} seeds; {data['steps']} steps, guidance {data['cfg']:g}; judged by the oracle "
        f"from the pixels. `{data['command']}`",
        "",
        "**Success** is [strict](../decisions/judge.md): the edit is done whole, and all the rest is as it was. *Edit "
        "done* is the older score, for which most of the rest must still be there. *Tags* is the share of cases whose "
        f"predicted tags are all right; the best constant answer is right in {data['tags_baseline']:.1%}. In brackets: "
        "95 % intervals (Wilson). The model was trained on no case's pair of scenes and on no held-out wording "
        f"([how](../decisions/tagworld.md)). In {seen} cases ({seen / n:.0%}) it saw a scene of the pair, or both, in "
        "other pairs; *seen alone* counts these. [How it fails](failures.md).",
        "",
        head.format("seed"),
        "|---|---|---|---|",
        *(f"| {row['seed']} | {' | '.join(interval(row[name]) for name in columns)} |" for row in seeds),
        f"| **all {n}** | {' | '.join(f'**{interval(data[name])}**' for name in columns)} |",
        "",
        "Means over the seeds of what is judged apart from success: "
        + ", ".join(
            f"{text} {sum(row[name] for row in seeds) / len(seeds):.3f}"
            for name, text in (
                ("unchanged", "scene outside the edit unchanged"),
                ("subject", "subject"),
                ("face", "face"),
                ("style", "style"),
            )
        )
        + ".",
        "",
        head.format("task") + " seen alone |",
        "|---|---|---|---|---|",
        *(
            f"| {task} | {' | '.join(interval(row[name]) for name in columns)} "
            f"| {row['seen']} of {row['success']['n']} |"
            for task, row in sorted(data["tasks"].items(), key=lambda item: item[1]["success"]["value"])
        ),
        "",
        "| cases | success | n |",
        "|---|---|---|",
        *(f"| {name} | {interval(share)} | {share['n']} |" for name, share in data["held_out"].items()),
        "",
        "Cases with a seen scene hold fewer things, are more often flat and in daylight, and are of other tasks. So "
        "the last two rows differ in more than what was seen ([with that held equal](../log.md)).",
    ]
    return "\n".join(lines)


def interval(share: dict[str, float]) -> str:
    """A share with its interval: 0.875 [0.690, 0.957]."""
    return f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"


def card(data: dict[str, Any]) -> str:
    """The model card that ships beside the weights."""
    worst = sorted(data["tasks"].items(), key=lambda item: item[1]["success"]["value"])[:3]
    by_tags = sorted(data["tasks"].items(), key=lambda item: item[1]["tags"]["value"])
    card_text = (TOOLS / "model_card.md.j2").read_text(encoding="utf-8")
    return Template(card_text, keep_trailing_newline=True, trim_blocks=True, undefined=StrictUndefined).render(
        **data, worst=worst, by_tags=by_tags, interval=interval, seen=_seen_alone(data)
    )


def _seen_alone(data: dict[str, Any]) -> int:
    """Cases of which the model saw a scene in another pair."""
    return sum(row["seen"] for row in data["tasks"].values())


if __name__ == "__main__":
    main(sys.argv[1:])
