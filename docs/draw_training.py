"""Write docs/results/tagworld-release.md: the log of the run that made the packaged model, from its metrics.

    python docs/draw_training.py runs/tagworld-components runs/tagworld-release

Also keeps every 50th step and every validation as docs/results/tagworld-release.jsonl.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parent / "results"
EVERY = 50
ROWS = 12


def main(folders: list[str]) -> None:
    """Summarise the runs in these folders, in their order."""
    records = [
        json.loads(line)
        for folder in folders
        for line in (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    kept = [r for r in records if r["step"] % EVERY == 0 or any(key.startswith("validation/") for key in r)]
    lines = "".join(json.dumps(record) + "\n" for record in kept)
    (RESULTS / "tagworld-release.jsonl").write_text(lines, encoding="utf-8")
    parts = ["# The run behind the packaged model\n", (RESULTS / "tagworld-release.txt").read_text(encoding="utf-8")]
    for stage in dict.fromkeys(record["stage"] for record in records):
        parts.append(_stage(stage, [record for record in records if record["stage"] == stage]))
    (RESULTS / "tagworld-release.md").write_text("\n".join(parts), encoding="utf-8")


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
    main(sys.argv[1:])
