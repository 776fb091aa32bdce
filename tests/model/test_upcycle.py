"""Upcycling: exact is exact, plain is the authors' scale, and nothing of the dense model is lost."""

from __future__ import annotations

import pytest
import torch

from tagmoe.errors import ConfigError
from tagmoe.model.moe import MoE
from tagmoe.model.upcycle import drift, upcycle


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("num_experts", "top_k"), [(2, 1), (4, 1), (4, 2), (4, 4), (5, 3)])
@pytest.mark.parametrize("gate", ["mlp", "linear"])
def test_exact_equals_the_dense_model(dense, num_experts, top_k, gate):
    moe = upcycle(dense, num_moe_blocks=3, num_experts=num_experts, top_k=top_k, gate=gate, generator=seeded())
    assert drift(dense, moe) < 1e-5


def test_a_plain_mixture_starts_at_top_k_over_n_of_its_ffn(dense):
    moe = upcycle(dense, num_moe_blocks=2, mode="plain", generator=seeded())
    assert drift(dense, moe) > 1e-2
    x = torch.randn(1, 6, 32)
    torch.testing.assert_close(
        moe.transformer_blocks[-1].img_mlp(x), dense.transformer_blocks[-1].img_mlp(x) / 4, rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_tokens_spread_over_the_experts_at_step_0(dense, inputs):
    moe = upcycle(dense, num_moe_blocks=2, generator=seeded())
    counts = moe(**inputs, return_routing="stats").routing.counts_LBN.sum(1)
    assert ((counts > 0).sum(-1) >= 2).all()


def test_dense_weights_stay_and_experts_copy_them(dense):
    moe = upcycle(dense, num_moe_blocks=1, generator=seeded())
    state = dense.state_dict()
    kept = {name: value for name, value in moe.state_dict().items() if ".img_mlp.gate" not in name}
    for name, value in kept.items():
        if ".experts." not in name:
            assert torch.equal(value, state[name]), name
    prefix = "transformer_blocks.3.img_mlp."
    for index in range(4):
        assert torch.equal(kept[f"{prefix}experts.{index}.net.0.proj.weight"], state[f"{prefix}net.0.proj.weight"])
        assert torch.equal(kept[f"{prefix}experts.{index}.net.2.bias"], 4 * state[f"{prefix}net.2.bias"])


def test_noise_makes_the_experts_differ_a_little(dense):
    moe = upcycle(dense, num_moe_blocks=2, noise=0.01, generator=seeded())
    first, second = (moe.transformer_blocks[-1].img_mlp.experts[i].net[2].weight for i in (0, 1))
    assert not torch.equal(first, second)
    assert 0 < drift(dense, moe) < 0.05


def test_the_generator_makes_it_repeatable(dense):
    first, second = (upcycle(dense, num_moe_blocks=2, noise=0.01, generator=seeded()) for _ in range(2))
    other = upcycle(dense, num_moe_blocks=2, noise=0.01, generator=seeded(4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_dtype_follows_the_dense_model(dense):
    moe = upcycle(dense.to(torch.bfloat16), num_moe_blocks=1, generator=seeded())
    assert {parameter.dtype for parameter in moe.parameters()} == {torch.bfloat16}
    assert isinstance(moe.transformer_blocks[-1].img_mlp, MoE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "scaled"}, "'scaled'.*exact, plain"),
        ({"noise": -1.0}, "noise is -1"),
        ({"num_moe_blocks": 9}, "num_moe_blocks is 9"),
    ],
)
def test_impossible_settings_are_named(dense, settings, said):
    with pytest.raises(ConfigError, match=said):
        upcycle(dense, **({"num_moe_blocks": 2} | settings))


@pytest.mark.slow
def test_a_mixture_is_not_upcycled_again(build):
    with pytest.raises(ConfigError, match="already has 2 mixture blocks"):
        upcycle(build(), num_moe_blocks=3)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("num_experts", "top_k"), [(2, 1), (3, 1), (4, 1), (4, 3), (6, 3), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sixteen_bits_that_round_the_scale_are_said(dense, caplog, num_experts, top_k, dtype):
    caplog.set_level("WARNING", logger="tagmoe")  # a command in this process may have quieted it
    mixture = upcycle(dense.to(dtype), num_moe_blocks=1, num_experts=num_experts, top_k=top_k)
    name = f"transformer_blocks.{len(mixture.transformer_blocks) - 1}.img_mlp"
    source = dense.get_submodule(name).net[2].weight
    scaled = mixture.get_submodule(name).experts[0].net[2].weight
    is_exact = torch.equal(scaled.double(), source.double() * num_experts / top_k)
    is_said = any("are scaled by" in text for text in caplog.messages)
    assert is_said == (dtype == torch.bfloat16 and num_experts / top_k not in (2, 4))
    if dtype == torch.bfloat16:
        assert is_exact == (not is_said)
