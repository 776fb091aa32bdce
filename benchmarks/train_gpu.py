"""A training step at full size on one GPU, with random weights: tokens a second, FLOP utilisation, memory.

The sizes, what trains and the optimizer are those of a recipe, by default qwen-image/moe-1gpu. Latents, text and tags
are random, and nothing is read or encoded. It takes about four minutes on an 80 GB card:

    python benchmarks/train_gpu.py --json
    python benchmarks/train_gpu.py --tiny --device cpu      # the same code on any machine; its figures say nothing

The utilisation counts forward and backward passes once (what is computed again for activation checkpointing is not
counted), against the dense bf16 peak of the card's data sheet.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from figures import Figure, report
from torch import Tensor, nn

from tagmoe.config import OptimizerConfig, RunConfig, find_recipe, load_config
from tagmoe.losses import Objective, interpolate
from tagmoe.model.recompute import recompute_blocks
from tagmoe.pipeline.memory.plans import PLANS
from tagmoe.pipeline.memory.room import Room
from tagmoe.tags import TAGS
from tagmoe.train.loop import Report, train_step
from tagmoe.train.optimizer import make_optimizers
from tagmoe.train.plan import TrainingPlan, objective, plan_training, transformer_config
from tagmoe.train.plan_shapes import shapes_of
from tagmoe.train.throughput import peak_of
from tagmoe.train.trace import Shapes, meta_transformer
from tagmoe.train.trained import choose_trained, trained_part

TINY = {
    "transformer": {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12]},
    "moe": {"num_moe_blocks": 2, "num_experts": 4, "top_k": 1},
}
STD = 0.02


@dataclass
class RandomStage:
    """Eq. (5) on random latents, as `tagmoe.train.loop.Stage` wants it."""

    transformer: Any
    objective: Objective
    shapes: Shapes
    optimizer: OptimizerConfig
    name: str = "unified"
    steps: int = 0
    accumulate: int = 1
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = {"transformer": trained_part(self.transformer), "objective": self.objective}

    def loss(self, step: int, micro: int) -> tuple[Tensor, Report]:
        """The loss of a batch that the step's number decides."""
        config, shapes, device = self.transformer.config, self.shapes, self.transformer.device
        random = torch.Generator(device).manual_seed(step)
        target = math.prod(shapes.grids[0])

        def normal(*shape: int) -> Tensor:
            return torch.randn(shapes.batch, *shape, device=device, generator=random)

        x0, noise = normal(target, config.in_channels), normal(target, config.in_channels)
        t = torch.rand(shapes.batch, device=device, generator=random)
        tags = (torch.rand(shapes.batch, len(TAGS), device=device, generator=random) < 0.2).float()
        reference = normal(shapes.image_tokens - target, config.in_channels)
        output = self.transformer(
            hidden_states=torch.cat([interpolate(x0, noise, t), reference], dim=1),
            encoder_hidden_states=normal(shapes.text_tokens, config.joint_attention_dim),
            encoder_hidden_states_mask=torch.ones(shapes.batch, shapes.text_tokens, dtype=torch.bool, device=device),
            timestep=t,
            img_shapes=[[(1, *grid) for grid in shapes.grids]] * shapes.batch,
            return_routing="stats",
        )
        terms = self.objective(
            output.sample[:, :target], x0, noise, tags, output.routing.mean_probs_LBN, output.routing.counts_LBN
        )
        return terms.total, {"flow": float(terms.flow.detach())}

    def validate(self, step: int, folder: Path) -> Report:
        """Nothing: there is no picture to look at."""
        return {}


@torch.no_grad()
def random_transformer(config: RunConfig, device: torch.device) -> Any:
    """The transformer of a recipe with random weights: what is frozen in its dtype, what trains in fp32."""
    described = transformer_config(config)
    model = meta_transformer(described).to(torch.bfloat16).to_empty(device=device).train()
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0) if name.endswith("norm.weight") else parameter.normal_(std=STD)
    choose_trained(model, config)
    return model


