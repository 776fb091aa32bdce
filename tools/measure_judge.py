"""How often TagWorld's judge accepts each kind of output, right or wrong: the attack table, docs/results/judge.md.

    python tools/measure_judge.py [--cases 250] [--targets 2000] [--seed 31415] [--dry-run]

Kinds and their classes: `tagmoe.laboratory.judge_attacks`. "restored" needs the packaged model's autoencoder. A kind
that seldom applies is tried on further cases until it has LEAST outputs; the page names those that do not reach it.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from tagmoe.cli.models import load_model
from tagmoe.intervals import wilson
from tagmoe.laboratory.judge_attacks import CLASSES, Restore, cases, drawn
from tagmoe.world import Verdict, judge

PAGE = Path(__file__).parents[1] / "docs" / "results" / "judge.md"
LEAST = 200
"""Outputs wanted of each kind."""
MOST = 6000
"""Cases drawn at most for them."""
Judged = dict[str, list[tuple[str, Verdict]]]


def restorer() -> Restore:
    """The packaged model's autoencoder as a function of pictures."""
    vae = load_model(None).vae

    @torch.inference_mode()
    def restore(picture: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(picture.copy()).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
        restored = vae.decode(vae.encode(values).latent_dist.mode()).sample[0, :, 0]
        return ((restored.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()

    return restore


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=250, help="cases to attack by all kinds, the tasks in turn")
    parser.add_argument("--targets", type=int, default=2000, help="further cases whose true targets are judged")
    parser.add_argument("--seed", type=int, default=31415)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    options = parser.parse_args()
    command = f"python tools/measure_judge.py --cases {options.cases} --targets {options.targets} --seed {options.seed}"
    judged: Judged = defaultdict(list)
    for attack in drawn(options.cases, options.seed, restorer(), least=LEAST, most=MOST):
        judged[attack.kind].append((attack.case.task, judge(attack.case, attack.image)))
    right = sum(judge(case, case.target).success for case in cases(options.targets, options.seed + 1))
    text = page(judged, command, f"{right} of {options.targets}")
    print(text)
    if not options.dry_run:
        PAGE.write_text(text, encoding="utf-8")


def page(judged: Judged, command: str, targets: str) -> str:
    """The Markdown page of the table."""
    short = [kind for kind in CLASSES if len(judged[kind]) < LEAST]
    lines = [
        "# Attacks on TagWorld's judge",
        "",
        "<!-- written by tools/measure_judge.py -->",
        f"`{command}`",
        "",
        "Each kind of output was classed for a person and frozen before the judge was mended "
        "([how the judge works](../decisions/judge.md)). Wanted: of each wrong kind at most 2 % accepted, of each "
        f"right kind at most 2 % refused. True targets of further cases of all tasks: {targets} accepted.",
        "",
        "*Success* is the share that the strict judge accepts (95 % interval, Wilson), *edit done* the share that the "
        "older score accepts. *Worst task*: the one with most misjudged outputs of the kind. A kind that applied to "
        f"fewer than {LEAST} of the cases was tried on further ones, in the same order of tasks, up to case {MOST}. "
        f"Kinds that have fewer outputs even so: {', '.join(short) or 'none'}.",
        "",
        "| output | a person calls it | n | success | 95 % interval | edit done | worst task |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in sorted(CLASSES, key=lambda kind: ("right", "partial", "wrong").index(CLASSES[kind])):
        rows = judged[kind]
        share = wilson(sum(v.success for _, v in rows), len(rows))
        low, high = share.bounds
        done = float(np.mean([v.edit_done for _, v in rows]))
        lines.append(
            f"| {kind} | {CLASSES[kind]} | {len(rows)} | {share.value:.3f} | {low:.3f} to {high:.3f} | {done:.3f} "
            f"| {_worst(CLASSES[kind], rows)} |"
        )
    return "\n".join(lines) + "\n"


def _worst(kind: str, rows: list[tuple[str, Verdict]]) -> str:
    if kind == "partial":
        return "-"
    missed = Counter(task for task, verdict in rows if verdict.success != (kind == "right"))
    if not missed:
        return "none"
    task, count = missed.most_common(1)[0]
    return f"{task}: {count} of {sum(one == task for one, _ in rows)}"


if __name__ == "__main__":
    main()
