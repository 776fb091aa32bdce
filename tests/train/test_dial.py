"""The conflict dial in training and in results: targets alone are turned, and what is decoded is canonical."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import ConfigError
from tagmoe.laboratory.ablation.measure import FlowMeter, Plan, edit_cases
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.components_folder import read_components
from tagmoe.train.dial import turned, turned_back
from tagmoe.train.optimizer import make_optimizers
from tagmoe.train.recipe import assemble, dense_transformer, train
from tagmoe.train.stage import FlowStage, tag_readings, tasks_of
from tagmoe.world import judge, sample

Make = Callable[..., RunConfig]
TASKS = ["recolour", "style", "subject", "add"]


def stage(config: RunConfig, folder: Path, conflict: float = 0.0) -> FlowStage:
    parts = read_components(config.components or "")
    return FlowStage(
        "unified", assemble(dense_transformer(config, parts), parts), config.unified, config.loss, config.optimizer,
        seed=0, cache=folder, validator=lambda *_: {}, conflict=conflict,
    )  # fmt: skip


def test_turning_back_restores_and_alpha_zero_touches_nothing() -> None:
    latents = torch.randn(4, 16, 64)
    assert turned(latents, TASKS, 0.0) is latents
    assert turned_back(latents, TASKS, 0.0) is latents
    away = turned(latents, TASKS, 1.0)
    torch.testing.assert_close(turned_back(away, TASKS, 1.0), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(away.norm(dim=-1), latents.norm(dim=-1))
    cosines = torch.nn.functional.cosine_similarity(away, latents, dim=-1).mean(dim=1)
    assert cosines.abs().max() < 0.2
    alone = turned(latents[1:2], TASKS[1:2], 1.0)
    torch.testing.assert_close(alone[0], away[1])


@pytest.mark.slow
def test_only_targets_are_turned(config: Make, tmp_path: Path) -> None:
    settings = config(unified={"batch": 8, "text_to_image_every": 0})
    (plain, noise, t), (other, noise2, t2) = (stage(settings, tmp_path, alpha).draw(1, 0) for alpha in (0.0, 1.0))
    assert torch.equal(noise, noise2)
    assert torch.equal(t, t2)
    for name in ("reference_BTC", "text_BSD", "mask_BS", "tags_BK", "edited_BT"):
        assert torch.equal(getattr(plain, name), getattr(other, name))
    assert torch.equal(turned(plain.target_BTC, tasks_of(plain), 1.0), other.target_BTC)
    assert not torch.allclose(plain.target_BTC, other.target_BTC)


@pytest.mark.slow
def test_the_judge_sees_what_it_would_without_the_dial() -> None:
    pipeline = TagMoEPipeline.from_pretrained(packaged_folder(), dtype=torch.float32)
    drawn = [sample(9, index, split="test", task=task) for index, task in enumerate(TASKS)]
    pixels = torch.from_numpy(np.stack([case.target for case in drawn])).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = pipeline.pack_latents(pipeline.encode_images(pixels))
    found = []
    for latents in (tokens, turned_back(turned(tokens, TASKS, 1.0), TASKS, 1.0)):
        decoded = pipeline.decode(pipeline.unpack_latents(latents, 64, 64))
        images = pipeline.image_processor.postprocess(decoded, output_type="pil")
        found.append([judge(case, image) for case, image in zip(drawn, images, strict=True)])
    assert found[0] == found[1]


@pytest.mark.slow
def test_results_are_turned_back_before_they_are_decoded(components: str) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components, dtype=torch.float32)
    plan = Plan(per_task=1, steps=1, cfg=1.0, tasks=("recolour", "style"))
    plain = edit_cases(pipeline, plan.samples(), plan).images
    dialled = Plan(per_task=1, steps=1, cfg=1.0, tasks=("recolour", "style"), conflict=1.0)
    assert not np.array_equal(edit_cases(pipeline, plan.samples(), dialled).images, plain)
    # a case is edited alike whatever the part it is in
    part = edit_cases(pipeline, plan.samples(), dialled, range(1, 2)).images
    assert np.abs(part[0].astype(int) - edit_cases(pipeline, plan.samples(), dialled).images[1]).max() <= 1


@pytest.mark.slow
def test_the_flow_meter_turns_its_targets(components: str) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components, dtype=torch.float32)
    plain, same, other = (FlowMeter(pipeline, ["recolour"], alpha).samples for alpha in (0.0, 0.0, 1.0))
    assert torch.equal(plain.target_BTC, same.target_BTC)
    assert torch.equal(plain.reference_BTC, other.reference_BTC)
    torch.testing.assert_close(turned(plain.target_BTC, plain.tasks, 1.0), other.target_BTC)


def test_the_tags_names_are_read_by_the_text_encoder(components: str) -> None:
    readings = tag_readings(TagMoEPipeline.from_pretrained(components, dtype=torch.float32))
    assert readings.shape == (18, 32)
    assert len({tuple(row.tolist()) for row in readings}) == 18


@pytest.mark.slow
def test_rates_of_gates_and_experts_change_no_other_weight(config: Make, tmp_path: Path) -> None:
    from tagmoe.model.upcycle import upcycle

    def walked(**rates: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
        settings = config(optimizer=rates)
        parts = read_components(settings.components or "")
        mixture = upcycle(
            dense_transformer(settings, parts), num_moe_blocks=1, generator=torch.Generator().manual_seed(0)
        )
        before = {name: value.clone() for name, value in mixture.named_parameters()}
        optimizers = make_optimizers({"transformer": mixture}, settings.optimizer)
        for name, parameter in mixture.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        for optimizer in optimizers:
            optimizer.step()
        return before, dict(mixture.named_parameters()), sum(len(o.param_groups) for o in optimizers)

    before, plain, groups = walked()
    assert groups == 2  # one an optimizer, as before these settings
    for setting, part in (("gate_rate", ".gate."), ("expert_rate", ".experts.")):
        _, still, _ = walked(**{setting: 0.0})
        for name, value in still.items():
            assert torch.equal(value, before[name] if part in name else plain[name]), name
        _, faster, _ = walked(**{setting: 2.0})
        name = next(name for name in faster if part in name and faster[name].ndim == 2)
        torch.testing.assert_close(faster[name] - before[name], 2 * (plain[name] - before[name]))


@pytest.mark.slow
def test_a_checkpoint_is_written_when_minutes_have_passed(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tagmoe.train import loop, saving

    clock = iter(range(0, 10**6, 61))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    saved: list[int] = []
    real = saving.save_checkpoint

    def noted(folder: Path, step: int, **rest: Any) -> Path:
        saved.append(step)
        return real(folder, step, **rest)

    monkeypatch.setattr(saving, "save_checkpoint", noted)
    settings = config(base={"steps": 0}, save_every=100).model_dump(mode="json") | {"save_minutes": 1.0}
    train(check_config(settings), validator=lambda *_: {})
    assert saved == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conflict": 0.5}, "Generation belongs to no family"),
        ({"moe": {"num_moe_blocks": 1, "router": "family"}}, "'moe.mode' to 'plain'"),
        ({"wide": {"num_blocks": 1}}, "but 'moe' is given; set 'moe' to null"),
        ({"moe": None, "wide": {"num_blocks": 9}}, "cannot have more wide blocks than layers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: Make, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_config(config().model_dump(mode="json") | changes)
