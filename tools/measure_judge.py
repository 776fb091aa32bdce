"""How often TagWorld's judge accepts each kind of output, right or wrong: the attack table.

    python tools/measure_judge.py --cases 1000 --seed 31415 [--markdown FILE]

Kinds and their classes: `tagmoe.laboratory.judge_attacks`. "restored" needs the packaged model's autoencoder.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from tagmoe.cli.models import load_model
from tagmoe.intervals import wilson
from tagmoe.laboratory.judge_attacks import CLASSES, attacks, cases
from tagmoe.world import judge


def restorer() -> object:
    """The packaged model's autoencoder as a function of pictures."""
    vae = load_model(None).vae

    @torch.inference_mode()
    def restore(picture: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(picture.copy()).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
        restored = vae.decode(vae.encode(values).latent_dist.mode()).sample[0, :, 0]
        return ((restored.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()

    return restore


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=31415)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    rng, restore = np.random.default_rng(options.seed), restorer()
    strict: dict[str, list[bool]] = defaultdict(list)
    done: dict[str, list[bool]] = defaultdict(list)
    for case in cases(options.cases, options.seed):
        for attack in attacks(case, rng, restore):  # type: ignore[arg-type]
            verdict = judge(case, attack.image)
            strict[attack.kind].append(verdict.success)
            done[attack.kind].append(verdict.edit_done)
    lines = ["| output | a person calls it | n | success | 95 % interval | edit done |", "|---|---|---|---|---|---|"]
    for kind in CLASSES:
        share = wilson(sum(strict[kind]), len(strict[kind]))
        low, high = share.bounds
        lines.append(
            f"| {kind} | {CLASSES[kind]} | {len(strict[kind])} | {share.value:.3f} | {low:.3f} to {high:.3f} "
            f"| {np.mean(done[kind]):.3f} |"
        )
    print("\n".join(lines))
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
