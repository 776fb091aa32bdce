"""Score the packaged model at three seeds: success, edits done, and the tags read off its routing, by task.

    python tools/measure_packaged.py [--cases 24] [--seeds 1000 90210 424242] [--keep FOLDER] [--dry-run]

Writes docs/results/packaged.json, and tags_right.json of the model's folder (first seed). `tools/write_results.py`
makes the pages of it, `tools/draw_failures.py` the gallery. Edits that are in the folder --keep are judged, not drawn
again. Recomputing what the model saw in training takes three minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import list_seen
import numpy as np
import torch

from tagmoe.cli.models import load_model
from tagmoe.evaluate.tagworld import TagWorldScores, cases, score
from tagmoe.evaluate.tagworld_pipeline import edit
from tagmoe.intervals import wilson
from tagmoe.laboratory.routing.tag_scores import tags_right
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.routing.predicted_tags import Alignment, signature
from tagmoe.routing.predicted_tags import score as score_tags
from tagmoe.train.recipe import versions
from tagmoe.world import Sample, rule_sets

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    """Draw what is not there, judge all, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=24, help="cases of each of the 25 tasks, at each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 90210, 424242])
    parser.add_argument("--keep", type=Path, default=Path("runs/packaged"), help="folder of the edits")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    options = parser.parse_args()
    pipeline, alignment = load_model(None), Alignment.load(packaged_folder())
    command = f"python tools/measure_packaged.py --cases {options.cases} --seeds {' '.join(map(str, options.seeds))}"
    seen = list_seen.seen().scenes
    drawn: list[tuple[Sample, bool, bool, bool]] = []
    seeds = []
    for seed in options.seeds:
        samples = cases(options.cases, seed)
        images, signatures = edits(pipeline, samples, seed, options.keep / f"seed-{seed}-{options.cases}.npz")
        scores = score(samples, list(images))
        predicted = alignment.predict(signatures, candidates=rule_sets())
        tags = score_tags(predicted, [case.tags for case in samples])
        right = [p.descriptor.indices == case.tags.indices for p, case in zip(predicted, samples, strict=True)]
        drawn += [(c, v.success, v.edit_done, t) for c, v, t in zip(samples, scores.verdicts, right, strict=True)]
        seeds.append({"seed": seed, **_seed(scores), "tags": share(right), "tags_f1": tags.f1})
        print(json.dumps(seeds[-1]))
        if seed == options.seeds[0]:
            kept = tags_right(tags, pipeline, packaged_folder(), seed=seed, command=command)
            if not options.dry_run:
                kept.save(packaged_folder())
    found = {
        "command": command,
        "versions": versions(),
        "steps": pipeline.config.default_steps,
        "cfg": pipeline.config.default_cfg,
        "tags_baseline": kept.baseline_exact,
        "seeds": seeds,
        **summary(drawn, seen),
    }
    print(json.dumps({name: found[name] for name in ("success", "edit_done", "tags")}))
    if not options.dry_run:
        (RESULTS / "packaged.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def edits(
    pipeline: TagMoEPipeline, samples: Sequence[Sample], seed: int, path: Path
) -> tuple[np.ndarray, torch.Tensor]:
    """Pictures (cases, 64, 64, 3) uint8 and routing signatures (cases, N), drawn or read."""
    if path.is_file():
        with np.load(path) as file:
            if [*file["instructions"]] == [case.instruction for case in samples]:
                return file["images"], torch.from_numpy(file["signatures"])
    found = edit(pipeline, samples, seed=seed, read=signature, routing="stats")
    images, signatures = np.stack(found.images), torch.stack(found.routing or [])
    path.parent.mkdir(parents=True, exist_ok=True)
    words = np.array([case.instruction for case in samples])
    np.savez_compressed(path, images=images, signatures=signatures.numpy(), instructions=words)
    return images, signatures


def share(outcomes: Sequence[bool]) -> dict[str, float]:
    """A share with its Wilson interval, as plain data."""
    found = wilson(sum(outcomes), len(outcomes))
    return {"value": found.value, "low": found.bounds[0], "high": found.bounds[1], "n": len(outcomes)}


def summary(drawn: Sequence[tuple[Sample, bool, bool, bool]], seen: Collection[int]) -> dict[str, Any]:
    """Shares over all seeds together: of all cases, by task, by what is held out, and of cases with a seen picture.

    seen: keys of all pictures of the training stream.
    """
    names = ("success", "edit_done", "tags")

    def shares(chosen: Sequence[tuple[Sample, bool, bool, bool]]) -> dict[str, Any]:
        return {name: share([row[i + 1] for row in chosen]) for i, name in enumerate(names)}

    def is_seen(case: Sample) -> bool:
        return list_seen.has_seen_picture(case.source_scene, case.target_scene, seen)

    kinds = {
        "seen phrasing": lambda case: not case.held_out_paraphrase,
        "held-out phrasing": lambda case: case.held_out_paraphrase,
        "seen combination": lambda case: not case.held_out_combination,
        "held-out combination": lambda case: case.held_out_combination,
        "both pictures new": lambda case: not is_seen(case),
        "a picture seen in another pair": is_seen,
    }
    return {
        **shares(drawn),
        "tasks": {
            task: {**shares(rows), "seen": sum(is_seen(row[0]) for row in rows)}
            for task in dict.fromkeys(row[0].task for row in drawn)
            for rows in [[row for row in drawn if row[0].task == task]]
        },
        "held_out": {name: share([row[1] for row in drawn if is_of(row[0])]) for name, is_of in kinds.items()},
    }


def _seed(scores: TagWorldScores) -> dict[str, Any]:
    done = [verdict.edit_done for verdict in scores.verdicts]
    means = {name: getattr(scores, name) for name in ("unchanged", "subject", "face", "style")}
    return {"success": share([v.success for v in scores.verdicts]), "edit_done": share(done), **means}


if __name__ == "__main__":
    main()
