"""LoRA of dense Qwen-Image on a mixture: every name scheme, the exact update, and every layer accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.loaders import PeftAdapterMixin, QwenImageLoraLoaderMixin
from peft import LoraConfig
from safetensors.torch import save_file
from support.tiny_model import build_dense, build_pipeline

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.model.lora import LoraReport
from tagmoe.model.upcycle import upcycle
from tagmoe.pipeline.pipeline import TagMoEPipeline

RANK = 2
# One layer of each kind: attention and text FFN load as they are; the image FFN is dense in block 1, a mixture in 3.
LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.3.attn.add_k_proj",
    "transformer_blocks.3.attn.to_out.0",
    "transformer_blocks.2.txt_mlp.net.0.proj",
    "transformer_blocks.3.img_mod.1",
    "transformer_blocks.1.img_mlp.net.0.proj",
    "transformer_blocks.1.img_mlp.net.2",
    "transformer_blocks.3.img_mlp.net.0.proj",
    "transformer_blocks.3.img_mlp.net.2",
)
BROADCAST = 2


@pytest.fixture
def dense() -> QwenImageTransformer2DModel:
    return build_dense(4)


@pytest.fixture(scope="module")
def built() -> TagMoEPipeline:
    """Its other parts never change, and take longer to build than all else here."""
    return build_pipeline()


@pytest.fixture
def pipe(built: TagMoEPipeline, dense: QwenImageTransformer2DModel) -> TagMoEPipeline:
    built.register_modules(transformer=upcycle(dense, num_moe_blocks=2).eval())
    return built


@pytest.fixture
def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 20, 16, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 32, generator=generator),
        "timestep": torch.tensor([0.3, 0.8]),
        "img_shapes": [[(1, 3, 4), (1, 2, 4)]] * 2,
    }


def matrices(dense: QwenImageTransformer2DModel, ranks: tuple[int, ...] = (RANK,)) -> dict[str, tuple]:
    """A and B of every layer, large enough that each of them shows."""
    generator = torch.Generator().manual_seed(5)
    made = {}
    for index, name in enumerate(LAYERS):
        out, into = dense.get_submodule(name).weight.shape
        rank = ranks[index % len(ranks)]
        made[name] = (torch.randn(rank, into, generator=generator), 0.1 * torch.randn(out, rank, generator=generator))
    return made


def in_names_of(scheme: str, parts: dict[str, tuple], alpha: float | None = None) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors in the names of one tool; kohya always writes its alpha."""
    tensors = {}
    for name, (down, up) in parts.items():
        if scheme == "kohya":
            base, a, b = f"lora_unet_{name.replace('.', '_')}", "lora_down", "lora_up"
        else:
            base, a, b = (
                f"{ {'diffusers': 'transformer', 'comfyui': 'diffusion_model'}[scheme] }.{name}",
                "lora_A",
                "lora_B",
            )
        tensors |= {f"{base}.{a}.weight": down, f"{base}.{b}.weight": up}
        if alpha is not None:
            tensors[f"{base}.alpha"] = torch.tensor(alpha)
    return tensors


def merged(dense: QwenImageTransformer2DModel, parts: dict[str, tuple], scale: float = 1.0) -> None:
    """The update as the LoRA paper writes it: W + scale B A."""
    with torch.no_grad():
        for name, (down, up) in parts.items():
            dense.get_submodule(name).weight += scale * up @ down


