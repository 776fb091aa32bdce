"""The gate and the experts: the fast path is the readable loop, Eq. (1) is what comes out."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from tagmoe.errors import ConfigError
from tagmoe.model.experts import experts_loop, experts_sorted
from tagmoe.model.gate import Gate
from tagmoe.model.moe import MoE


def make_experts(dtype: torch.dtype) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(FeedForward(16, dim_out=16, activation_fn="gelu-approximate") for _ in range(4)).to(dtype)


def routes(kind: str, tokens: int) -> torch.Tensor:
    """Expert ids (tokens, active) of one shape of load."""
    generator = torch.Generator().manual_seed(2)
    if kind == "all on one":
        return torch.full((tokens, 1), 2)
    if kind == "one empty":
        return torch.randint(0, 3, (tokens, 1), generator=generator)
    active = {"top-1": 1, "top-2": 2, "all": 4}[kind]
    return torch.rand(tokens, 4, generator=generator).topk(active).indices


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", ["top-1", "top-2", "all", "all on one", "one empty"])
@pytest.mark.parametrize("tokens", [1, 37, 200])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_sorted_equals_the_loop_in_values_and_all_gradients(kind, tokens, dtype, tolerance):
    experts = make_experts(dtype)
    ids = routes(kind, tokens)
    x = torch.randn(tokens, 16, dtype=dtype, requires_grad=True)
    weights = torch.rand(ids.shape, requires_grad=True)
    probe = torch.randn(tokens, 16, dtype=dtype)
    results = []
    for run in (experts_loop, experts_sorted):
        y = run(x, experts, ids, weights)
        results.append([y, *torch.autograd.grad((y * probe).sum(), [x, weights, *experts.parameters()])])
    for slow, fast in zip(*results, strict=True):
        assert fast.dtype == slow.dtype
        torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_expert_without_tokens_gets_a_zero_gradient_not_none(dtype):
    experts = make_experts(dtype)
    x = torch.randn(30, 16, dtype=dtype)
    experts_sorted(x, experts, routes("all on one", 30), torch.ones(30, 1)).sum().backward()
    for index, expert in enumerate(experts):
        for parameter in expert.parameters():
            assert parameter.grad is not None
            assert (parameter.grad.abs().sum() > 0) == (index == 2)


def test_a_padded_row_changes_nothing_under_bf16_autocast():
    experts = make_experts(torch.float32)
    ids, x = routes("top-1", 100), torch.randn(100, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [run(x, experts, ids, torch.ones(100, 1)) for run in (experts_loop, experts_sorted)]
    grads = [torch.autograd.grad(y.float().square().sum(), [x, *experts.parameters()]) for y in outputs]
    for slow, fast in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0.02, atol=0.02)


def test_sorted_repeats_itself_bit_for_bit():
    experts, ids, x = make_experts(torch.float32), routes("top-2", 90), torch.randn(90, 16, requires_grad=True)
    runs = []
    for _ in range(2):
        y = experts_sorted(x, experts, ids, torch.full((90, 2), 0.5))
        runs.append((y, *torch.autograd.grad(y.square().sum(), [x, *experts.parameters()])))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_gate_scores_are_fp32_probabilities_near_tied_but_not_tied(kind, dtype, autocast):
    torch.manual_seed(0)
    gate = Gate(64, 4, kind).to(dtype)
    x = torch.randn(50, 64, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = gate(x)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.sum(-1), torch.ones(50))
    assert (scores - 0.25).abs().max() < 5e-6
    assert (scores.amax(-1) > scores.amin(-1)).float().mean() > 0.9


def test_autocast_does_not_change_the_gate():
    torch.manual_seed(0)
    gate, x = Gate(64, 4), torch.randn(50, 64)
    nn.init.normal_(gate.proj_out.weight)
    expected = gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gate(x), expected)


def test_linear_gate_is_the_release_one_matrix():
    assert {name: tuple(p.shape) for name, p in Gate(64, 4, "linear").named_parameters()} == {
        "proj_out.weight": (4, 64)
    }


@pytest.mark.parametrize(("top_k", "bias"), [(1, True), (2, True), (1, False)])
def test_moe_is_equation_1(top_k, bias):
    torch.manual_seed(0)
    moe, x = MoE(16, 4, top_k, expert_bias=bias), torch.randn(2, 9, 16)
    nn.init.normal_(moe.gate.proj_out.weight)
    y, scores, ids = moe(x, return_routing=True)
    every = torch.stack([expert(x) for expert in moe.experts], dim=-2)
    chosen = torch.zeros_like(scores).scatter(-1, ids, scores.gather(-1, ids))
    torch.testing.assert_close(y, (every * chosen[..., None]).sum(-2))
    assert ids.shape == (2, 9, top_k)
    assert torch.equal(moe(x), y)
    assert any("bias" in name for name, _ in moe.experts.named_parameters()) == bias


def test_the_diffusion_loss_reaches_the_gate():
    torch.manual_seed(0)
    moe = MoE(16)
    nn.init.normal_(moe.gate.proj_out.weight)
    moe(torch.randn(2, 9, 16)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in moe.gate.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gate": "soft"}, "'soft'.*mlp, linear"),
        ({"top_k": 5}, "top_k is 5.*num_experts = 4"),
        ({"top_k": 0}, "top_k is 0"),
        ({"num_experts": 1}, "1 expert"),
        ({"gate_hidden": 0}, "hidden width is 0"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        MoE(16, **settings)
