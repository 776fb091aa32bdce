"""Plain experts by hand: the readable loop in values and all gradients; modules are called where they must be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.hooks import apply_layerwise_casting
from diffusers.models.attention import FeedForward
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from tagmoe.model.cpu import experts as plain_experts
from tagmoe.model.experts import experts_loop, experts_sorted
from tagmoe.model.moe import MoE

TOKENS, DIM = plain_experts.CPU_FUSED_ROWS + 37, 24
ROUTES = {
    "balanced": [0.25, 0.25, 0.25, 0.25],
    "skewed": [0.7, 0.2, 0.05, 0.05],
    "one empty": [0.4, 0.0, 0.3, 0.3],
    "all on one": [0.0, 0.0, 1.0, 0.0],
}


def make_experts(dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(
        FeedForward(DIM, dim_out=DIM, activation_fn="gelu-approximate", bias=bias) for _ in range(4)
    ).to(dtype)


def routing(route: str = "balanced", active: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack(
        [torch.multinomial(torch.tensor(ROUTES[route]), active, generator=generator) for _ in range(TOKENS)]
    )


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the experts are run by hand."""
    calls: list[int] = []
    run = plain_experts.run_plain

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(x))
        return run(x, *rest)

    monkeypatch.setattr(plain_experts, "run_plain", counted)
    return calls


def values_and_gradients(run: Callable, experts: nn.ModuleList, ids: torch.Tensor, x: torch.Tensor) -> list:
    weights = torch.linspace(0.25, 1, ids.numel()).view(ids.shape).requires_grad_()
    y = run(x, experts, ids, weights)
    probe = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return [y, *torch.autograd.grad((y.float() * probe).sum(), [x, weights, *experts.parameters()])]


def close(fast: list, slow: list, tolerance: float) -> None:
    """Each tensor within `tolerance` of its own largest value."""
    for index, (a, b) in enumerate(zip(fast, slow, strict=True)):
        assert a.dtype == b.dtype
        assert (a.float() - b.float()).abs().max() <= tolerance * b.float().abs().max() + 1e-12, index


@pytest.mark.slow_but_first
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pointwise", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.02)])
def test_it_equals_the_loop_in_values_and_all_gradients(
    route, bias, pointwise, dtype, tolerance, taken, monkeypatch
) -> None:
    monkeypatch.setattr(plain_experts, "HAS_POINTWISE", pointwise and plain_experts.HAS_POINTWISE)
    experts, ids = make_experts(dtype, bias), routing(route)
    x = torch.randn(TOKENS, DIM, dtype=dtype).requires_grad_()
    fast = values_and_gradients(experts_sorted, experts, ids, x)
    assert len(taken) == 1
    close(fast, values_and_gradients(experts_loop, experts, ids, x), tolerance)
    with torch.no_grad():
        without = experts_sorted(x, experts, ids, torch.ones(TOKENS, 1))
        close([without], [experts_loop(x, experts, ids, torch.ones(TOKENS, 1))], tolerance)
    assert len(taken) == 2


@pytest.mark.parametrize("avx512", [True, False])
def test_with_and_without_avx512_an_edit_is_that_of_the_loop(avx512, taken, monkeypatch) -> None:
    """Without gradients the GELU has another way on a processor that has AVX2 alone."""
    monkeypatch.setattr(plain_experts, "HAS_AVX512", avx512)
    experts, x, weights = make_experts(), torch.randn(TOKENS, DIM), torch.ones(TOKENS, 1)
    with torch.no_grad():
        for route in ROUTES:
            fast = experts_sorted(x, experts, routing(route), weights)
            close([fast], [experts_loop(x, experts, routing(route), weights)], 2e-6)
    assert taken


def test_a_gelu_in_place_is_torchs_at_every_size(monkeypatch) -> None:
    monkeypatch.setattr(plain_experts, "GELU_BLOCK", 64)
    for numbers in (0, 1, 63, 64, 65, 200):
        h = torch.linspace(-12, 12, numbers)
        expected = torch.nn.functional.gelu(h, approximate="tanh")
        torch.testing.assert_close(plain_experts.gelu_(h), expected, rtol=1e-5, atol=2e-6)


def test_top_2_equals_the_loop(taken) -> None:
    experts, x = make_experts(), torch.randn(TOKENS, DIM).requires_grad_()
    ids = routing("skewed", 2)
    close(
        values_and_gradients(experts_sorted, experts, ids, x),
        values_and_gradients(experts_loop, experts, ids, x),
        2e-6,
    )
    assert taken


def test_an_expert_without_tokens_gets_a_zero_gradient_not_none(taken) -> None:
    experts = make_experts()
    y = experts_sorted(torch.randn(TOKENS, DIM), experts, routing("one empty"), torch.ones(TOKENS, 1))
    y.sum().backward()
    assert taken
    for index, expert in enumerate(experts):
        for parameter in expert.parameters():
            assert parameter.grad is not None
            assert (parameter.grad.abs().sum() > 0) == (index != 1)


def test_autocast_of_fp32_weights(taken) -> None:
    experts, ids, x = make_experts(), routing(), torch.randn(TOKENS, DIM).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fast = values_and_gradients(experts_sorted, experts, ids, x)
        slow = values_and_gradients(experts_loop, experts, ids, x)
    assert taken
    assert all(gradient.dtype == torch.float32 for gradient in fast[1:])
    close(fast, slow, 0.02)


