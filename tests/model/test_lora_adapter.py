"""A LoRA on the bare transformer: as the pipeline loads it, whatever file it is in, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from support.tiny_model import build_dense, build_pipeline
from torch import Tensor

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.model.upcycle import upcycle

RANK = 4
ATTENTION, FFN = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mlp.net.2"


def mixture() -> Any:
    """The image FFN of the last block is a mixture, made from `build_dense(2)`."""
    return upcycle(build_dense(2), num_moe_blocks=1).eval()


def tensors(prefix: str = "transformer.") -> dict[str, Tensor]:
    dense, generator = build_dense(2), torch.Generator().manual_seed(5)
    found = {}
    for name in (ATTENTION, FFN):
        out, into = dense.get_submodule(name).weight.shape
        found[f"{prefix}{name}.lora_A.weight"] = torch.randn(RANK, into, generator=generator)
        found[f"{prefix}{name}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    return found


def updates(transformer: Any) -> dict[str, Tensor]:
    """What is added to each layer's weight, by the name of the layer."""
    return {
        name: part.get_delta_weight(part.active_adapters[0])
        for name, part in transformer.named_modules()
        if hasattr(part, "lora_A") and part.active_adapters
    }


@pytest.mark.parametrize(
    ("prefix", "header", "strength"),
    [
        ("transformer.", {}, 1.0),
        ("", {"lora_alpha": "2"}, 0.5),
        ("diffusion_model.", {"ss_network_alpha": "8"}, 2.0),
        ("transformer.", {"lora_adapter_metadata": '{"transformer.lora_alpha": 2, "transformer.r": 4}'}, 0.5),
    ],
)
def test_a_file_is_loaded_as_the_pipeline_loads_it(
    tmp_path: Path, prefix: str, header: dict[str, str], strength: float
) -> None:
    """diffusers' own drops the experts and, without its prefix, everything, with no more than a warning."""
    save_file(tensors(prefix), tmp_path / "one.safetensors", metadata=header)
    bare, pipe = mixture(), build_pipeline()
    pipe.register_modules(transformer=mixture())
    report = bare.load_lora_adapter(tmp_path / "one.safetensors")
    assert (report.loaded, report.broadcast, report.strengths) == (1, 1, (strength, strength))
    assert report == pipe.load_lora_weights(tmp_path)
    found, wanted = updates(bare), updates(pipe.transformer)
    assert found.keys() == wanted.keys() == {
        ATTENTION, *(f"transformer_blocks.1.img_mlp.experts.{index}.net.2" for index in range(4)),
    }  # fmt: skip
    for name, value in found.items():
        assert torch.equal(value, wanted[name])
    down, up = (tensors("")[f"{ATTENTION}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(found[ATTENTION], strength * up @ down)


def test_an_alpha_tensor_counts() -> None:
    bare = mixture()
    report = bare.load_lora_adapter(tensors() | {f"transformer.{ATTENTION}.alpha": torch.tensor(2.0)}, prefix=None)
    assert report.strengths == (0.5, 1.0)
    down, up = (tensors("")[f"{ATTENTION}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(updates(bare)[ATTENTION], 0.5 * up @ down)


def test_what_it_saved_is_loaded_again(tmp_path: Path) -> None:
    trained = mixture()
    trained.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"], init_lora_weights=False))
    trained.save_lora_adapter(tmp_path)
    again = mixture()
    report = again.load_lora_adapter(tmp_path, adapter_name="mine", use_safetensors=True)
    assert (report.adapter, report.strengths) == ("mine", (3.0, 3.0))
    for name, value in updates(trained).items():
        assert torch.equal(updates(again)[name], value)


def test_a_dora_that_it_saved_is_loaded_again(tmp_path: Path) -> None:
    """diffusers loads it exactly, so this is left to it; of a dense model it is refused, as by the pipeline."""
    trained = mixture()
    settings = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"], init_lora_weights=False, use_dora=True)
    trained.add_adapter(settings)
    trained.save_lora_adapter(tmp_path / "ours")
    again = mixture()
    again.load_lora_adapter(tmp_path / "ours", prefix=None)
    for name, value in updates(trained).items():
        assert torch.equal(updates(again)[name], value)
    dense = build_dense(2)
    dense.add_adapter(LoraConfig(r=2, target_modules=["img_mlp.net.2"], init_lora_weights=False, use_dora=True))
    dense.save_lora_adapter(tmp_path / "dense")
    with pytest.raises(CheckpointError, match="DoRA"):
        mixture().load_lora_adapter(tmp_path / "dense", prefix=None)


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        (tensors(), {"prefix": "unet"}, UsageError, "prefix is 'unet'"),
        (tensors("text_encoder."), {}, CheckpointError, "holds no LoRA of a Qwen-Image transformer"),
        ({f"transformer.{ATTENTION}.lokr_w1": torch.ones(2, 2)}, {}, CheckpointError, "LoKr"),
        ({name: value * torch.nan for name, value in tensors().items()}, {}, CheckpointError, "finite"),
        (tensors(), {"weight_nam": "x"}, UsageError, "'weight_nam' is no option"),
        (tensors(), {"use_safetensors": False}, UsageError, "pickle"),
        (tensors(), {"hotswap": True, "adapter_name": "none"}, UsageError, "'none' is not"),
    ],
)
def test_what_cannot_be_exact_is_refused(
    given: dict[str, Tensor], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    bare = mixture()
    with pytest.raises(error, match=words):
        bare.load_lora_adapter(given, **options)
    assert updates(bare) == {}