def sample(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("scheme", "alpha"), [("diffusers", None), ("diffusers", 1.0), ("comfyui", None), ("comfyui", 3.0), ("kohya", 1.0)]
)
@pytest.mark.parametrize("ranks", [(RANK,), (1, 2, 4)])
def test_on_fresh_experts_it_is_the_dense_model_with_its_update(
    dense, pipe, inputs, tmp_path, scheme, alpha, ranks
) -> None:
    parts = matrices(dense, ranks)
    save_file(in_names_of(scheme, parts, alpha), tmp_path / "lora.safetensors")
    before = sample(pipe.transformer, inputs)
    report = pipe.load_lora_weights(tmp_path / "lora.safetensors")
    scaled = {name: (down, up * (1 if alpha is None else alpha / len(down))) for name, (down, up) in parts.items()}
    merged(dense, scaled)
    expected = sample(dense, inputs)
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(sample(pipe.transformer, inputs), expected, rtol=1e-4, atol=1e-4)
    assert report == LoraReport(
        "default_0", len(LAYERS) - BROADCAST, BROADCAST, 4 * BROADCAST,
        alpha="nowhere, so it is the rank" if alpha is None else ".alpha tensors",
        strengths=(1, 1) if alpha is None else (alpha / max(ranks), alpha / min(ranks)),
    )  # fmt: skip


def test_diffusers_alone_loses_the_mixtures_layers(dense, pipe, inputs) -> None:
    """The control: why this module is there."""
    parts = matrices(dense)
    PeftAdapterMixin.load_lora_adapter(pipe.transformer, in_names_of("diffusers", parts))
    merged(dense, parts)
    assert not torch.allclose(sample(pipe.transformer, inputs), sample(dense, inputs), atol=1e-2)