@pytest.mark.parametrize("wanted", ["x", "experts"])
def test_only_what_asks_for_a_gradient_gets_one(wanted, taken) -> None:
    experts, ids = make_experts().requires_grad_(wanted == "experts"), routing()
    x = torch.randn(TOKENS, DIM, requires_grad=wanted == "x")
    results = []
    for run in (experts_sorted, experts_loop):
        experts.zero_grad()
        x.grad = None
        run(x, experts, ids, torch.ones(TOKENS, 1)).square().mean().backward()
        results.append([x.grad] if wanted == "x" else [p.grad.clone() for p in experts.parameters()])
        assert (x.grad is None) == (wanted == "experts")
        assert all((p.grad is None) == (wanted == "x") for p in experts.parameters())
    assert taken
    close(*results, 2e-6)


def test_checkpointing_changes_no_gradient(taken) -> None:
    experts, ids, x = make_experts(), routing(), torch.randn(TOKENS, DIM).requires_grad_()

    def checkpointed(*args: Any) -> torch.Tensor:
        return checkpoint(experts_sorted, *args, use_reentrant=False)

    plain = values_and_gradients(experts_sorted, experts, ids, x)
    again = values_and_gradients(checkpointed, experts, ids, x)
    assert len(taken) == 3
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("count", [1, plain_experts.GELU_BLOCK - 1, plain_experts.GELU_BLOCK + 5])
def test_gelu_and_its_slope(dtype, tolerance, count) -> None:
    h = torch.linspace(-12, 12, count, dtype=torch.float64).to(dtype)
    exact = h.double().requires_grad_()
    expected = F.gelu(exact, approximate="tanh")
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    buffer = h.clone()
    activation = plain_experts.gelu_and_slope_(buffer)
    torch.testing.assert_close(activation.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(buffer.double(), slope, rtol=tolerance, atol=2 * tolerance)


def test_gelu_keeps_what_is_not_finite() -> None:
    h = torch.tensor([float("nan"), float("inf"), 1.0])
    activation = plain_experts.gelu_and_slope_(h)
    assert activation[0].isnan()
    assert activation[1] == float("inf")
    assert activation[2].isfinite()


def hooked(expert: FeedForward) -> None:
    expert.net[2].register_forward_hook(lambda *_: None)


def with_lora(expert: FeedForward) -> None:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["proj"], init_lora_weights=False), expert)


def with_casting(expert: FeedForward) -> None:
    apply_layerwise_casting(expert, storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def of_another_class(expert: FeedForward) -> None:
    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    expert.net[2].__class__ = Twice


def with_subclassed_weight(expert: FeedForward) -> None:
    class Packed(nn.Parameter):
        pass

    expert.net[2].weight = Packed(expert.net[2].weight.detach())


def with_erf_gelu(expert: FeedForward) -> None:
    expert.net[0].approximate = "none"


def with_dropout(expert: FeedForward) -> None:
    expert.net[1].p = 1.0


@pytest.mark.parametrize(
    "change",
    [hooked, with_lora, with_casting, of_another_class, with_subclassed_weight, with_erf_gelu, with_dropout],
)
def test_modules_that_do_more_are_called(change, taken) -> None:
    experts, ids, x = make_experts(), routing(), torch.randn(TOKENS, DIM)
    weights = torch.ones(TOKENS, 1)
    plain = experts_sorted(x, experts, ids, weights)
    assert len(taken) == 1
    change(experts[0])
    changed = experts_sorted(x, experts, ids, weights)
    assert len(taken) == 1
    torch.testing.assert_close(changed, experts_loop(x, experts, ids, weights), rtol=1e-5, atol=1e-6)
    if change not in (hooked, with_subclassed_weight):
        assert not torch.allclose(changed, plain, atol=1e-6)


def test_other_dtypes_go_through_the_modules(taken) -> None:
    experts_sorted(torch.randn(TOKENS, DIM).double(), make_experts(torch.float64), routing(), torch.ones(TOKENS, 1))
    assert taken == []


def test_the_probe_finds_the_operator_missing(monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse, raising=False)
    assert not plain_experts._probe_pointwise()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, w, b, *_: F.linear(x, w, b), raising=False)
    assert not plain_experts._probe_pointwise(), "a linear without its GELU is wrong"


class TwoLayers(nn.Module):
    """Two mixtures with something between them that a compiler could fuse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = MoE(DIM), MoE(DIM)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.gate.proj_out.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x))))


@pytest.fixture
def graphs() -> list[Any]:
    torch._dynamo.reset()
    return []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "autocast", "trains"),
    [
        (40, False, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product((40, TOKENS), (False, True), (False, True))
            if case != (40, False, False)
        ),
    ],
)
def test_a_compiled_graph_is_not_broken_at_all(tokens, autocast, trains, graphs) -> None:
    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model, x = TwoLayers(), torch.randn(1, tokens, DIM)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    results = []
    for run in (compiled, model):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(trains):
            y = run(x)
        if trains:
            y.float().square().mean().backward()
        results.append([y, *(p.grad.clone() for p in model.parameters() if trains)])
    close(*results, 0.03 if autocast else 1e-5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(trains):
        compiled(torch.randn(1, tokens, DIM))
    assert len(graphs) == 1, "other counts need no new graph"


@pytest.mark.parametrize("trains", [False, True])
def test_the_operators_keep_their_word_about_shapes(trains) -> None:
    weights = [w.detach().requires_grad_(trains) for w in plain_experts.weights_of(make_experts())]
    args = (torch.randn(TOKENS, DIM).requires_grad_(trains), routing()[:, 0], weights, 4, trains)
    torch.library.opcheck(torch.ops.tagmoe.experts, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_modules_that_must_be_called_still_compile_around_them(graphs) -> None:
    model, x = TwoLayers(), torch.randn(1, 40, DIM)
    for layer in (model.first, model.second):
        with_lora(layer.experts[1])
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(graphs) > 1
