"""Write docs/results/judges.md: judges that err in known ways, their self-test, and what a calibration says of them.

    python tools/write_judge_faults.py [--cases 4] [--seed 1000]

The judges are a real server on loopback that knows TagWorld's truth and errs on purpose: `erring_judges.py` of the
tests. Everything goes the way of any other judge: `tagmoe eval judge` and `tagmoe eval calibrate`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.erring_judges import COMPARING_FAULTS, FAULTS, MODEL, erring_judge, truths_of  # noqa: E402

from tagmoe.cli import run as command  # noqa: E402
from tagmoe.cli.vlm_options import open_vlm  # noqa: E402
from tagmoe.evaluate.benchmarks.cases import read_prepared  # noqa: E402
from tagmoe.evaluate.judging.calibration import Calibration  # noqa: E402
from tagmoe.evaluate.judging.description import read_judge  # noqa: E402
from tagmoe.evaluate.judging.judge import Judge  # noqa: E402
from tagmoe.evaluate.judging.measure import measure, truths  # noqa: E402
from tagmoe.evaluate.judging.self_test import self_test  # noqa: E402
from tagmoe.evaluate.run_folder import read_run  # noqa: E402

OUT = ROOT / "docs" / "results" / "judges.md"
RUNS = ("target", "copy", "shuffled", "black", "packaged")
DOES = {
    "oracle": "says the truth",
    "noisy": "errs in 15 % of its answers",
    "flatterer": "says yes in 85 % of the cases whatever it sees",
    "strict": "says no in half of the cases whatever it sees",
    "blind": "answers by chance",
    "first": "prefers the output that is shown first",
}


def main() -> None:
    """Make the runs, ask each judge, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4, help="cases of each of the 25 tasks")
    parser.add_argument("--seed", type=int, default=1000, help="of the cases and of the noise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seed = ["--seed", str(options.seed)]
        tagmoe("eval", "prepare", "tagworld", "--cases", str(options.cases), *seed, "--out", str(folder / "bench"))
        for run in RUNS:
            chosen = ["--threads", "1"] if run == "packaged" else ["--editor", run]
            tagmoe("eval", "generate", str(folder / "bench"), *chosen, *seed, "--out", str(folder / run))
        tagmoe("eval", "score", str(folder / "bench"), *(str(folder / run) for run in RUNS), "--metrics", "oracle")
        rows = [row(folder, judge, fault) for judge, faults in plan() for fault in faults]
    OUT.write_text(page(rows, options), encoding="utf-8")
    OUT.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def plan() -> list[tuple[str, tuple[str, ...]]]:
    """Which faults each judge is tried with."""
    return [("vllmq", FAULTS), ("viescore", ("oracle", "noisy", "flatterer")), ("preference", COMPARING_FAULTS)]


def row(folder: Path, name: str, fault: str) -> dict[str, Any]:
    """What the self-test and the calibration say of one judge."""
    prepared = read_prepared(folder / "bench")
    runs = [read_run(folder / run, prepared) for run in RUNS]
    # TagWorld's pictures are small: in their own size they say the same, and cost less.
    description = read_judge(name).model_copy(update={"least_pixels": 1})
    with erring_judge(fault, truths_of(description, prepared, runs)) as server:
        judge = Judge(description, open_vlm([server.url], MODEL, concurrency=32, timeout=60))
        proof = asyncio.run(_closed(judge, self_test(judge)))
        out = folder / f"{name}-{fault}"
        found: Calibration = measure(prepared, runs, judge, truths(prepared, runs, None), out)
        shutil.rmtree(out)
    return {"judge": name, "fault": fault, "self_test": proof.as_data(), "calibration": found.as_data()}


async def _closed(judge: Judge, test: Any) -> Any:
    try:
        return await test
    finally:
        await judge.vlm.close()


def page(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The Markdown page."""
    lines = [
        "# Judges that err in known ways",
        "",
        "Each row is a server that knows TagWorld's truth and errs on purpose; it is asked as any judge is. The",
        "self-test says whether it may be used, the calibration how good it is and what its fault is. Intervals: 95 %.",
        f"{options.cases} cases of each task, seed {options.seed}; runs: {', '.join(RUNS)}. Written by",
        "`tools/write_judge_faults.py`.",
        "",
        "| judge | what it does | self-test | right order, % | wrong called right, % | right called wrong, % | found |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        found = one["calibration"]
        lines.append(
            f"| {one['judge']} | {DOES[one['fault']]} | {'passes' if one['self_test']['passed'] else 'fails'} | "
            f"{shown(found['order'])}, {found['order']['pairs']} pairs | {shown(found['wrong_as_right'])} | "
            f"{shown(found['right_as_wrong'])} | {'; '.join(found['faults']) or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def shown(interval: dict[str, Any] | None) -> str:
    """A share with its interval in per cent."""
    if interval is None or interval["value"] is None:
        return "-"
    bounds = "" if interval["low"] is None else f" [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"
    return f"{100 * interval['value']:.1f}{bounds}"


def tagmoe(*words: str) -> None:
    """A command; an exit code of 1 says that some case has no output."""
    if command(list(words)) > 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