def timed(stage: RandomStage, optimizers: list[torch.optim.Optimizer], steps: int, precision: str) -> Iterator[float]:
    """Seconds of each step, after two that warm up (and compile)."""
    parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    for step in range(steps + 2):
        started = time.perf_counter()
        train_step(stage, step, optimizers, parameters, precision)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 2:
            yield time.perf_counter() - started


def figures_of(
    label: str, plan: TrainingPlan, seconds: Sequence[float], device: torch.device, peak: float | None
) -> list[Figure]:
    """Of one setting. The peak of a processor that is not in the table gives no utilisation."""
    took, tokens = statistics.median(seconds), plan.shapes.batch * (plan.shapes.image_tokens + plan.shapes.text_tokens)
    flops = plan.flops["forward"] + plan.flops["backward"]
    note = f"{took:.3f} s a step; {flops / 1e12:.1f} TFLOP"
    found = [Figure(f"{label}_tokens_a_second", tokens / took, "tokens/s", runs=len(seconds), note=note)]
    if peak is not None:
        share = flops / took / peak
        found.append(Figure(f"{label}_flop_utilisation", share, "of the peak", 0.33, True, len(seconds), "0.40 wished"))
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated()
        found.append(Figure(f"{label}_peak_memory", used / 1e9, "GB", note=f"planned {plan.device / 1e9:.1f} GB"))
        distance = abs(used / plan.device - 1)
        found.append(Figure(f"{label}_memory_off_the_plan", distance, "of the plan", 0.1))
    return found


def measure(
    recipe: str, size: str, references: int, steps: int, device: str, compile: str, frozen: str, states: str,
    recompute: bool, tiny: bool, seed: int,
) -> Sequence[Figure]:  # fmt: skip
    """A training step at full size on one GPU, with random weights."""
    torch.manual_seed(seed)
    changes = {"frozen_dtype": frozen, "start": "scratch", "components": None, "activation_checkpointing": recompute}
    config = load_config(find_recipe(Path(recipe)))
    config = config.model_copy(update=changes | {"optimizer": config.optimizer.model_copy(update={"states": states})})
    if tiny:
        small = {name: type(getattr(config, name))(**settings) for name, settings in TINY.items()}
        config, size = config.model_copy(update=small), "64x64"
    where = torch.device(device)
    peak = peak_of(torch.cuda.get_device_name(where)) if where.type == "cuda" else None
    width, _, height = size.partition("x")
    shapes = shapes_of(config, (int(width), int(height)), references)
    room = Room(where.type, math.inf, math.inf, PLANS)
    plan = plan_training(config, room, shapes)
    model = random_transformer(config, where)
    if recompute:
        recompute_blocks(model)
    heads = objective(config, transformer_config(config))
    assert isinstance(heads, Objective)
    stage = RandomStage(model, heads.to(where), shapes, config.optimizer)
    optimizers = make_optimizers(stage.modules, config.optimizer)
    found = []
    for compiled in {"off": (False,), "on": (True,), "both": (False, True)}[compile]:
        for block in model.transformer_blocks if compiled else ():
            block.compile()
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = list(timed(stage, optimizers, steps, plan.precision))
        found += figures_of("compiled" if compiled else "eager", plan, seconds, where, peak)
    return found


if __name__ == "__main__":
    report(
        measure,
        {
            "recipe": {"default": "qwen-image/moe-1gpu", "help": "the recipe whose sizes are taken"},
            "size": {"default": "1024x1024", "help": "of the target and of each reference"},
            "references": {"type": int, "default": 1, "help": "pictures beside the target"},
            "steps": {"type": int, "default": 8, "help": "timed steps of each setting"},
            "device": {"default": "cuda", "choices": ["cuda", "cpu"], "help": "where it runs"},
            "compile": {"default": "both", "choices": ["off", "on", "both"], "help": "torch.compile of each block"},
            "frozen": {"default": "bf16", "choices": ["bf16", "fp8"], "help": "dtype of what is frozen"},
            "states": {"default": "fp32", "choices": ["fp32", "bf16", "8bit"], "help": "of the optimizer"},
            "recompute": {"action": "store_true", "help": "activation checkpointing"},
            "tiny": {"action": "store_true", "help": "a tiny model, to try the script"},
            "seed": {"type": int, "default": 0, "help": "seed of the weights"},
        },
    )
