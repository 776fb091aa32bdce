"""Measuring an arm: the same cases and noise for all, L_flow as the loss has it, routing as Eq. 3 has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_training import write_components

from tagmoe.evaluate.tagworld import score
from tagmoe.laboratory.ablation.interference import GRADIENT_SEED, task_gradients
from tagmoe.laboratory.ablation.measure import (
    TIMESTEPS,
    FlowSamples,
    Measured,
    Plan,
    curve_validator,
    described,
    edit_cases,
    judged,
    routed,
)
from tagmoe.losses.flow import interpolate
from tagmoe.model.upcycle import upcycle
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.stream import EDITING
from tagmoe.world import sample
from tagmoe.world.families import FAMILIES

PLAN = Plan(per_task=2, seed=9, steps=2, cfg=1.5, curve_cases=0, tasks=("generate", "recolour", "style"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> TagMoEPipeline:
    folder = write_components(tmp_path_factory.mktemp("measured") / "model")
    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    for parameter in pipeline.transformer.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return pipeline


@pytest.fixture(scope="module")
def sparse(dense: TagMoEPipeline) -> TagMoEPipeline:
    mixture = upcycle(dense.transformer, num_moe_blocks=1, generator=torch.Generator().manual_seed(0))
    for name, parameter in mixture.named_parameters():
        if ".gate." in name:
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    return TagMoEPipeline(**{**dense.components, "transformer": mixture}, **pipeline_options(dense))


def pipeline_options(pipeline: TagMoEPipeline) -> dict[str, Any]:
    names = ("prompt_template", "max_prompt_tokens", "known_words", "default_steps", "default_cfg", "default_size")
    return {name: pipeline.config[name] for name in names}


@pytest.mark.slow
def test_the_flow_of_a_sample_is_the_squared_error_of_its_velocity(dense: TagMoEPipeline) -> None:
    case = PLAN.samples()[2]
    samples = FlowSamples(dense, [case], seed=1)
    t_B = torch.tensor([0.3])
    x0, noise = samples.target_BTC, samples.noise_BTC
    side = round(x0.shape[1] ** 0.5)
    with torch.no_grad():
        predicted = dense.transformer(
            hidden_states=torch.cat([interpolate(x0, noise, t_B), samples.reference_BTC], dim=1),
            encoder_hidden_states=samples.text_BSD, encoder_hidden_states_mask=samples.mask_BS,
            timestep=t_B, img_shapes=[[(1, side, side)] * 2],
        ).sample[:, : x0.shape[1]]  # fmt: skip
        expected = ((predicted - (noise - x0)) ** 2).mean()
        torch.testing.assert_close(samples.loss(dense, t_B, slice(0, 1))[0], expected)


@pytest.mark.slow
def test_the_meter_gives_the_same_twice_and_falls_for_a_better_model(dense: TagMoEPipeline) -> None:
    meter = PLAN.meter(dense)
    first, again = meter(dense), meter(dense)
    assert first == again
    assert first.timesteps == TIMESTEPS
    assert first.samples == 32
    head = dense.transformer.proj_out
    kept = head.weight.data.clone()
    head.weight.data.mul_(20)
    worse = meter(dense)
    head.weight.data.copy_(kept)
    assert np.mean(worse.loss) > np.mean(first.loss)


@pytest.mark.slow
def test_cases_are_edited_alike_for_every_model_and_kept(
    dense: TagMoEPipeline, sparse: TagMoEPipeline, tmp_path: Path
) -> None:
    samples = PLAN.samples()
    plain, mixed = edit_cases(dense, samples, PLAN), edit_cases(sparse, samples, PLAN)
    assert plain.images.shape == mixed.images.shape == (6, 64, 64, 3)
    # exact upcycling: the mixture starts as the dense model, so it must have had the same noise
    assert np.abs(plain.images.astype(int) - mixed.images).mean() < 40
    assert plain.target_CLN is None
    assert mixed.target_CLN is not None
    assert mixed.signature_CN is not None
    np.testing.assert_allclose(mixed.target_CLN.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed.signature_CN.sum(axis=-1), 1, rtol=1e-5)
    mixed.save(tmp_path / "edits.safetensors")
    loaded = Measured.load(tmp_path / "edits.safetensors")
    assert loaded is not None
    assert all(np.array_equal(getattr(loaded, n), getattr(mixed, n)) for n in ("images", "target_CLN", "signature_CN"))


def test_a_half_written_file_of_edits_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "edits.safetensors"
    assert Measured.load(path) is None
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert Measured.load(path) is None


def test_verdicts_are_those_of_the_benchmark() -> None:
    samples = PLAN.samples()
    targets = np.stack([case.target for case in samples])
    verdicts, scores = judged(samples, targets), score(samples, list(targets))
    assert sum(verdicts.success) / len(samples) == scores.success.value == 1
    assert [value is None for value in verdicts.unchanged] == [case.task == "generate" for case in samples]
    assert [value is None for value in verdicts.subject] == [v.subject is None for v in scores.verdicts]
    cases = described(PLAN, samples)
    assert cases.tasks == ("generate",) * 2 + ("recolour",) * 2 + ("style",) * 2


def test_routing_is_read_by_task() -> None:
    samples = PLAN.samples()
    alone = np.eye(4)[[0, 0, 1, 1, 2, 2]][:, None, :]
    same = np.full((6, 1, 4), 0.25)
    routing = routed(samples, Measured(np.zeros(0), np.concatenate([alone, same], axis=1)))
    assert routing is not None
    np.testing.assert_allclose(routing.mutual_information_L, [np.log(3), 0], atol=1e-12)
    assert routing.utilisation["style"] == ((0, 0, 1, 0), (0.25, 0.25, 0.25, 0.25))
    assert routed(samples, Measured(np.zeros(0))) is None


@pytest.mark.slow
def test_validation_on_the_way_reads_flow_and_success(dense: TagMoEPipeline, tmp_path: Path) -> None:
    quick = Plan(per_task=1, steps=1, cfg=1.0, curve_cases=1, tasks=("recolour",))
    scores = curve_validator(quick)(dense, 1, tmp_path)
    assert scores.keys() == {"flow", "success"}
    assert scores["flow"] == pytest.approx(np.mean(quick.meter(dense)(dense).loss))
    assert scores["success"] in (0, 1)


def test_families_part_the_editing_tasks() -> None:
    members = [task for tasks in FAMILIES.values() for task in tasks]
    assert sorted(members) == sorted(EDITING)


def test_task_gradients_leave_the_weights_and_are_symmetric(sparse: TagMoEPipeline, dense: TagMoEPipeline) -> None:
    for pipeline in (dense, sparse):
        before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
        found = task_gradients(pipeline, late_blocks=1, samples=8, tasks=("recolour", "style", "remove"))
        assert found.cosine_KK.shape == (3, 3)
        np.testing.assert_allclose(found.cosine_KK, found.cosine_KK.T)
        assert np.abs(found.cosine_KK).max() <= 1 + 1e-5
        assert 0 <= found.conflict() <= 1
        assert found.mean() == pytest.approx(np.mean(found.cosine_KK[[0, 0, 1], [1, 2, 2]]))
        assert found.reliability() == pytest.approx(np.mean(np.diag(found.cosine_KK)))
        assert all(torch.equal(before[name], value) for name, value in pipeline.transformer.state_dict().items())
        assert all(parameter.grad is None for parameter in pipeline.transformer.parameters())


@pytest.mark.slow
def test_a_cosine_is_that_of_the_gradients_that_backward_gives(dense: TagMoEPipeline) -> None:
    found = task_gradients(dense, late_blocks=1, samples=4, tasks=("recolour", "style"))
    block = dense.transformer.transformer_blocks[-1].img_mlp
    matrices = [parameter for parameter in block.parameters() if parameter.ndim == 2]
    vectors = []
    for number, task in enumerate(("recolour", "style")):
        drawn = [sample(GRADIENT_SEED, number + 2 * i, task=task) for i in range(4)]
        batch = FlowSamples(dense, drawn, seed=GRADIENT_SEED + number)
        order = torch.randperm(4, generator=torch.Generator().manual_seed(number))
        t_B = torch.tensor([0.125, 0.375, 0.625, 0.875])[order]
        for half in (slice(0, 2), slice(2, 4)):
            dense.transformer.zero_grad()
            batch.loss(dense, t_B, half).mean().backward()
            vectors.append(torch.cat([parameter.grad.flatten() for parameter in matrices]))
    dense.transformer.zero_grad(set_to_none=True)
    one, two, three, four = vectors
    cosine = torch.nn.functional.cosine_similarity
    assert found.cosine_KK[0, 0] == pytest.approx(float(cosine(one, two, dim=0)), abs=1e-5)
    expected = (float(cosine(one, four, dim=0)) + float(cosine(three, two, dim=0))) / 2
    assert found.cosine_KK[0, 1] == pytest.approx(expected, abs=1e-5)
