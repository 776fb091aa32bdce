"""Weights really are quantised or out of memory: their bytes are counted in the storages, not believed."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers.hooks import HookRegistry
from torch import nn

from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.memory.placing import offload_blocks
from tagmoe.pipeline.memory.plans import PLANS
from tagmoe.pipeline.memory.sizes import is_quantised, part_size, read_sizes
from tagmoe.pipeline.packaged import packaged_folder


def expert_bytes(benchmark: Any, pipeline: Any) -> int:
    return sum(benchmark.held_bytes(b.img_mlp.experts) for b in pipeline.transformer.transformer_blocks[-3:])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["8-bit", "4-bit"])
def test_bytes_after_loading_are_those_of_the_arithmetic(benchmark: Any, loaded: Any, form: str) -> None:
    full, packed = loaded("resident"), loaded(form)
    sizes = read_sizes(packaged_folder())
    for part in ("transformer", "text_encoder"):
        wanted = getattr(sizes, part).bytes_as(form, 2)
        assert benchmark.held_bytes(getattr(packed, part)) == pytest.approx(wanted, rel=0.01)
        # Buffers (of the text encoder's rotary embedding) are no parameters: a few bytes more.
        held, counted = benchmark.held_bytes(getattr(full, part)), getattr(sizes, part).bytes_as("full", 4)
        assert 0 <= held - counted < 1e-3 * counted
    names = {n: list(p.shape) for n, p in full.transformer.named_parameters() if ".experts." in n}
    experts = part_size("transformer", names)
    assert expert_bytes(benchmark, packed) == pytest.approx(experts.bytes_as(form, 2), rel=0.01)
    assert expert_bytes(benchmark, full) == experts.bytes_as("full", 4)
    share = expert_bytes(benchmark, packed) / (experts.parameters * 2)
    assert share < {"8-bit": 0.53, "4-bit": 0.31}[form]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("form", ["8-bit", "4-bit"])
def test_every_linear_layer_is_packed_but_the_gate_and_the_ends(loaded: Any, form: str) -> None:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    packed_class = {"8-bit": Linear8bitLt, "4-bit": Linear4bit}[form]
    full, packed = loaded("resident"), loaded(form)
    for part in ("transformer", "text_encoder"):
        shapes = {n: list(p.shape) for n, p in getattr(full, part).named_parameters()}
        found = {
            f"{name}.weight"
            for name, module in getattr(packed, part).named_modules()
            if isinstance(module, packed_class) and module.weight.dtype in (torch.int8, torch.uint8)
        }
        assert found == {name for name, shape in shapes.items() if is_quantised(part, name, shape)}
        assert found
    for block in packed.transformer.transformer_blocks[-3:]:
        for layer in (block.img_mlp.gate.proj_in, block.img_mlp.gate.proj_out):
            assert layer.weight.dtype == torch.bfloat16
            assert not isinstance(layer, packed_class)
        for expert in block.img_mlp.experts:
            assert isinstance(expert.net[0].proj, packed_class)
            assert isinstance(expert.net[2], packed_class)
    for name in ("img_in", "txt_in", "proj_out"):
        assert packed.transformer.get_submodule(name).weight.dtype == torch.bfloat16


def group_of(block: nn.Module) -> Any:
    return HookRegistry.check_if_exists_or_initialize(block).get_hook("group_offloading").group


def test_every_weight_of_an_expert_belongs_to_the_group_of_its_block(loaded: Any) -> None:
    pipeline = loaded("group-offload")
    groups = {id(group_of(block)): group_of(block) for block in pipeline.transformer.transformer_blocks}
    assert len(groups) == len(pipeline.transformer.transformer_blocks)
    for block in pipeline.transformer.transformer_blocks[-3:]:
        held = {id(p) for module in group_of(block).modules for p in module.parameters()}
        experts = list(block.img_mlp.experts.parameters())
        assert experts
        assert {id(p) for p in experts} <= held


@pytest.mark.slow
def test_one_block_is_loaded_at_a_time(benchmark: Any, kept: Any, draw: Any, tmp_path: Path) -> None:
    pipeline = kept("group-offload", offload_folder=tmp_path / "weights")
    live = benchmark.LiveBytes()
    with benchmark.counted_groups(live) as counts:
        draw(pipeline, count=1)
    part = read_sizes(packaged_folder(), value_bytes=4).transformer
    assert counts["now"] == 0
    assert part.largest_group * 4 <= counts["peak"] <= (part.largest_group + part.ungrouped) * 4
    # Less than half of it, though here the largest block is a quarter of the model.
    assert counts["peak"] < part.parameters * 4 / 2


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


@pytest.mark.slow
@torch.no_grad()
def test_experts_in_files_leave_no_bytes_in_memory(tmp_path: Path) -> None:
    """Weights of more than 32 MB each: these the allocator returns to the system, so that the process shrinks."""
    width = 1536
    model = TagMoETransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=128, num_attention_heads=12,
        joint_attention_dim=32, num_moe_blocks=1, num_experts=2, gate="linear", expert_bias=False,
    ).eval()  # fmt: skip
    experts = model.transformer_blocks[0].img_mlp.experts
    size = sum(p.numel() * p.element_size() for p in experts.parameters())
    assert size == 2 * 2 * 4 * width**2 * 4
    inputs = {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 4, 32),
        "timestep": torch.tensor([0.5]),
        "img_shapes": [[(1, 4, 4)]],
    }
    wanted, full = model(**inputs).sample, resident_bytes()
    offload_blocks(model, torch.device("cpu"), tmp_path)
    assert resident_bytes() < full - 0.95 * size
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > size
    torch.testing.assert_close(model(**inputs).sample, wanted, atol=1e-5, rtol=0)
    assert resident_bytes() < full - 0.95 * size


@pytest.mark.slow
def test_component_offload_hooks_every_component_in_order(loaded: Any) -> None:
    pipeline = loaded("component-offload")
    assert len(pipeline._all_hooks) == 3
    assert pipeline._execution_device.type == "cpu"
    assert all(hasattr(getattr(pipeline, name), "_hf_hook") for name in ("text_encoder", "transformer", "vae"))
    before = {plan.name for plan in PLANS if plan.offload == "component"}
    assert before == {"component-offload", "4-bit-component-offload"}
