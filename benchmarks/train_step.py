"""A whole training step of TAG-MoE against diffusers' dense transformer, and the share of gates and losses in it.

It uses one thread and process CPU time. Every round times each model's step once. A figure is the median over rounds of
the ratio within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from figures import ALL, LEFT_OUT, Figure, emulates_bf16, report

from tagmoe.config import OptimizerConfig
from tagmoe.losses import Objective, flow_loss
from tagmoe.model.cpu import experts as plain_experts
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.gate import Gate
from tagmoe.model.moe import choose
from tagmoe.model.routing import router_stats
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle
from tagmoe.train.optimizer import make_optimizers

WARM_UP = 1


@dataclass(frozen=True)
class Size:
    """One size of model and batch. side: the target and its reference have side x side tokens each."""

    name: str
    heads: int
    head_dim: int
    layers: int
    moe_layers: int
    batch: int
    side: int
    text: int
    rounds: int
    precisions: tuple[str, ...]

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def image_tokens(self) -> int:
        return 2 * self.side**2


# The trainer's own size, and a width of 1024 with the paper's share of mixtures, 10 of 60 blocks.
TAGWORLD = Size("tagworld", 4, 32, 6, 3, batch=128, side=4, text=20, rounds=9, precisions=("fp32", "bf16"))
WIDE = Size("d1024", 8, 128, 6, 1, batch=2, side=32, text=64, rounds=5, precisions=("bf16",))


def dense_model(size: Size) -> QwenImageTransformer2DModel:
    """diffusers' transformer of this size."""
    axes = (size.head_dim // 4, size.head_dim * 3 // 8, size.head_dim * 3 // 8)
    return QwenImageTransformer2DModel(
        num_layers=size.layers, attention_head_dim=size.head_dim, num_attention_heads=size.heads,
        joint_attention_dim=size.dim, axes_dims_rope=axes,
    ).train()  # fmt: skip


def batch_of(size: Size) -> dict[str, Any]:
    """Latents, noise, text and tags of one step."""
    grid = (1, size.side, size.side)
    return {
        "hidden_states": torch.randn(size.batch, size.image_tokens, 64),
        "encoder_hidden_states": torch.randn(size.batch, size.text, size.dim),
        "encoder_hidden_states_mask": torch.ones(size.batch, size.text, dtype=torch.bool),
        "timestep": torch.rand(size.batch),
        "img_shapes": [[grid, grid]] * size.batch,
    }


def step_of(
    model: QwenImageTransformer2DModel, objective: Objective | None, size: Size, precision: str, optimizer: str
) -> Callable[[], None]:
    """A training step: forward, loss, backward, optimizer. The loss is Eq. (5) with an objective, else L_flow."""
    modules = {"transformer": model} | ({} if objective is None else {"objective": objective})
    optimizers = make_optimizers(modules, OptimizerConfig(name=optimizer))
    inputs, target_tokens = batch_of(size), size.side**2
    x0, noise = (torch.randn(size.batch, target_tokens, 64) for _ in range(2))
    tags = (torch.rand(size.batch, 18) < 0.2).float()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            if objective is None:
                sample = model(**inputs, return_dict=False)[0][:, :target_tokens]
                loss = flow_loss(sample, x0, noise)
            else:
                sample, routing = model(**inputs, return_dict=False, return_routing="stats")
                terms = objective(
                    sample[:, :target_tokens], x0, noise, tags, routing.mean_probs_LBN, routing.counts_LBN
                )
                loss = terms.total
        loss.backward()
        for one in optimizers:
            one.step()
            one.zero_grad(set_to_none=True)

    return step


def routing_of(size: Size, objective: Objective) -> Callable[[], None]:
    """The routing work of a step without experts: gates, softmax, top-1, sort, statistics, Eq. (2) to (4), L_lbl."""
    gates = [Gate(size.dim, 4) for _ in range(size.moe_layers)]
    x_TD = torch.randn(size.batch * size.image_tokens, size.dim, requires_grad=True)
    tags = (torch.rand(size.batch, 18) < 0.2).float()
    still = torch.zeros(size.batch, 1, 1)
    parameters = [p for module in (*gates, objective) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def run() -> None:
        stats = []
        for gate in gates:
            scores_TN = gate(x_TD)
            weights_TA, ids_TA = choose(scores_TN, 1)
            plain_experts.sort_by_expert(x_TD, ids_TA.reshape(-1), 4)
            shape = (size.batch, size.image_tokens, -1)
            stats.append((*router_stats(scores_TN.view(shape), ids_TA.view(shape)), weights_TA.mean()))
        means, counts, weights = (torch.stack(tensors) for tensors in zip(*stats, strict=True))
        terms = objective(still, still, still, tags, means, counts)
        (terms.total + weights.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        x_TD.grad = None

    return run


def cpu_seconds(run: Callable[[], None]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    run()
    return time.process_time() - started


def measure_size(size: Size, precision: str, optimizer: str) -> list[Figure]:
    """Time the mixture's step against both dense ones, and the share of routing in it."""
    torch.manual_seed(0)
    dense = dense_model(size)
    ours = TagMoETransformer2DModel.from_config(dict(dense.config)).train()
    mixture = upcycle(dense, num_moe_blocks=size.moe_layers).train()
    with torch.no_grad():
        for name, parameter in mixture.named_parameters():
            if ".gate.proj_out.weight" in name:
                parameter.normal_(std=0.05)
    if size is TAGWORLD:  # as the trainer does: its explicit softmax pays for short sequences only
        for model in (ours, mixture):
            model.set_attn_processor(RealRoPEAttnProcessor())
    objective = Objective(4, 64 if size.dim < 512 else 512)
    runs = {
        "diffusers": step_of(dense, None, size, precision, optimizer),
        "mixture": step_of(mixture, objective, size, precision, optimizer),
        "routing": routing_of(size, Objective(4, 64 if size.dim < 512 else 512)),
    }
    if size is TAGWORLD:  # at other sizes this would equal diffusers' own
        runs["dense"] = step_of(ours, None, size, precision, optimizer)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(size.rounds + WARM_UP):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = cpu_seconds(runs[name])
            if turn >= WARM_UP:
                seconds[name].append(taken)

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    label = f"{size.name}_{precision}_{optimizer}"
    took = f"{1e3 * statistics.median(seconds['mixture']):.0f} ms a step"
    figures = [
        Figure(f"{label}_to_{name}", ratio("mixture", name), "x", 1.05, runs=size.rounds, note=note)
        for name, note in (("diffusers", took), ("dense", "our class without mixtures, the same attention"))
        if name in runs
    ]
    note = "gates, softmax, top-1, sort, signature, both losses, their optimizer"
    share = ratio("routing", "mixture")
    return [*figures, Figure(f"{label}_routing_share", share, "x", 0.02, runs=size.rounds, note=note)]


def measure(sizes: str, seed: int, all: bool) -> Sequence[Figure]:
    """Whole training steps with and without mixtures."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    figures = []
    slow = not all and emulates_bf16()
    for size in (TAGWORLD, WIDE):
        if sizes not in ("all", size.name):
            continue
        for precision in ("fp32",) if slow else size.precisions:
            figures += measure_size(replace(size, rounds=3) if slow and size is WIDE else size, precision, "adamw")
        if slow:
            figures.append(Figure(f"{size.name}_bf16", 0, "measured", note=LEFT_OUT))
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "sizes": {"default": "all", "choices": ["all", TAGWORLD.name, WIDE.name], "help": "which size"},
            "seed": {"type": int, "default": 0, "help": "seed of weights and data"},
            "all": ALL,
        },
    )
