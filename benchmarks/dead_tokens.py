"""What it saves to leave out the tokens that cannot change a pixel: the last mixture's references, and its text.

It uses one thread and process CPU time. Every round times the same work with all tokens and without the dead ones, in
turn. A figure is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from figures import ALL, LEFT_OUT, Figure, emulates_bf16, report
from train_step import TAGWORLD, WIDE, Size, batch_of, cpu_seconds, dense_model

from tagmoe.config import OptimizerConfig
from tagmoe.losses import Objective
from tagmoe.model.moe import MoE
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle
from tagmoe.pipeline import pipeline as pipeline_module
from tagmoe.pipeline.packaged import example, load_packaged
from tagmoe.train.optimizer import make_optimizers

WARM_UP = 1
INSTRUCTIONS = ("make the person wear sunglasses", "remove the hat", "make the background green")


def paired(label: str, without: Callable[[], Any], whole: Callable[[], Any], rounds: int, wanted: float) -> Figure:
    """The median ratio of CPU times, without the dead tokens to all tokens."""
    seconds: dict[str, list[float]] = {"without": [], "whole": []}
    runs = {"without": without, "whole": whole}
    for turn in range(rounds + WARM_UP):
        for name in list(runs) if turn % 2 else list(runs)[::-1]:
            taken = cpu_seconds(runs[name])
            if turn >= WARM_UP:
                seconds[name].append(taken)
    ratio = statistics.median(a / b for a, b in zip(seconds["without"], seconds["whole"], strict=True))
    took = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    note = f"{took['without']:.0f} ms, with all tokens {took['whole']:.0f} ms"
    return Figure(f"{label}_to_all", ratio, "x", wanted, runs=rounds, note=note)


def expert_rows(model: torch.nn.Module, run: Callable[[], Any]) -> int:
    """How many tokens go through the experts of all mixtures in a run."""
    rows = 0

    def count(module: MoE, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal rows
        live = options.get("live_tokens")
        rows += given[0].shape[0] * (given[0].shape[1] if live is None else live)

    mixtures = [module for module in model.modules() if isinstance(module, MoE)]
    hooks = [mixture.register_forward_pre_hook(count, with_kwargs=True) for mixture in mixtures]
    run()
    for hook in hooks:
        hook.remove()
    return rows


def packaged(seed: int, rounds: int) -> list[Figure]:
    """Edits with the packaged model: tokens, time, and the difference of the latents that they end at."""
    pipeline = load_packaged()
    pipeline.set_progress_bar_config(disable=True)

    def edit(instruction: str = INSTRUCTIONS[0], kind: str = "pil", *, takes: bool = True, number: int = 0) -> Any:
        with patch.object(pipeline_module, "takes_target_only", lambda _model: takes):
            return pipeline(instruction, image=example("person"), seed=seed + number, output_type=kind).images

    rows = [expert_rows(pipeline.transformer, lambda takes=takes: edit(takes=takes)) for takes in (True, False)]
    apart, equal = 0.0, 0
    for number, instruction in enumerate(INSTRUCTIONS):
        ends = [edit(instruction, "latent", takes=takes, number=number) for takes in (True, False)]
        apart = max(apart, float((ends[0] - ends[1]).abs().max()))
        equal += torch.equal(*ends)
    return [
        Figure("packaged_expert_rows_skipped", 1 - rows[0] / rows[1], "share", 0.16, at_least=True),
        Figure(
            "packaged_latents_apart", apart, "latent", 1e-4, runs=len(INSTRUCTIONS), note=f"{equal} equal to the bit"
        ),
        paired("packaged_edit", edit, lambda: edit(takes=False), rounds, 1.0),
    ]


def mixture_of(size: Size, routing_tokens: str) -> TagMoETransformer2DModel:
    """A mixture of this size with gates that choose; the same for every setting."""
    torch.manual_seed(0)
    mixture = upcycle(dense_model(size), num_moe_blocks=size.moe_layers)
    mixture.register_to_config(routing_tokens=routing_tokens)
    with torch.no_grad():
        for name, parameter in mixture.named_parameters():
            if ".gate.proj_out.weight" in name:
                parameter.normal_(std=0.05)
    return mixture.train()


def forwards(size: Size, rounds: int, *, bf16: bool) -> list[Figure]:
    """A forward of an edit."""
    mixture, inputs = mixture_of(size, "all"), batch_of(size)

    def forward(*, target_only: bool) -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return mixture(**inputs, target_only=target_only)

    rows = [expert_rows(mixture, lambda only=only: forward(target_only=only)) for only in (True, False)]
    runs = [lambda only=only: forward(target_only=only) for only in (True, False)]
    return [
        Figure(f"{size.name}_expert_rows_skipped", 1 - rows[0] / rows[1], "share", 0.49, at_least=True),
        paired(f"{size.name}_forward", *runs, rounds, 1.0),
    ]


def training(size: Size, rounds: int, *, bf16: bool = False) -> list[Figure]:
    """A training step by `live` tokens against one by all."""
    steps = [
        train_step(mixture_of(size, kind), size, target_only=kind == "live", bf16=bf16) for kind in ("live", "all")
    ]
    return [paired(f"{size.name}_training_live", *steps, rounds, 1.0)]


def train_step(model: TagMoETransformer2DModel, size: Size, *, target_only: bool, bf16: bool) -> Callable[[], None]:
    """A training step by Eq. (5): forward, loss, backward, optimizer."""
    objective = Objective(4, 64 if size is TAGWORLD else 512)
    optimizers = make_optimizers({"transformer": model, "objective": objective}, OptimizerConfig(name="adamw"))
    inputs, target_tokens = batch_of(size), size.side**2
    x0, noise = (torch.randn(size.batch, target_tokens, 64) for _ in range(2))
    tags = (torch.rand(size.batch, 18) < 0.2).float()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(**inputs, return_routing="stats", target_only=target_only)
            stats = out.routing
            terms = objective(out.sample[:, :target_tokens], x0, noise, tags, stats.mean_probs_LBN, stats.counts_LBN)
        terms.total.backward()
        for one in optimizers:
            one.step()
            one.zero_grad(set_to_none=True)

    return step


def measure(sizes: str, rounds: int, train_rounds: int, seed: int, all: bool) -> Sequence[Figure]:
    """Edits with the packaged model and a model of width 1024, and training steps, with and without the dead tokens."""
    torch.set_num_threads(1)
    figures = []
    if sizes in ("all", "packaged"):
        figures += [*packaged(seed, 3 * rounds), *training(TAGWORLD, rounds)]
    if sizes in ("all", WIDE.name):
        bf16 = all or not emulates_bf16()
        figures += [] if bf16 else [Figure(f"{WIDE.name}_bf16", 0, "measured", note=f"{LEFT_OUT}; fp32 below")]
        if not bf16:
            rounds, train_rounds = min(rounds, 3), min(train_rounds, 2)
        figures += forwards(WIDE, rounds, bf16=bf16)
        figures += training(WIDE, train_rounds, bf16=bf16) if train_rounds else []
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "sizes": {"default": "all", "choices": ["all", "packaged", WIDE.name], "help": "which model"},
            "rounds": {"type": int, "default": 7, "help": "rounds of each comparison; of edits three times as many"},
            "train_rounds": {"type": int, "default": 5, "help": "rounds of training steps of width 1024, 0 for none"},
            "seed": {"type": int, "default": 0, "help": "seed of the edits' noise"},
            "all": ALL,
        },
    )
