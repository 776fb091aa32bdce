"""How often PhotoWorld's judge believes outputs that are wrong, and the true target: a table in Markdown.

    python tools/measure_photoworld_judge.py GROUNDS CUTOUTS [--components runs/photoworld-components]

With components also the target after their autoencoder, which must be believed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from tagmoe.evaluate.photoworld import cases
from tagmoe.intervals import wilson
from tagmoe.photoworld import TASKS, PhotoWorld, judge
from tagmoe.photoworld.attacks import attacks
from tagmoe.pipeline.pipeline import TagMoEPipeline

RIGHT = ("target", "target after the autoencoder")


def main() -> None:
    """Judge all outputs of held-out cases, and print the shares by kind of output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grounds", type=Path)
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("--components")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--per-task", type=int, default=30)
    given = parser.parse_args()
    world = PhotoWorld(given.grounds, given.cutouts, size=given.size)
    pipeline = None
    if given.components:
        pipeline = TagMoEPipeline.from_pretrained(given.components, dtype=torch.float32)
    believed: dict[str, list[bool]] = {}
    where: dict[str, set[str]] = {}
    for task in TASKS:
        chosen, others = (cases(world, given.per_task, seed, [task]) for seed in (30, 31))
        for case, other in zip(chosen, others, strict=True):
            outputs = {"target": case.target, **attacks(case, other)}
            if pipeline is not None:
                pixels = torch.from_numpy(case.target.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
                back = pipeline.decode(pipeline.encode_images(pixels))[0].clamp(-1, 1)
                outputs["target after the autoencoder"] = ((back.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
            for name, output in outputs.items():
                success = judge(case, np.ascontiguousarray(output)).success
                believed.setdefault(name, []).append(success)
                if success != (name in RIGHT):
                    where.setdefault(name, set()).add(task)
    print("| output | n | believed | tasks in which it is judged wrongly |\n|---|---|---|---|")
    for name, rows in believed.items():
        share = wilson(sum(rows), len(rows))
        bounds = f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
        print(f"| {name} | {len(rows)} | {bounds} | {', '.join(sorted(where.get(name, ()))) or '-'} |")


if __name__ == "__main__":
    main()
