"""Write docs/results/tagworld.md, the README's table and the model card from docs/results/tagworld.json.

tagmoe demo --cases 24 --seed 1000 --out /path/to/demo && cp /path/to/demo/results.json docs/results/tagworld.json
python docs/write_results.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
CARD = DOCS.parent / "src" / "tagmoe" / "packaged" / "tagworld" / "README.md"
START, END = "<!-- results: written by docs/write_results.py -->", "<!-- end of results -->"


def main() -> None:
    """Render the table into both files."""
    data = json.loads((DOCS / "results" / "tagworld.json").read_text(encoding="utf-8"))
    (DOCS / "results" / "tagworld.md").write_text(
        f"# The packaged TagWorld model, scored\n\n{page(data)}\n", encoding="utf-8"
    )
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    README.write_text(f"{before}{START}\n{page(data)}\n{END}{after}", encoding="utf-8")
    CARD.write_text(card(data), encoding="utf-8")


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
    template = (DOCS / "model_card.md.j2").read_text(encoding="utf-8")
    return Template(template, keep_trailing_newline=True, undefined=StrictUndefined).render(**data, worst=worst)


if __name__ == "__main__":
    main()
