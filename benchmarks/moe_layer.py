"""The mixture layer against one dense FFN of the same activated parameters, and against other implementations.

Every round draws new routing and times every implementation once. A figure is the median over rounds of the ratio
within a round. On a CPU it uses one thread and process CPU time, so that other processes do not disturb it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from diffusers.models.attention import FeedForward
from figures import ALL, LEFT_OUT, Figure, emulates_bf16, product_speed, report
from torch import nn
from transformers.integrations.moe import use_experts_implementation

from tagmoe.model.experts import experts_loop, experts_sorted

EXPERTS = 4
# tokens, dim, hidden width, rounds; bound of forward and backward against the dense FFN, balanced and skewed.
# The first shape is there for batched_mm, which copies the weights for every token. It has no bound, because with so
# few tokens every implementation spends its time on overhead.
CPU_SHAPES = (
    (512, 256, 1024, 15, None, None),
    (2048, 256, 1024, 15, 1.08, 1.08),
    (4096, 384, 1536, 9, 1.03, 1.08),
    (4096, 1024, 4096, 5, 1.03, 1.08),
)
GPU_SHAPES = ((4096, 3072, 12288, 11, 1.05, 1.05), (8192, 3072, 12288, 11, 1.05, 1.05))
LARGE_DIM = 1024  # from here on, all experts on all tokens is left out: it does four times the arithmetic
BATCHED_LIMIT = 5e9  # bytes of copied weights
ROUTES = {"balanced": (0.25, 0.25, 0.25, 0.25), "skewed": (0.7, 0.2, 0.05, 0.05)}
FORWARD_BOUND = 0.95
# oneDNN compiles a kernel once for each new row count, which takes milliseconds. A run of many steps does not feel
# that, so every implementation first runs on this many routings.
PRIMING = 12
WARM_UP = 1
BUDGET = 540.0  # seconds

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@use_experts_implementation(has_gate=False, has_bias=True)
class StackedExperts(nn.Module):
    """Experts in transformers' layout. Its decorator picks the implementation; `forward` is its documented `eager`."""

    def __init__(self, config: SimpleNamespace, experts: Sequence[FeedForward]) -> None:
        super().__init__()
        self.num_experts = len(experts)
        for name, layers in (("up_proj", [e.net[0].proj for e in experts]), ("down_proj", [e.net[2] for e in experts])):
            setattr(self, name, nn.Parameter(torch.stack([layer.weight.detach() for layer in layers])))
            setattr(self, f"{name}_bias", nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])))

    def act_fn(self, x: torch.Tensor) -> torch.Tensor:
        """The activation of Qwen-Image's FFN."""
        return F.gelu(x, approximate="tanh")

    def forward(self, x: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        """For each expert that got tokens: gather, two linear layers, weigh, scatter."""
        y = torch.zeros_like(x)
        with torch.no_grad():
            mask = F.one_hot(top_k_index, num_classes=self.num_experts).permute(2, 1, 0)
            hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for (e,) in hit:
            position, token = torch.where(mask[e])
            hidden = self.act_fn(F.linear(x[token], self.up_proj[e], self.up_proj_bias[e]))
            hidden = F.linear(hidden, self.down_proj[e], self.down_proj_bias[e])
            y.index_add_(0, token, (hidden * top_k_weights[token, position, None]).to(y.dtype))
        return y


def mask_loop(experts: nn.ModuleList) -> Way:
    """Loop over experts with boolean masks, as DiT-MoE and diffusers' HiDream do."""

    def way(x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        for index, expert in enumerate(experts):
            y[ids[:, 0] == index] = expert(x[ids[:, 0] == index]).to(y.dtype)
        return y * weights.to(y.dtype)

    return way


def all_experts(experts: nn.ModuleList) -> Way:
    """Run every expert on every token with one-hot weights: no routing work, N times the arithmetic."""

    def way(x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        chosen = torch.zeros(len(x), len(experts), dtype=x.dtype, device=x.device)
        chosen = chosen.scatter(1, ids, weights.to(x.dtype))
        return sum(expert(x) * chosen[:, index, None] for index, expert in enumerate(experts))

    return way


def ways_of(experts: nn.ModuleList, dim: int, hidden: int, tokens: int) -> dict[str, tuple[Way, list[nn.Parameter]]]:
    """Every implementation of these experts, and its parameters.

    `batched_mm` is left out where its copies of the weights do not fit. All experts on all tokens is left out where it
    would take minutes.
    """
    ways: dict[str, tuple[Way, list[nn.Parameter]]] = {
        "ours": (lambda x, ids, w: experts_sorted(x, experts, ids, w), list(experts.parameters())),
        "readable_loop": (lambda x, ids, w: experts_loop(x, experts, ids, w), list(experts.parameters())),
        "mask_loop": (mask_loop(experts), list(experts.parameters())),
    }
    if dim < LARGE_DIM:
        ways["all_experts"] = (all_experts(experts), list(experts.parameters()))
    weight = experts[0].net[2].weight
    needed = 8 * tokens * dim * hidden * weight.element_size()
    for name in ("eager", "grouped_mm", "batched_mm"):
        if name == "batched_mm" and needed > BATCHED_LIMIT:
            print(f"batched_mm would copy {needed / 1e9:.0f} GB at {tokens}x{dim}x{hidden}: left out", file=sys.stderr)
            continue
        stacked = StackedExperts(SimpleNamespace(_experts_implementation=name), experts)
        stacked = stacked.to(weight.device, weight.dtype)
        ways[name] = (stacked, list(stacked.parameters()))
    return ways


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call: CPU time of this process, or wall time of the device."""
    if device == "cpu":
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def bare_products(x: torch.Tensor, dense: FeedForward) -> Callable[[], None]:
    """Only the six matrix products of an FFN's forward and backward: the least time that the layer can take."""
    w1, w2 = dense.net[0].proj.weight.detach(), dense.net[2].weight.detach()
    x = x.detach()
    hidden = x.mm(w1.t())
    out_h, out_x = torch.empty_like(hidden), torch.empty_like(x)
    out_1, out_2 = torch.empty_like(w1), torch.empty_like(w2)

    def run() -> None:
        for a, b, out in (
            (x, w1.t(), out_h), (hidden, w2.t(), out_x), (x.t(), hidden, out_2),
            (x, w2, out_h), (hidden.t(), x, out_1), (hidden, w1, out_x),
        ):  # fmt: skip
            torch.mm(a, b, out=out)

    return run


def measure_shape(
    tokens: int, dim: int, hidden: int, rounds: int, dtype: torch.dtype, route: str, device: str, backward: bool
) -> dict[str, list[float]]:
    """Seconds of every implementation by round; also of "dense" and, with a backward, of "limit"."""
    torch.manual_seed(0)

    def ffn() -> FeedForward:
        layer = FeedForward(dim, dim_out=dim, inner_dim=hidden, activation_fn="gelu-approximate")
        return layer.to(device, dtype)

    dense, experts = ffn(), nn.ModuleList(ffn() for _ in range(EXPERTS))
    ways = ways_of(experts, dim, hidden, tokens)
    ways["dense"] = (lambda x, ids, w: dense(x), list(dense.parameters()))
    x = torch.randn(tokens, dim, device=device).to(dtype).requires_grad_(backward)
    probe = torch.randn(tokens, dim, device=device).to(dtype)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    if backward:
        limit = bare_products(x, dense)
        seconds["limit"] = []

    def run(way: Way, parameters: list[nn.Parameter], ids: torch.Tensor, weights: torch.Tensor) -> None:
        if not backward:
            with torch.no_grad():
                way(x, ids, weights)
            return
        way(x, ids, weights).backward(probe)
        for tensor in (x, weights, *parameters):
            tensor.grad = None

    shares = torch.tensor(ROUTES[route])
    for _ in range(PRIMING):
        ids = torch.multinomial(shares, tokens, replacement=True)[:, None].to(device)
        weights = torch.rand(tokens, 1, device=device).requires_grad_(backward)
        for name, way in ways.items():
            if name != "batched_mm":  # none of its products depends on the routing
                run(*way, ids, weights)
    for turn in range(rounds + WARM_UP):
        ids = torch.multinomial(shares, tokens, replacement=True)[:, None].to(device)
        weights = torch.rand(tokens, 1, device=device).requires_grad_(backward)
        names = list(ways)
        # Rotate the order, so that no implementation always follows the same one.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            way, parameters = ways[name]
            taken = timed(lambda way=way, p=parameters, i=ids, w=weights: run(way, p, i, w), device)
            if turn >= WARM_UP:
                seconds[name].append(taken)
        if backward and turn >= WARM_UP:
            seconds["limit"].append(timed(limit, device))
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over rounds of the ratio of two implementations' times."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def seconds_of(shape: tuple[Any, ...], speed: float) -> float:
    """About how long a shape takes in one dtype. Training is three times a forward pass, and seven implementations (the
    dense FFN and all experts among them) do what ten of them would."""
    tokens, dim, hidden, rounds, *_ = shape
    runs = len(ROUTES) * (3 + 1) * 10 * (rounds + WARM_UP + PRIMING)
    return runs * 4.0 * tokens * dim * hidden / speed


def chosen_shapes(
    shapes: Sequence[Any], dtypes: Sequence[torch.dtype], everything: bool
) -> tuple[list[Any], list[Any]]:
    """(shapes that are measured, those that would take longer than `BUDGET` together)."""
    left, measured, over = BUDGET, [], []
    speeds = [product_speed(dtype) for dtype in dtypes]
    for shape in shapes:
        needed = sum(seconds_of(shape, speed) for speed in speeds)
        if everything or needed <= left:
            measured.append(shape)
            left -= needed
        else:
            over.append(shape)
    return measured, over


def measure(device: str, shapes: str, seed: int, all: bool) -> Sequence[Figure]:
    """Time the mixture layer against one dense FFN and against other implementations."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    chosen = CPU_SHAPES if device == "cpu" else GPU_SHAPES
    if shapes == "small":
        chosen = chosen[:2]
    figures: list[Figure] = []
    dtypes = [torch.bfloat16]
    if device == "cpu":
        dtypes = [torch.float32] if not all and emulates_bf16() else [torch.float32, torch.bfloat16]
        if len(dtypes) == 1:
            figures.append(Figure("bf16", 0, "measured", note=LEFT_OUT))
        chosen, over = chosen_shapes(chosen, dtypes, all)
        for tokens, dim, hidden, *_ in over:
            note = "left out: with the others it takes over 9 minutes; --all measures it"
            figures.append(Figure(f"{tokens}x{dim}x{hidden}", 0, "measured", note=note))
    for tokens, dim, hidden, rounds, balanced_bound, skewed_bound in chosen:
        for dtype in dtypes:
            for route in ROUTES:
                for backward in (True, False):
                    label = f"{tokens}x{dim}x{hidden}_{str(dtype)[6:]}_{route}_{'train' if backward else 'infer'}"
                    seconds = measure_shape(tokens, dim, hidden, rounds, dtype, route, device, backward)
                    bound = balanced_bound if route == "balanced" else skewed_bound
                    if not backward and bound is not None and device == "cpu":
                        bound = FORWARD_BOUND
                    note = f"of the dense FFN's {1e3 * statistics.median(seconds['dense']):.1f} ms"
                    figures.append(
                        Figure(f"{label}_to_dense", ratio(seconds, "ours", "dense"), "x", bound, runs=rounds, note=note)
                    )
                    if backward:
                        value = ratio(seconds, "limit", "ours")
                        figures.append(
                            Figure(f"{label}_of_limit", value, "x", runs=rounds, note="bare products / ours")
                        )
                    for peer in seconds.keys() - {"ours", "dense", "limit"}:
                        value = ratio(seconds, "ours", peer)
                        by = {"eager", "grouped_mm", "batched_mm"} & {
                            peer
                        } and f"transformers {transformers.__version__}"
                        note = f"ours / {by or 'torch'} {peer}"
                        wanted = 1.0 if bound is not None or peer == "batched_mm" else None
                        figures.append(Figure(f"{label}_to_{peer}", value, "x", wanted, runs=rounds, note=note))
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "device": {"default": "cpu", "choices": ["cpu", "cuda"], "help": "where the layer runs"},
            "shapes": {"default": "all", "choices": ["all", "small"], "help": "small: the first two only"},
            "seed": {"type": int, "default": 0, "help": "seed of weights and routing"},
            "all": ALL,
        },
    )
