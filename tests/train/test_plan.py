"""The plan of a run: the figures of the full size, tiny models against real bytes, and what does not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import make_stage
from torch import nn

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import TrainingError
from tagmoe.losses.objective import Objective
from tagmoe.pipeline.memory.plans import CPU_PLANS, PLANS
from tagmoe.pipeline.memory.room import Room
from tagmoe.train.frozen import is_kept
from tagmoe.train.optimizer import make_optimizers, state_bytes
from tagmoe.train.plan import (
    alternatives,
    check_fits,
    counts,
    counts_of,
    objective,
    plan_training,
    transformer_config,
)
from tagmoe.train.plan_shapes import shapes_of
from tagmoe.train.precision import autocast
from tagmoe.train.trace import Shapes, Traced, meta_transformer, saved_bytes, trace
from tagmoe.train.trained import choose_trained, mark_trained

ROOM = Room("cpu", 1e12, float("inf"), CPU_PLANS)
RELEASE = {"num_layers": 60, "num_moe_blocks": 10, "gate": "linear", "expert_bias": False}
FULL = {"output_dir": "unused", "base": {"steps": 0}, "unified": {"steps": 1, "batch": 1}, "parameters": "moe"}


@pytest.fixture(scope="module")
def release() -> Any:
    """The authors' released transformer, without numbers."""
    transformer = meta_transformer(RELEASE)
    mark_trained(transformer, check_config(FULL))
    return transformer


def test_moe_at_full_size_needs_what_its_rows_say(release: Any) -> None:
    config = check_config({**FULL, "optimizer": {"name": "adamw", "ema_offload": True}})
    counted = counts(release, None, config, "bf16")
    parts = {part.what: part for part in counted.parts}
    assert counted.parameters / 1e9 == pytest.approx(22.70, abs=0.01)
    assert counted.trained / 1e9 == pytest.approx(3.02, abs=0.01)
    weights = sum(p.bytes for n, p in parts.items() if n.startswith(("frozen", "copies")))
    assert weights / 1e9 == pytest.approx(45.4, abs=0.2)
    rest = sum(parts[name].bytes for name in ("trained weights", "gradients", "states of adamw"))
    assert rest / 1e9 == pytest.approx(48, abs=0.5), "16 bytes each"
    assert parts["moving average"].place == "host"
    rows = {name: round(size / 1e9) for name, size in alternatives(release, None, config, "bf16").items()}
    assert rows == {
        "states fp32, gradients fp32, frozen bf16": 94,
        "states 8bit, gradients fp32, frozen bf16": 76,
        "states 8bit, gradients bf16, frozen bf16": 70,
        "states 8bit, gradients fp32, frozen fp8": 56,
        "states 8bit, gradients bf16, frozen fp8": 50,
        "states 8bit, gradients bf16, frozen nf4": 42,
    }


def real_bytes(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


BYTE_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"name": "muon"}),
    ({"parameters": "moe", "frozen_dtype": "fp8"}, {"name": "adamw", "states": "bf16", "gradients": "bf16"}),
    ({}, {"name": "adamw", "states": "bf16", "gradients": "bf16"}),
    ({"parameters": "moe"}, {"name": "adamw"}),
    ({"parameters": "moe", "frozen_dtype": "fp8"}, {"name": "adamw", "states": "8bit"}),
    ({"parameters": "moe", "frozen_dtype": "nf4"}, {"name": "adamw", "states": "8bit", "gradients": "bf16"}),
    ({"parameters": "moe", "frozen_dtype": "fp32"}, {"name": "muon"}),
]


