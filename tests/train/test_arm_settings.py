"""What the arms of the ablation switch: dense runs, a given base, shared caches, task families, wrong tags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import ConfigError, MissingError, TrainingError
from tagmoe.model.upcycle import upcycle
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.components_folder import read_components
from tagmoe.train.recipe import assemble, dense_transformer
from tagmoe.train.stage import FlowStage, aligned_tags
from tagmoe.train.stream import EDITING, EncodedSamples
from tagmoe.world import TASKS, mistaken_tags, sample

# base: a picture from text; unified: one more, then an edit
SHORT: dict[str, Any] = {"base": {"steps": 1}, "unified": {"steps": 2}}
Make = Callable[..., RunConfig]
Train = Callable[..., Path]


def dense(config: RunConfig, **changes: Any) -> RunConfig:
    return check_config({**config.model_dump(mode="json"), "moe": None, **changes})


def make_stage(config: RunConfig, folder: Path) -> FlowStage:
    parts = read_components(config.components or "")
    return FlowStage(
        "unified", assemble(dense_transformer(config, parts), parts), config.unified, config.loss, config.optimizer,
        seed=0, cache=folder, validator=lambda *_: {},
    )  # fmt: skip


def weights(model: Path) -> dict[str, Tensor]:
    return load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_a_dense_run_trains_all_stages_and_has_no_mixture(config: Make, run_training: Train) -> None:
    model = run_training(dense(config(**SHORT)))
    pipeline = TagMoEPipeline.from_pretrained(model)
    assert pipeline.transformer.config.num_moe_blocks == 0
    assert not any(".experts." in name for name in weights(model))
    assert not (model / "alignment.safetensors").exists()


@pytest.mark.slow
def test_arms_start_from_the_given_base_exactly(config: Make, run_training: Train, tmp_path: Path) -> None:
    base = run_training(dense(config("base", base={"steps": 1}, unified={"steps": 0})))
    start = {**config("arm", base={"steps": 0}, unified={"steps": 0}).model_dump(mode="json"), "dense": str(base)}
    arm = run_training(check_config(start))
    again = run_training(check_config({**start, "output_dir": str(tmp_path / "again"), "moe": None}))
    before, mixture, untouched = weights(base), weights(arm), weights(again)
    assert all(torch.equal(untouched[name], value) for name, value in before.items())
    shared = [name for name in before if name in mixture]
    assert len(shared) > 20
    assert all(torch.equal(mixture[name], before[name]) for name in shared)


def test_a_base_that_is_missing_or_of_another_size_is_refused(config: Make, run_training: Train) -> None:
    plain = config(base={"steps": 0}).model_dump(mode="json")
    with pytest.raises(MissingError, match="no model folder 'nowhere'"):
        run_training(check_config({**plain, "dense": "nowhere"}))
    other = run_training(dense(config("other", base={"steps": 0}, unified={"steps": 0}, transformer={"num_layers": 1})))
    with pytest.raises(ConfigError, match="num_layers is 1, but this run needs 2"):
        run_training(check_config({**plain, "dense": str(other)}))
    sparse = run_training(config("sparse", base={"steps": 0}, unified={"steps": 0}))
    with pytest.raises(ConfigError, match="num_moe_blocks is 1, but this run needs 0"):
        run_training(check_config({**plain, "dense": str(sparse)}))


def test_a_base_to_train_and_one_that_is_given_exclude_each_other(config: Make) -> None:
    with pytest.raises(ConfigError, match=r"'dense' names .* but 'base\.steps' is 6"):
        check_config({**config().model_dump(mode="json"), "dense": "somewhere"})


@pytest.mark.slow
def test_a_shared_cache_stays_is_used_again_and_changes_no_weight(
    config: Make, run_training: Train, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    own = weights(run_training(config("own", cache_dir=None, **SHORT)))
    first, second = (
        run_training(check_config({**config(name, **SHORT).model_dump(mode="json"), "cache_dir": str(cache)}))
        for name in ("first", "second")
    )
    kept = sorted(cache.iterdir())
    assert len(kept) == 6  # latents, which of them are there, and facts; of both kinds of samples
    for one in (weights(first), weights(second)):
        assert all(torch.equal(one[name], value) for name, value in own.items())
    assert not (tmp_path / "own" / "cache").exists()


@pytest.mark.slow
def test_a_cache_is_lengthened_for_a_longer_run_and_never_emptied(components: str, tmp_path: Path) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components, dtype=torch.float32)
    short, long = (
        EncodedSamples(pipeline, EDITING, batch_size=8, seed=5, unique=unique, folder=tmp_path, name="edit")
        for unique in (64, 256)
    )
    before = short.batch([3], blank=[False]).target_BTC
    assert torch.equal(long.batch([3], blank=[False]).target_BTC, before)
    long.batch([200], blank=[False])
    shorter = EncodedSamples(pipeline, EDITING, batch_size=8, seed=5, unique=64, folder=tmp_path, name="edit")
    assert torch.equal(shorter.batch([3], blank=[False]).target_BTC, before)


def test_a_family_is_trained_on_alone_and_without_generation(config: Make, latents: str) -> None:
    family = ["recolour", "style"]
    stage = make_stage(config(unified={"edit_tasks": family, "text_to_image_every": 0, "batch": 16}), Path(latents))
    tasks = [drawn.task for step in range(6) for drawn in stage.draw(step, 0)[0].samples]
    assert set(tasks) == set(family)
    with pytest.raises(TrainingError, match="none of nonsense"):
        make_stage(config(unified={"edit_tasks": ["nonsense"], "text_to_image_every": 0}), Path(latents)).draw(0, 0)


def test_the_controls_align_to_tags_that_are_wrong(config: Make, latents: str) -> None:
    batch = make_stage(config(unified={"batch": 16}), Path(latents)).draw(1, 0)[0]
    own, shuffled, other = (aligned_tags(batch, kind) for kind in ("own", "shuffled", "other-task"))
    assert torch.equal(own, batch.tags_BK)
    assert torch.equal(shuffled.sum(dim=0), own.sum(dim=0))
    assert torch.equal(shuffled[1:], own[:-1])
    assert not (other == own).all(dim=1).any()


@pytest.mark.slow
def test_the_kind_of_tags_reaches_the_loss(config: Make, latents: str) -> None:
    def alignment(kind: str) -> float:
        settings = config(loss={"align_tags": kind, "lambda_align": 1.0}).model_dump(mode="json")
        checked = check_config(settings)
        parts = read_components(checked.components or "")
        assert checked.moe is not None
        mixture = upcycle(
            dense_transformer(checked, parts), **checked.moe.model_dump(), generator=torch.Generator().manual_seed(0)
        )
        torch.manual_seed(0)
        for name, parameter in mixture.named_parameters():
            if ".gate." in name:  # near-tied gates give every sample one signature, and a shuffle changes no mean
                parameter.data.add_(2 * torch.randn_like(parameter))
        stage = FlowStage(
            "unified", assemble(mixture, parts), checked.unified, checked.loss, checked.optimizer,
            seed=0, cache=Path(latents), validator=lambda *_: {},
        )  # fmt: skip
        return stage.loss(1, 0)[1]["alignment"]

    assert len({alignment(kind) for kind in ("own", "shuffled", "other-task")}) == 3


def test_another_tasks_tags_are_always_the_same_and_never_the_own() -> None:
    seen: dict[tuple[str, bool], set[str]] = {}
    for task in TASKS:
        for index in range(12):
            case = sample(3, index, task=task)
            wrong = mistaken_tags(case)
            assert wrong.tags != case.tags.tags
            seen.setdefault((task, "face preservation" in case.tags.preservation), set()).add(wrong.format())
    assert all(len(found) == 1 for found in seen.values())
    # and tasks are still told apart as well as by their own tags
    assert len({next(iter(found)) for found in seen.values()}) > 10
