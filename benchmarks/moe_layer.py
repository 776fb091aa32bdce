"""The mixture layer against one dense FFN of the same activated parameters, and against other implementations.

Every round draws new routing and times every implementation once. A figure is the median over rounds of the ratio
within a round. On a CPU it uses one thread and process CPU time, so that other processes do not disturb it. There the
first round of a case says how many more there is time for; a case without time for three is left out, and named.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
import transformers
from diffusers.models.attention import FeedForward
from figures import ALL, LEFT_OUT, Figure, emulates_bf16, report
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
TRANSFORMERS = ("eager", "grouped_mm", "batched_mm")  # its implementations of experts
ROUTES = {"balanced": (0.25, 0.25, 0.25, 0.25), "skewed": (0.7, 0.2, 0.05, 0.05)}
FORWARD_BOUND = 0.95
# oneDNN compiles a kernel once for each new row count, which takes milliseconds. A run of many steps does not feel
# that, so every implementation first runs on this many routings.
PRIMING = 12
WARM_UP = 1
BUDGET = {"all": 540.0, "small": 180.0}  # seconds, on a CPU, shared by the cases that are still to come
FEWEST, SLOW = 3, 6.0
"""Rounds that make a median; and times the median implementation, from which on one runs so few rounds."""

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
    for name in TRANSFORMERS:
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
    tokens: int,
    dim: int,
    hidden: int,
    rounds: int,
    dtype: torch.dtype,
    route: str,
    device: str,
    backward: bool,
    left: float | None = None,
    pace: dict[bool, float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every implementation by round; also of "dense" and, with a backward, of "limit".
    None where `left`, seconds for all of it, are too few, at once by the `pace` of earlier cases: seconds of a first
    round a number of the products' size, with a backward and without."""
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

    def turn(names: Sequence[str]) -> dict[str, float]:
        ids = torch.multinomial(shares, tokens, replacement=True)[:, None].to(device)
        weights = torch.rand(tokens, 1, device=device).requires_grad_(backward)
        return {name: timed(partial(run, *ways[name], ids, weights), device) for name in names}

    if pace is not None and backward not in pace:
        # The very first round pays for kernels that are made once: by its pace all later cases would be left out.
        turn(list(ways))
    began, size = time.monotonic(), tokens * dim * hidden * len(ways)
    if left is not None and pace and (1 + WARM_UP + FEWEST) * size * pace.get(backward, 0.0) > left:
        return seconds
    first = turn(list(ways))
    # Beside other processes a second of work takes longer.
    took = time.monotonic() - began
    if pace is not None:
        pace[backward] = took / size
    counts, priming = affordable(first, rounds, None if left is None else (left / took - 1) * sum(first.values()))
    for number in range(max(priming.values(), default=0)):
        turn([name for name, count in priming.items() if number < count])
    for number in range(max(counts.values()) + WARM_UP if any(counts.values()) else 0):
        if left is not None and time.monotonic() - began > left and len(seconds["ours"]) >= FEWEST:
            break
        names = [name for name, count in counts.items() if count and number < count + WARM_UP]
        # Rotate the order, so that no implementation always follows the same one.
        at, started = number % len(names), time.monotonic()
        taken = turn(names[at:] + names[:at])
        if pace is not None:
            # The first round pays for kernels that are made once: by its pace later cases would be left out.
            pace[backward] = min(pace[backward], (time.monotonic() - started) / size)
        if number >= WARM_UP:
            for name, value in taken.items():
                seconds[name].append(value)
            if backward:
                seconds["limit"].append(timed(limit, device))
    return seconds


def affordable(first: dict[str, float], rounds: int, left: float | None) -> tuple[dict[str, int], dict[str, int]]:
    """(rounds, priming rounds) of each implementation in so many seconds (None: any), by those of a first round.

    One that is slower than the others by far runs no more than `FEWEST` rounds, or none. All have none where there is
    no time for so many.
    """
    # None of the products of batched_mm depends on the routing.
    primed = first.keys() - {"batched_mm"}
    if left is None:
        return dict.fromkeys(first, rounds), dict.fromkeys(primed, PRIMING)
    slow = {name for name, taken in first.items() if taken > SLOW * statistics.median(first.values())}
    others = sum(taken for name, taken in first.items() if name not in slow)
    for kept in (slow, set[str]()):
        fitting = int((left - (FEWEST + WARM_UP) * sum(first[name] for name in kept)) / others) - WARM_UP
        if fitting >= FEWEST:
            rounds = max(FEWEST, min(rounds, fitting // 2))
            priming = min(PRIMING, fitting - rounds)
            few = {name: FEWEST if name in kept else 0 for name in slow}
            return dict.fromkeys(first, rounds) | few, dict.fromkeys(primed - slow, priming)
    return dict.fromkeys(first, 0), {}


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds that both ran of the ratio of two implementations' times."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=False))


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
    cases = [
        (shape, dtype, route, backward)
        for shape in chosen for dtype in dtypes for route in ROUTES for backward in (True, False)
    ]  # fmt: skip
    end = time.monotonic() + BUDGET[shapes] if device == "cpu" and not all else math.inf
    # A larger case gets more of the time, but not as much more as its arithmetic.
    shares = [math.sqrt(math.prod(shape[:4]) * (3 if backward else 1)) for shape, _, _, backward in cases]
    pace: dict[bool, float] = {}
    for number, (shape, dtype, route, backward) in enumerate(cases):
        tokens, dim, hidden, rounds, balanced_bound, skewed_bound = shape
        label = f"{tokens}x{dim}x{hidden}_{str(dtype)[6:]}_{route}_{'train' if backward else 'infer'}"
        left = None
        if end != math.inf:
            left = (end - time.monotonic()) * shares[number] / sum(shares[number:])
        seconds = measure_shape(tokens, dim, hidden, rounds, dtype, route, device, backward, left, pace)
        if not seconds["ours"]:
            note = "left out: no time for three rounds; --all measures it"
            figures.append(Figure(label, 0, "measured", note=note))
            continue
        bound = balanced_bound if route == "balanced" else skewed_bound
        if not backward and bound is not None and device == "cpu":
            bound = FORWARD_BOUND
        figures += figures_of(label, seconds, bound, backward)
    return figures


def figures_of(label: str, seconds: dict[str, list[float]], bound: float | None, backward: bool) -> list[Figure]:
    """What the seconds of a case say. bound: of ours against the dense FFN."""
    runs = {name: len(taken) for name, taken in seconds.items()}
    note = f"of the dense FFN's {1e3 * statistics.median(seconds['dense']):.1f} ms"
    found = [Figure(f"{label}_to_dense", ratio(seconds, "ours", "dense"), "x", bound, runs=runs["ours"], note=note)]
    if backward:
        value = ratio(seconds, "limit", "ours")
        found.append(Figure(f"{label}_of_limit", value, "x", runs=runs["ours"], note="bare products / ours"))
    for peer in seconds.keys() - {"ours", "dense", "limit"}:
        if not seconds[peer]:
            found.append(Figure(f"{label}_to_{peer}", 0, "measured", note="left out: no time; --all measures it"))
            continue
        by = f"transformers {transformers.__version__}" if peer in TRANSFORMERS else "torch"
        wanted = 1.0 if bound is not None or peer == "batched_mm" else None
        value, note = ratio(seconds, "ours", peer), f"ours / {by} {peer}"
        found.append(Figure(f"{label}_to_{peer}", value, "x", wanted, runs=runs[peer], note=note))
    return found


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