@pytest.mark.parametrize(
    ("changes", "optimizer"),
    [
        ({"parameters": "moe", "frozen_dtype": "nf4"}, {"name": "adamw", "states": "8bit"}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in BYTE_CASES),
        ({"parameters": "lora", "lora": {"rank": 3}}, {"name": "adamw"}),
    ],
)
def test_a_tiny_model_takes_what_is_planned_to_the_byte(
    changes: dict[str, Any], optimizer: dict[str, Any], config: Callable[..., RunConfig], latents: str
) -> None:
    run = config(**changes, optimizer=optimizer, transformer={"num_layers": 3})
    described = transformer_config(run)
    shell = meta_transformer(described)
    mark_trained(shell, run)
    planned = {part.what: part.bytes for part in counts(shell, objective(run, described), run, "fp32").parts}
    stage = make_stage(run, Path(latents))
    choose_trained(stage.transformer, run)
    modules: dict[str, nn.Module] = {"transformer": stage.transformer, "objective": stage.objective}
    every = [p for module in modules.values() for p in module.parameters()]
    trained = [p for p in every if p.requires_grad]
    optimizers = make_optimizers(modules, run.optimizer)
    loss, _ = stage.loss(1, 0)
    loss.backward()
    for made in optimizers:
        made.step()
    assert planned["trained weights"] == real_bytes(trained)
    assert planned["moving average"] == real_bytes(trained)
    with_gradient = [p for p in trained if p.grad is not None]
    size = 2 if optimizer.get("gradients") == "bf16" else 4
    assert planned["gradients"] == size * sum(p.numel() for p in trained)
    assert all(p.grad.element_size() == size for p in with_gradient)
    # A parameter that no loss reaches (the last block's text) has neither gradient nor state; the plan counts it.
    names = {id(p): f"{owner}.{name}" for owner, module in modules.items() for name, p in module.named_parameters()}
    unreached = sum(state_bytes(names[id(p)], p, run.optimizer) for p in trained if p.grad is None)
    states = {
        value.untyped_storage()._cdata: value.numel() * value.element_size()
        for made in optimizers
        for p, state in made.state.items()
        for name, value in state.items()
        if torch.is_tensor(value) and name != "step" and not name.startswith("qmap")
    }
    assert planned[f"states of {run.optimizer.name}"] == sum(states.values()) + unreached
    packed = [m for m in stage.transformer.modules() if is_kept(m)]
    if packed:
        kept = [p for m in packed for p in m.parameters(recurse=False)]
        extra = sum(4 for m in packed if hasattr(m, "scale"))
        for state in (m.weight.quant_state for m in packed if hasattr(m.weight, "quant_state")):
            extra += sum(t.numel() * t.element_size() for t in (state.absmax, state.code))
        assert planned["frozen linear layers"] == real_bytes(kept) + extra
        others = [p for p in every if not p.requires_grad and all(p is not k for k in kept)]
        assert planned["frozen gates, norms, first and last layers"] == real_bytes(others)
    gc.collect()


TINY = {
    "num_layers": 6, "num_attention_heads": 2, "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12),
    "in_channels": 16, "out_channels": 4, "joint_attention_dim": 32, "num_moe_blocks": 3,
}  # fmt: skip


# Traced at once. Of a deep model some blocks are traced, also in tests/train/test_full_size_recipes.py.
SHORT = {"num_layers": 3, "num_moe_blocks": 1}


