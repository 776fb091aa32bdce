"""The model that ships: real classes, small, and as good as the README says (on fewer cases)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tagmoe import TagMoEPipeline, load_packaged
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.evaluate.tagworld_pipeline import edit
from tagmoe.pipeline.packaged import FOLDER
from tagmoe.world import TASKS, judge, sample

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "packaged.json"


@pytest.fixture(scope="module")
def pipeline() -> TagMoEPipeline:
    torch.set_num_threads(1)
    return load_packaged()


def test_the_folder_is_small_and_safe() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


@pytest.mark.slow
def test_it_is_made_of_the_real_classes(pipeline: TagMoEPipeline) -> None:
    names = {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None}
    assert names == {
        "transformer": "TagMoETransformer2DModel",
        "vae": "AutoencoderKLQwenImage",
        "text_encoder": "Qwen2_5_VLForConditionalGeneration",
        "tokenizer": "Qwen2Tokenizer",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    assert pipeline.transformer.config.num_moe_blocks == 3


@pytest.mark.slow
def test_the_oracle_reads_what_the_autoencoder_restores(pipeline: TagMoEPipeline) -> None:
    """The true target, encoded and decoded, still counts as right in 49 of 50 cases."""
    samples = [sample(77, index, split="test") for index in range(50)]
    pixels = torch.from_numpy(np.stack([drawn.target for drawn in samples])).permute(0, 3, 1, 2).float() / 127.5 - 1
    restored = torch.cat([pipeline.decode(pipeline.encode_images(part)) for part in pixels.split(25)])
    images = ((restored.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    verdicts = [judge(drawn, image) for drawn, image in zip(samples, images, strict=True)]
    assert np.mean([verdict.success for verdict in verdicts]) >= 0.98
    assert np.mean([verdict.unchanged for verdict in verdicts]) >= 0.98


def test_the_published_scores_are_those_of_a_full_evaluation_and_good_enough() -> None:
    published = json.loads(RESULTS.read_text())
    assert published["steps"] == 12
    assert published["tasks"].keys() == set(TASKS)
    assert [row["success"]["n"] for row in published["seeds"]] == [600, 600, 600]
    assert min(row["success"]["n"] for row in published["tasks"].values()) >= 60
    assert published["success"]["value"] >= 0.70
    assert published["success"]["value"] <= published["edit_done"]["value"]
    assert min(row["success"]["value"] for row in published["tasks"].values()) >= 0.30
    assert min(row["unchanged"] for row in published["seeds"]) >= 0.90


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_it_edits_as_well_as_the_results_say(pipeline: TagMoEPipeline, every: int) -> None:
    claimed = json.loads(RESULTS.read_text())["success"]["value"]
    samples = cases(1, seed=5)[::every]
    scores = score(samples, edit(pipeline, samples, seed=5).images)
    # few cases: three standard errors below the figure of the README
    error = (claimed * (1 - claimed) / len(samples)) ** 0.5
    assert scores.success.value >= claimed - 3 * error
    assert scores.unchanged is not None
    assert scores.unchanged >= (0.90 if every == 1 else 0.85)


@pytest.mark.slow
def test_copying_the_source_scores_nothing() -> None:
    samples = [case for case in cases(3, seed=5) if case.sources]
    assert score(samples, [case.sources[0] for case in samples]).success.value == 0.0