@pytest.mark.parametrize(("scheme", "alpha"), [("diffusers", None), ("comfyui", 1.0)])
def test_a_pipeline_of_diffusers_loads_it_whole_into_our_transformer(dense, pipe, inputs, scheme, alpha) -> None:
    """It renames the layers and multiplies alpha into them before it hands them on."""
    parts = matrices(dense)
    QwenImageLoraLoaderMixin.load_lora_weights(pipe, in_names_of(scheme, parts, alpha))
    merged(dense, parts, 1.0 if alpha is None else alpha / RANK)
    torch.testing.assert_close(sample(pipe.transformer, inputs), sample(dense, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("rslora", [False, True])
def test_a_file_saved_by_peft_keeps_its_alpha(dense, pipe, inputs, tmp_path, rslora) -> None:
    dense.add_adapter(
        LoraConfig(
            r=4, lora_alpha=6, use_rslora=rslora, init_lora_weights=False,
            target_modules=["to_q", "img_mlp.net.0.proj", "img_mlp.net.2"],
            rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 5},
        )
    )  # fmt: skip
    dense.save_lora_adapter(tmp_path)
    tensors = dict(_tensors(tmp_path / "pytorch_lora_weights.safetensors"))
    metadata = {f"transformer.{key}": value for key, value in _settings(tmp_path).items()}
    save_file(
        {f"transformer.{key}": value for key, value in tensors.items()},
        tmp_path / "pytorch_lora_weights.safetensors",
        metadata={"format": "pt", "lora_adapter_metadata": json.dumps(metadata)},
    )
    report = pipe.load_lora_weights(tmp_path)
    assert (report.loaded, report.broadcast, report.experts) == (4 + 4, 4, 16)
    torch.testing.assert_close(sample(pipe.transformer, inputs), sample(dense, inputs), rtol=1e-4, atol=1e-4)


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors.torch import load_file

    yield from load_file(file).items()


def _settings(folder: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(folder / "pytorch_lora_weights.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["lora_adapter_metadata"])


def test_every_layer_is_accounted_for(dense, pipe, caplog) -> None:
    tensors = in_names_of("diffusers", matrices(dense))
    for name in ("transformer_blocks.9.attn.to_q", "transformer_blocks.3.no_such.layer"):
        tensors |= {f"transformer.{name}.lora_A.weight": torch.zeros(2, 32)}
        tensors |= {f"transformer.{name}.lora_B.weight": torch.zeros(32, 2)}
    tensors |= {"text_encoder.layers.0.lora_A.weight": torch.zeros(2, 4)}
    kept = dict(tensors)
    report = pipe.load_lora_weights(tensors, adapter_name="mine")
    assert report.dropped == (
        "transformer_blocks.3.no_such.layer", "transformer_blocks.9.attn.to_q", "text_encoder.layers.0",
    )  # fmt: skip
    assert report.loaded + report.broadcast == len(LAYERS)
    assert "2 broadcast to 8 layers of experts, 3 dropped" in str(report)
    assert tensors.keys() == kept.keys(), "the caller's dict is the caller's"
    assert report.as_json()["adapter"] == "mine"


def test_a_lora_trained_on_the_mixture_loads_as_it_is(pipe, inputs) -> None:
    name = "transformer_blocks.3.img_mlp.experts.1.net.2"
    module = pipe.transformer.get_submodule(name)
    out, into = module.weight.shape
    down, up = torch.randn(RANK, into), torch.randn(out, RANK)
    before = module.weight.detach().clone()
    report = pipe.load_lora_weights(
        {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    )
    assert (report.loaded, report.broadcast, report.dropped) == (1, 0, ())
    with_lora = sample(pipe.transformer, inputs)
    pipe.unload_lora_weights()
    with torch.no_grad():
        pipe.transformer.get_submodule(name).weight.copy_(before + up @ down)
    torch.testing.assert_close(with_lora, sample(pipe.transformer, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_loras_with_strengths_and_none(dense, pipe, inputs) -> None:
    base = sample(pipe.transformer, inputs)
    parts = matrices(dense)
    for name in ("first", "second"):
        pipe.load_lora_weights(in_names_of("diffusers", parts), adapter_name=name)
    pipe.set_adapters(["first", "second"], [0.25, 0.5])
    merged(dense, parts, 0.75)
    torch.testing.assert_close(sample(pipe.transformer, inputs), sample(dense, inputs), rtol=1e-4, atol=1e-4)
    pipe.unload_lora_weights()
    assert torch.equal(sample(pipe.transformer, inputs), base)


def broken(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = "transformer.transformer_blocks.3.img_mlp.net.2"
    if kind == "other size":
        return tensors | {f"{first}.lora_B.weight": torch.zeros(7, RANK)}
    if kind == "half":
        return {key: value for key, value in tensors.items() if key != f"{first}.lora_B.weight"}
    if kind == "lokr":
        return {"transformer.transformer_blocks.0.attn.to_q.lokr_w1": torch.zeros(2, 2)}
    if kind == "dora":
        return tensors | {f"{first}.lora_magnitude_vector": torch.zeros(32)}
    if kind == "of another model":
        return {key.replace("transformer_blocks", "double_blocks"): value for key, value in tensors.items()}
    return {"weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("other size", r"img_mlp\.experts\.0\.net\.2' is 7x128 and the layer 32x128"),
        ("half", "needs the two matrices"),
        ("lokr", "kind LoKr"),
        ("dora", "kind DoRA"),
        ("of another model", "no layer that this model has"),
        ("no lora", "no part of a LoRA"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(dense, pipe, inputs, kind, said) -> None:
    before = sample(pipe.transformer, inputs)
    with pytest.raises(CheckpointError, match=said) as caught:
        pipe.load_lora_weights(broken(kind, in_names_of("diffusers", matrices(dense))))
    assert "\n" not in str(caught.value)
    assert not getattr(pipe.transformer, "peft_config", {})
    assert torch.equal(sample(pipe.transformer, inputs), before)


def test_files_that_are_none(dense, pipe, tmp_path) -> None:
    good = tmp_path / "good.safetensors"
    save_file(in_names_of("diffusers", matrices(dense)), good)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "lora.bin").write_bytes(b"anything")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"cut\.safetensors' is damaged"):
        pipe.load_lora_weights(tmp_path / "cut.safetensors")
    with pytest.raises(UsageError, match="pickle can run code"):
        pipe.load_lora_weights(tmp_path / "lora.bin")
    for missing in (tmp_path / "none.safetensors", tmp_path / "empty", tmp_path):
        with pytest.raises(MissingError):
            pipe.load_lora_weights(missing)
    assert pipe.load_lora_weights(tmp_path, weight_name="good.safetensors").loaded == len(LAYERS) - BROADCAST
    with pytest.raises(UsageError, match="'default_0' is in use"):
        pipe.load_lora_weights(good, adapter_name="default_0")