@pytest.mark.slow
@pytest.mark.parametrize("layers", [SHORT, {}], ids=["short", "deep"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("parameters", ["all", "moe", "lora"])
def test_activations_are_within_a_tenth(parameters: str, precision: str, layers: dict[str, int]) -> None:
    tiny = TINY | layers
    run = check_config({**FULL, "parameters": parameters})
    shapes = Shapes(2, ((6, 8), (6, 8)), 16)
    traced = trace(tiny, shapes, precision, prepare=lambda model: choose_trained(model, run))
    from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
    from tagmoe.model.transformer import TagMoETransformer2DModel

    transformer = TagMoETransformer2DModel(**tiny).train()
    transformer.set_attn_processor(RealRoPEAttnProcessor())
    choose_trained(transformer, run)
    with saved_bytes(transformer) as saved, autocast(precision):
        transformer(
            hidden_states=torch.randn(2, 96, 16), encoder_hidden_states=torch.randn(2, 16, 32), timestep=torch.rand(2),
            img_shapes=[[(1, 6, 8)] * 2] * 2, return_routing="stats",
        )  # fmt: skip
        assert traced.saved == pytest.approx(saved(), rel=0.1)


@pytest.mark.slow
def test_frozen_blocks_cost_their_forward_only() -> None:
    shapes = Shapes(2, ((8, 8),), 16)
    flops = {}
    for parameters in ("all", "moe"):
        run = check_config({**FULL, "parameters": parameters})
        flops[parameters] = trace(TINY, shapes, "fp32", prepare=lambda model, run=run: choose_trained(model, run))
    assert flops["all"].forward == flops["moe"].forward
    assert flops["all"].backward == pytest.approx(2 * flops["all"].forward, rel=0.15)
    assert flops["moe"].backward < 0.6 * flops["all"].backward
    # A matrix product of 2 x 80 tokens in a dense block: 12 of the width squared a stream, 2 FLOPs a number.
    width, tokens = 64, 2 * 80
    assert flops["all"].forward > 6 * 2 * 12 * width**2 * tokens


def test_what_does_not_fit_is_refused_with_its_largest_parts(config: Callable[..., RunConfig]) -> None:
    run = config(parameters="moe", optimizer={"ema_offload": True})
    plan = plan_training(run, ROOM, shapes_of(run, None, 1))
    check_fits(plan, ROOM)
    check_fits(plan.counts, ROOM)
    for room in (
        Room("cpu", plan.device + plan.host - 1, float("inf"), CPU_PLANS),
        Room("cuda", plan.device - 1, 1e12, PLANS),
        Room("cuda", 1e12, plan.host - 1, PLANS),
    ):
        with pytest.raises(TrainingError, match=r"needs .* GB on the (device|host).*frozen_dtype"):
            check_fits(plan, room)
    check_fits(plan, Room("cuda", plan.device, plan.host, PLANS))


def test_the_plan_states_the_most_that_the_host_holds(
    config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagmoe.train.plan.trace", lambda *_, **__: Traced(0, 1, 1))
    run = config(parameters="moe", optimizer={"name": "adamw"})
    read = config(parameters="moe", optimizer={"name": "adamw"}, base={"steps": 0})
    gpu = Room("cuda", 1e12, 1e12, PLANS)

    def most(run: RunConfig, room: Room, ranks: int) -> tuple[str, int]:
        plan = plan_training(run, room, shapes_of(run, None, 1, ranks), ranks)
        [part] = [part for part in plan.counts.parts if part.what.startswith("at most: ")]
        assert plan.host >= part.bytes
        return part.what.removeprefix("at most: "), part.bytes

    counted = counts_of(run)
    parameters, trained = counted.parameters, counted.trained
    assert most(run, ROOM, 1) == ("copy of the state while it is saved", 16 * trained)
    assert most(run, gpu, 1) == ("whole model while it is read or made", 8 * parameters)
    assert most(read, gpu, 1)[1] < 8 * parameters, "it is read once, in bf16 where it stays frozen"
    what, size = most(run, gpu, 2)
    assert what == "whole model while it is read or made", "a base that is trained first"
    what, size = most(read.model_copy(update={"start": "a folder that is not there"}), gpu, 4)
    assert size >= 8 * trained


def test_a_run_that_cannot_fit_leaves_no_folder(
    config: Callable[..., RunConfig], run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagmoe.train.recipe.memory_room", lambda **_: Room("cpu", 1000.0, float("inf"), CPU_PLANS))
    run = config()
    with pytest.raises(TrainingError, match="Training needs"):
        run_training(run)
    assert not Path(run.output_dir).exists()


def test_heads_of_the_loss_are_those_of_the_stage(config: Callable[..., RunConfig], latents: str) -> None:
    run = config(loss={"tag_embedding": "learned", "head_layers": 3})
    planned = objective(run, transformer_config(run))
    assert isinstance(planned, Objective)
    real = make_stage(run, Path(latents)).objective
    assert [p.shape for p in planned.parameters()] == [p.shape for p in real.parameters()]


@pytest.mark.slow
def test_activation_checkpointing_keeps_what_is_planned_and_counts_its_flops_apart(
    config: Callable[..., RunConfig], latents: str
) -> None:
    shapes = Shapes(2, ((6, 8), (6, 8)), 16)
    plain, again = (plan_training(config(activation_checkpointing=on), ROOM, shapes) for on in (False, True))
    assert (plain.flops["recompute"], plain.traced.block) == (0, 0)
    assert again.flops["forward"] == plain.flops["forward"]
    assert again.flops["backward"] == plain.flops["backward"]
    # All that is not in a block is computed once.
    assert 0.8 * plain.flops["forward"] < again.flops["recompute"] < plain.flops["forward"]
    assert again.traced.saved < 0.3 * plain.traced.saved
    assert again.traced.block > 0.3 * plain.traced.saved, "one of two blocks"
    assert again.device < plain.device
