"""Write the example results of TagWorld: the packaged model, four anchors, arms of an ablation, without pictures.

    tagmoe ablation run tagworld/ablation --arms dense,moe --seeds 0 --out arms
    python tools/write_example_runs.py [--cases 4] [--seed 1000] [--arms arms] [--out docs/results/evaluation]

Without --arms their results stay as they are. The pictures of the cases and the outputs are drawn again by
`tagmoe eval prepare` and `tagmoe eval generate`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tagmoe.cli import run
from tagmoe.evaluate.answers.anchors import ANCHORS
from tagmoe.evaluate.run_folder import OUTPUTS

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "evaluation"
METRICS = "oracle,target"
ARMS = ("dense", "moe")


def main() -> None:
    """Generate, score, and keep all but the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4, help="cases of each of the 25 tasks")
    parser.add_argument("--seed", type=int, default=1000, help="of the cases and of the noise")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--arms", type=Path, help="folder of `tagmoe ablation run` with dense and moe, seed 0")
    options = parser.parse_args()
    editors = {"packaged": ["--threads", "1"], **{name: ["--editor", name] for name in ANCHORS}}
    if options.arms is not None:
        for arm in ARMS:
            model = str(options.arms / arm / "seed-0" / "run" / "model")
            editors[arm] = ["--threads", "1", "--model", model, "--name", f"{arm} arm, seed 0"]
    with tempfile.TemporaryDirectory() as folder:
        bench, runs = f"{folder}/bench", {name: f"{folder}/{name}" for name in editors}
        seed = ["--seed", str(options.seed)]
        tagmoe("eval", "prepare", "tagworld", "--cases", str(options.cases), *seed, "--out", bench)
        for name, chosen in editors.items():
            tagmoe("eval", "generate", bench, *chosen, *seed, "--out", runs[name])
        tagmoe("eval", "score", bench, *runs.values(), "--metrics", METRICS)
        for name, made in runs.items():
            shutil.rmtree(options.out / name, ignore_errors=True)
            shutil.copytree(made, options.out / name, ignore=shutil.ignore_patterns(OUTPUTS))


def tagmoe(*words: str) -> None:
    """A command, which must succeed."""
    code = run(list(words))
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
