"""Write docs/results/NAME.md: the log of a run, from its metrics and the remarks in docs/results/NAME.txt.

    python tools/draw_training.py tagworld-components runs/tagworld-components
    python tools/draw_training.py tagworld-release runs/tagworld-release

It also writes every 50th step and every validation to docs/results/NAME.jsonl.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"
EVERY = 50
ROWS = 12


def main(name: str, folder: str) -> None:
    """Summarise the run in this folder, stage by stage."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    kept = [r for r in records if r["step"] % EVERY == 0 or any(key.startswith("validation/") for key in r)]
    (RESULTS / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    parts = [(RESULTS / f"{name}.txt").read_text(encoding="utf-8").rstrip()]
    for stage in dict.fromkeys(record["stage"] for record in records):
        parts.append(_stage(stage, [record for record in records if record["stage"] == stage]))
    (RESULTS / f"{name}.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _stage(name: str, records: list[dict[str, Any]]) -> str:
    steps = [record for record in records if "grad_norm" in record]
    scores = {record["step"]: record for record in records if "grad_norm" not in record}
    hours = sum(record["seconds"] for record in steps) / 3600
    terms = [key for key in steps[0] if "/" not in key and key not in ("stage", "step", "seconds", "grad_norm")]
    score_names = sorted({key for record in scores.values() for key in record if key.startswith("validation/")})
    size = max(1, len(steps) // ROWS)
    head = ["steps", *terms, *(key.removeprefix("validation/") for key in score_names)]
    lines = [f"\n## {name}\n", f"{steps[-1]['step']} steps, {hours:.2f} hours of wall time.\n"]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        last = part[-1]["step"]
        near = [scores[step] for step in scores if part[0]["step"] <= step <= last]
        cells = [f"{part[0]['step']}-{last}", *(f"{fmean(r[term] for r in part):.4f}" for term in terms)]
        cells += [f"{near[-1][key]:.3f}" if near and key in near[-1] else "" for key in score_names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
