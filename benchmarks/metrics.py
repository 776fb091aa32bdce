"""What a learned metric costs beside its backbone: `tagmoe.evaluate.scoring.score` against a plain loop over the model.

    python benchmarks/metrics.py [--json] [--cases 2] [--only clip dino]

The classes and sizes are those of published backbones, the weights random: CLIP ViT-L/14 and DINOv2-B, at 224 pixels.
Both sides decode the same 512x512 PNGs, take batches of the same size, and take turns on cases of their own.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
from figures import Figure, report
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel, Dinov2Config, Dinov2Model

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.prepared_benchmarks import anchor_run
from support.tiny_backbones import tiny_clip, tiny_dino

from tagmoe.evaluate.benchmarks.cases import Case, Manifest, Prepared, digest_of_cases
from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics
from tagmoe.evaluate.run_folder import Run
from tagmoe.evaluate.scoring import score

ROUNDS, SIDE, SEEN, MOST = 5, 512, 224, 1.05
VALUES = {"clip": "clip_target", "dino": "dino_target"}


def clip_folder(folder: Path) -> Path:
    """CLIP ViT-L/14 [openai/clip-vit-large-patch14] with random weights, and the tokenizer of the tests."""
    tiny_clip(folder)
    config = CLIPModel.config_class.from_pretrained(folder)
    config.vision_config.update(
        {
            **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
            **{"image_size": SEEN, "patch_size": 14},
        }
    )
    config.projection_dim = 768
    CLIPModel(config).save_pretrained(folder)
    return prepared_at(folder, SEEN)


def dino_folder(folder: Path) -> Path:
    """DINOv2-B [facebook/dinov2-base] with random weights."""
    tiny_dino(folder)
    Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).save_pretrained(folder)
    return prepared_at(folder, SEEN)


def prepared_at(folder: Path, side: int) -> Path:
    """The folder, whose pictures are prepared at this side."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    processor.size, processor.crop_size = {"shortest_edge": side}, {"height": side, "width": side}
    processor.save_pretrained(folder)
    return folder


FOLDERS = {"clip": clip_folder, "dino": dino_folder}


def bench_of(folder: Path, cases: int) -> Prepared:
    """Cases with a target, as many for each round and each side; they share no picture."""
    folder.mkdir()
    dice = np.random.default_rng(0)
    listed = []
    for number in range(2 * (ROUNDS + 1) * cases):
        low = Image.fromarray(dice.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        low.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        task = f"part {number // cases}"
        listed.append(Case(bench="b", id=f"{number}", task=task, instruction="edit", target=f"{number}.png"))
    tasks = {case.task: cases for case in listed}
    manifest = Manifest(
        benchmark="b", licence="none", made_from="chance", settings={}, cases=len(listed), tasks=tasks,
        digest=digest_of_cases(listed),
    )  # fmt: skip
    return Prepared(folder, manifest, tuple(listed))


def plain(name: str, model: Any, processor: Any, prepared: Prepared, run: Run, task: str, batch: int) -> list[float]:
    """The cosines of the cases of a task, by a plain loop over the model."""
    cases = [case for case in prepared.cases if case.task == task]
    values = []
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        features = []
        for paths in (
            [run.folder / str(run.answers[case.key].file) for case in part],
            [prepared.folder / str(case.target) for case in part],
        ):
            pictures = [Image.open(path).convert("RGB") for path in paths]
            pixels = processor(pictures, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                if name == "clip":
                    found = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
                else:
                    found = model(pixel_values=pixels).last_hidden_state.mean(dim=1)
            features.append(torch.nn.functional.normalize(found, dim=-1))
        values += (features[0] * features[1]).sum(dim=-1).tolist()
    return values


def beside(name: str, folder: Path, cases: int, batch: int) -> list[Figure]:
    """The time of the metric over that of the plain loop, in turn."""
    weights = FOLDERS[name](folder / "weights")
    prepared = bench_of(folder / "bench", cases)
    run = anchor_run(prepared, "shuffled", folder / "run")
    (metric,) = make_metrics([name], LearnedSettings({name: str(weights)}, batch=batch))
    assert isinstance(metric, Learned)
    model, processor = metric.load()[0], metric.load()[-1]
    assert metric.key
    ratios, rates = [], []
    for number in range(-1, ROUNDS):  # the first fills caches
        tasks = [f"part {2 * (number + 1) + one}" for one in (0, 1)]
        seconds = {}
        for side in ("ours", "plain") if number % 2 else ("plain", "ours"):
            started = time.perf_counter()
            if side == "ours":
                scored = score(prepared, run, [metric], tasks=tasks[:1])
            else:
                plain(name, model, processor, prepared, run, tasks[1], batch)
            seconds[side] = time.perf_counter() - started
        ours = [row.values[VALUES[name]] for row in scored.scores[name]]
        if number < 0:
            assert np.allclose(ours, plain(name, model, processor, prepared, run, tasks[0], batch), atol=1e-5)
            continue
        ratios.append(seconds["ours"] / seconds["plain"])
        rates.append(2 * cases / seconds["ours"])
    note = f"{2 * cases} pictures a round, batches of {batch}, {min(ratios):.2f} to {max(ratios):.2f}"
    memory = psutil.Process().memory_info().rss / 1e9
    return [
        Figure(f"{name}_by_plain", statistics.median(ratios), "times", MOST, runs=ROUNDS, note=note),
        Figure(f"{name}_pictures", statistics.median(rates), "1/s", runs=ROUNDS, note=f"resident {memory:.1f} GB"),
    ]


def measure(cases: int, only: Sequence[str] | None) -> list[Figure]:
    """A learned metric against a plain loop over its backbone."""
    figures: list[Figure] = []
    for name in only or FOLDERS:
        with TemporaryDirectory(prefix="tagmoe-metrics-") as folder:
            figures += beside(name, Path(folder), cases, batch=cases)
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "cases": {"type": int, "default": 2, "help": "cases of a round, and the size of a batch"},
            "only": {"nargs": "+", "choices": list(FOLDERS)},
        },
    )
