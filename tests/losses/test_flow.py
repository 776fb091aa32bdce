"""Flow matching: the formula by loops, the straight path, and the density of the training times."""

from __future__ import annotations

import pytest
import torch

from tagmoe.losses import flow_loss, interpolate, sample_timesteps, velocity_target

SHAPE = (3, 5, 4)


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def test_interpolate_by_loops_and_at_both_ends() -> None:
    x0, noise = pair()
    t = [0.0, 0.25, 1.0]
    x_t = interpolate(x0, noise, torch.tensor(t))
    for b in range(3):
        for i in range(5):
            for j in range(4):
                expected = (1 - t[b]) * float(x0[b, i, j]) + t[b] * float(noise[b, i, j])
                assert float(x_t[b, i, j]) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[2], noise[2])


def test_velocity_is_the_slope_of_the_path() -> None:
    x0, noise = (tensor.double() for tensor in pair())
    step = (interpolate(x0.float(), noise.float(), torch.full((3,), 0.75)) - x0.float()) / 0.75
    assert torch.allclose(step, velocity_target(x0, noise).float(), atol=1e-5)


def test_interpolate_keeps_the_dtype_but_not_its_rounding_of_t() -> None:
    x0, noise = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.float32)
    t = torch.tensor([0.3337])
    assert interpolate(x0.bfloat16(), noise.bfloat16(), t).dtype == torch.bfloat16
    assert float(interpolate(x0, noise.bfloat16(), t)) == pytest.approx(0.3337)


def test_flow_loss_by_loops() -> None:
    x0, noise = pair()
    prediction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    per_sample = []
    for b in range(3):
        terms = [
            (float(prediction[b, i, j]) - (float(noise[b, i, j]) - float(x0[b, i, j]))) ** 2
            for i in range(5)
            for j in range(4)
        ]
        per_sample.append(sum(terms) / len(terms))
    assert flow_loss(prediction, x0, noise, per_sample=True).tolist() == pytest.approx(per_sample, rel=1e-5)
    assert float(flow_loss(prediction, x0, noise)) == pytest.approx(sum(per_sample) / 3, rel=1e-5)
    assert float(flow_loss(velocity_target(x0, noise), x0, noise)) == 0


def test_token_weights_scale_each_tokens_share() -> None:
    x0, noise = pair()
    prediction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    weight = torch.tensor([[1.0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [4, 0, 1, 2, 0]])
    found = flow_loss(prediction, x0, noise, weight_BT=weight, per_sample=True).tolist()
    for b in range(3):
        terms = [
            float(weight[b, i]) * (float(prediction[b, i, j]) - (float(noise[b, i, j]) - float(x0[b, i, j]))) ** 2
            for i in range(5)
            for j in range(4)
        ]
        assert found[b] == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert found[0] == pytest.approx(float(flow_loss(prediction[:1], x0[:1], noise[:1])), rel=1e-6)


def test_flow_loss_of_bf16_is_accumulated_in_fp32() -> None:
    x0, noise = pair()
    prediction = torch.randn(SHAPE).bfloat16()
    loss = flow_loss(prediction, x0, noise)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(flow_loss(prediction.float(), x0, noise)), rel=1e-6)


@pytest.mark.parametrize("density", ["uniform", "logit-normal"])
def test_times_are_reproducible_and_inside(density: str) -> None:
    draws = [
        sample_timesteps(1000, density=density, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float32
    assert 0 <= float(draws[0].min()) < float(draws[0].max()) <= 1
    assert float(draws[0].mean()) == pytest.approx(0.5, abs=0.03)


def test_shift_moves_each_time_as_the_formula_says() -> None:
    plain = sample_timesteps(50, generator=torch.Generator().manual_seed(2))
    shifted = sample_timesteps(50, shift=3.0, generator=torch.Generator().manual_seed(2))
    for before, after in zip(plain.tolist(), shifted.tolist(), strict=True):
        assert after == pytest.approx(3 * before / (1 + 2 * before), abs=1e-6)
        assert after >= before


def test_shift_may_differ_by_sample() -> None:
    shift = torch.tensor([1.0, 3.0])
    both = sample_timesteps(2, shift=shift, generator=torch.Generator().manual_seed(3))
    for i, value in enumerate(shift.tolist()):
        alone = sample_timesteps(2, shift=value, generator=torch.Generator().manual_seed(3))
        assert float(both[i]) == float(alone[i])


def test_logit_normal_has_the_mean_and_spread_asked_for() -> None:
    t = sample_timesteps(
        20000, density="logit-normal", mean=0.7, std=0.4, generator=torch.Generator().manual_seed(4)
    ).double()
    logits = torch.log(t / (1 - t))
    assert float(logits.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(("arguments", "message"), [({"density": "cosine"}, "'cosine'"), ({"shift": 0.0}, "above 0")])
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_timesteps(2, **arguments)  # type: ignore[arg-type]
