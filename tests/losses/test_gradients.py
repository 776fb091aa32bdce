"""The balance and alignment losses reach every gate of a real model, however a step is computed.

Axes: gradient checkpointing, gradient accumulation (with global counts), and fp32 or bf16 autocast. In each the
gradients must be those of one plain large batch.
"""

from __future__ import annotations

import contextlib
from functools import cache
from itertools import product
from typing import Any, Literal

import pytest
import torch

from tagmoe.losses import LossTerms, Objective, expert_load, interpolate
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.tags import TaskDescriptor

BATCH, TARGET, REFERENCE, TEXT = 4, (1, 2, 3), (1, 2, 2), 5
TASKS = (
    "Scope: image generation",
    "Scope: local editing; Type: object editing; Preservation: identity preservation",
    "Scope: global editing; Type: style transfer; Preservation: structure preservation",
    "Scope: viewpoint editing; Preservation: identity preservation",
)
TERMS = ("total", "balance", "alignment")
# checkpointing, accumulation, precision
AXES = ((False, True), (1, 4), ("fp32", "bf16"))
Precision = Literal["fp32", "bf16"]
Gradients = dict[str, torch.Tensor]


def quick_ones(quick: list[tuple[object, ...]], *axes: tuple[object, ...]) -> list[Any]:
    """All combinations of the axes; those that are not `quick` are slow."""
    marks = [pytest.mark.slow]
    return [pytest.param(*case, marks=[] if case in quick else marks) for case in product(*axes)]


def build(*, checkpointing: bool = False, near_tied: bool = False) -> tuple[TagMoETransformer2DModel, Objective]:
    """A four-block model with two mixture blocks, in training mode, with gates that do choose."""
    torch.manual_seed(0)
    model = TagMoETransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
        num_moe_blocks=2,
        num_experts=4,
    )
    objective = Objective(num_experts=4, dim=32)
    if not near_tied:
        for name, parameter in gates(model).items():
            if name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=0.5)
    if checkpointing:
        model.enable_gradient_checkpointing()
    return model.train(), objective


def gates(model: TagMoETransformer2DModel) -> dict[str, torch.nn.Parameter]:
    found = {name: parameter for name, parameter in model.named_parameters() if ".gate." in name}
    assert len({name.split(".")[1] for name in found}) == 2
    return found


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(BATCH, *shape, generator=generator)

    return {
        "x0": draw(6, 16),
        "noise": draw(6, 16),
        "reference": draw(4, 16),
        "text": draw(TEXT, 24),
        "t": torch.rand(BATCH, generator=generator),
        "tags": torch.tensor([TaskDescriptor.parse(task).multi_hot() for task in TASKS]),
    }


def forward(
    model: TagMoETransformer2DModel,
    objective: Objective,
    data: dict[str, torch.Tensor],
    precision: Precision,
    global_counts_LN: torch.Tensor | None = None,
) -> tuple[LossTerms, torch.Tensor]:
    """The terms of Eq. 5 and the load of every expert, for one micro-batch."""
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    with cast:
        noisy = interpolate(data["x0"], data["noise"], data["t"])
        output = model(
            hidden_states=torch.cat([noisy, data["reference"]], dim=1),
            encoder_hidden_states=data["text"],
            encoder_hidden_states_mask=torch.ones(data["text"].shape[:2], dtype=torch.bool),
            timestep=data["t"],
            img_shapes=[[TARGET, REFERENCE]] * len(data["t"]),
            return_routing="stats",
        )
        stats = output.routing
        terms = objective(
            output.sample[:, :6],
            data["x0"],
            data["noise"],
            data["tags"],
            stats.mean_probs_LBN,
            stats.counts_LBN,
            global_counts_LN,
        )
    return terms, expert_load(stats.counts_LBN)


@cache
def gradients(
    term: str,
    *,
    checkpointing: bool = False,
    accumulation: int = 1,
    precision: Precision = "fp32",
    near_tied: bool = False,
) -> Gradients:
    """Gradients of one term alone in every parameter that it reaches, of the model and of the objective."""
    model, objective = build(checkpointing=checkpointing, near_tied=near_tied)
    data, size = batch(), BATCH // accumulation
    micros = [{key: value[i : i + size] for key, value in data.items()} for i in range(0, BATCH, size)]
    with torch.no_grad():
        load_LN = torch.stack([forward(model, objective, micro, precision)[1] for micro in micros]).sum(dim=0)
    for micro in micros:
        terms, _ = forward(model, objective, micro, precision, load_LN if accumulation > 1 else None)
        (getattr(terms, term) / accumulation).backward()
    named = [*model.named_parameters(), *objective.named_parameters()]
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def relative_error(found: Gradients, expected: Gradients) -> float:
    assert found.keys() == expected.keys()
    difference = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return (difference / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("checkpointing", "accumulation", "precision"), quick_ones([(False, 1, "fp32"), (True, 4, "bf16")], *AXES)
)
@pytest.mark.parametrize("term", ["balance", "alignment"])
def test_each_auxiliary_loss_reaches_every_gate_parameter(
    term: str, checkpointing: bool, accumulation: int, precision: Precision
) -> None:
    found = gradients(term, checkpointing=checkpointing, accumulation=accumulation, precision=precision)
    for name in gates(build()[0]):
        assert name in found, name
        assert bool(torch.isfinite(found[name]).all()), name
        assert float(found[name].abs().max()) > 1e-6, name


@pytest.mark.parametrize("term", ["balance", "alignment"])
def test_near_tied_gates_get_a_gradient_from_the_first_step(term: str) -> None:
    found = gradients(term, near_tied=True)
    last = {name: found[name] for name in gates(build()[0]) if ".proj_out." in name}
    assert len(last) >= 2
    assert all(float(value.abs().max()) > 1e-4 for value in last.values())


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("term", "accumulation", "precision"), quick_ones([("total", 1, "fp32"), ("total", 4, "bf16")], TERMS, *AXES[1:])
)
def test_checkpointing_changes_no_gradient(term: str, accumulation: int, precision: Precision) -> None:
    plain = gradients(term, accumulation=accumulation, precision=precision)
    checkpointed = gradients(term, accumulation=accumulation, precision=precision, checkpointing=True)
    assert relative_error(checkpointed, plain) < 1e-6


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("term", "checkpointing", "precision"),
    quick_ones([("total", False, "fp32"), ("total", True, "bf16")], TERMS, AXES[0], AXES[2]),
)
def test_accumulation_equals_one_batch(term: str, checkpointing: bool, precision: Precision) -> None:
    whole = gradients(term, checkpointing=checkpointing, precision=precision)
    parts = gradients(term, checkpointing=checkpointing, precision=precision, accumulation=4)
    assert relative_error(parts, whole) < (1e-5 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("term", ["balance", "alignment"])
def test_bf16_autocast_points_where_fp32_does(term: str) -> None:
    full, half = gradients(term), gradients(term, precision="bf16")
    names = list(gates(build()[0]))
    a = torch.cat([full[name].flatten() for name in names])
    b = torch.cat([half[name].flatten() for name in names])
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.99
