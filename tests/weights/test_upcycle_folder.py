"""Upcycling on the disk: the same bytes as in memory, from any layout of files, or one sentence and nothing written."""

from __future__ import annotations

import inspect
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from tagmoe.errors import CheckpointError, ConfigError, MissingError, TagMoEError
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import drift, upcycle
from tagmoe.weights import upcycle as module
from tagmoe.weights.layout import DENSE_DEFAULTS, gate_layout
from tagmoe.weights.upcycle import Upcycling, upcycle_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def bits(value: torch.Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else bytes(value.numpy())


@pytest.fixture
def source(dense, tmp_path: Path) -> Path:
    dense.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.mark.slow_but_first
@pytest.mark.parametrize("mode", ["exact", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 1), (5, 3), (2, 2)])
@pytest.mark.parametrize("shard", ["10GB", "60KB"])
def test_the_result_equals_the_one_built_in_memory(dense, tmp_path, mode, dtype, num_experts, top_k, shard) -> None:
    dense.to(dtype).save_pretrained(tmp_path / "dense", max_shard_size=shard)
    settings = {"num_moe_blocks": 2, "num_experts": num_experts, "top_k": top_k, "mode": mode}
    upcycle(dense, **settings).save_pretrained(tmp_path / "memory")
    upcycle_folder(tmp_path / "dense", tmp_path / "disk", Upcycling(**settings), max_shard_bytes=60_000)
    wanted, made = tensors(tmp_path / "memory"), tensors(tmp_path / "disk")
    assert made.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (made[name].dtype, made[name].shape) == (value.dtype, value.shape), name
        assert ".gate." in name or bits(made[name]) == bits(value), name
    assert (tmp_path / "disk" / "config.json").read_bytes() == (tmp_path / "memory" / "config.json").read_bytes()
    assert len(list((tmp_path / "disk").glob("*.safetensors"))) > 3


@pytest.mark.parametrize("gate", ["mlp", "linear"])
def test_an_exact_result_loads_and_equals_the_dense_model(dense, source, tmp_path, gate) -> None:
    upcycle_folder(source, tmp_path / "moe", Upcycling(3, num_experts=5, top_k=2, gate=gate))
    model = TagMoETransformer2DModel.from_pretrained(tmp_path / "moe")
    assert drift(dense, model) < 1e-5
    assert model.config.expert_scale == 2.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "moe"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "moe").iterdir()} == {0o644}


def test_one_file_is_what_the_library_would_write(source, tmp_path) -> None:
    upcycle_folder(source, tmp_path / "moe", Upcycling(2))
    again = tmp_path / "again.safetensors"
    save_file(tensors(tmp_path / "moe"), again, metadata={"format": "pt"})
    assert (tmp_path / "moe" / WEIGHTS).read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_gates_are_drawn_from_the_modules_distribution(tmp_path) -> None:
    torch.manual_seed(0)
    wide = QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=8, attention_head_dim=32, axes_dims_rope=(8, 12, 12)
    )
    wide.save_pretrained(tmp_path / "dense")
    upcycle_folder(tmp_path / "dense", tmp_path / "moe", Upcycling(2, num_experts=8, seed=1))
    made = tensors(tmp_path / "moe")
    for tensor in gate_layout(256, 8):
        first, second = (made[f"transformer_blocks.{index}.img_mlp.gate.{tensor.name}"] for index in (0, 1))
        assert torch.equal(first, second) == (tensor.bound == tensor.std == 0)
        assert tuple(first.shape) == tensor.shape
        spread = tensor.std or tensor.bound / 3**0.5
        assert first.std().item() == pytest.approx(spread, rel=0.15, abs=0)
        assert abs(first.mean().item()) <= 4 * spread / first.numel() ** 0.5
        if tensor.bound:
            assert first.abs().max() <= tensor.bound


def test_the_seed_decides_what_is_drawn(source, tmp_path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        upcycle_folder(source, tmp_path / name, Upcycling(1, noise=0.1, seed=seed))
    one, same, other = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("one", "same", "other"))
    assert one == same != other


@pytest.mark.slow_but_first
@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_noise_has_its_share_of_the_spread_and_each_expert_its_own(dense, source, tmp_path, monkeypatch, dtype) -> None:
    upcycle_folder(source, tmp_path / "moe", Upcycling(1, noise=0.5, dtype=dtype))
    made, state = tensors(tmp_path / "moe"), dense.state_dict()
    prefix, name = "transformer_blocks.3.img_mlp.", "net.2.weight"
    weight = state[prefix + name]
    noise = torch.stack([made[f"{prefix}experts.{i}.{name}"].float() / 4 - weight for i in range(4)])
    assert noise.std().item() == pytest.approx(0.5 * weight.std().item(), rel=0.03)
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.1
    bias = made[f"{prefix}experts.2.net.2.bias"].float()
    assert torch.equal(bias, (4 * state[f"{prefix}net.2.bias"]).to(torch.bfloat16 if dtype else torch.float32).float())
    whole = (tmp_path / "moe" / WEIGHTS).read_bytes()
    monkeypatch.setattr(module, "COMPUTE_BYTES", 48)
    upcycle_folder(source, tmp_path / "chunks", Upcycling(1, noise=0.5, dtype=dtype))
    assert (tmp_path / "chunks" / WEIGHTS).read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_dtype_is_that_of_a_model_converted_before(dense, tmp_path, stored, dtype) -> None:
    dense.to(stored).save_pretrained(tmp_path / "dense")
    upcycle_folder(tmp_path / "dense", tmp_path / "moe", Upcycling(1, num_experts=3, top_k=2, dtype=dtype))
    converted = dense.to({"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype])
    wanted = upcycle(converted, num_moe_blocks=1, num_experts=3, top_k=2).state_dict()
    made = tensors(tmp_path / "moe")
    assert {value.dtype for value in made.values()} == {converted.dtype}
    for name, value in made.items():
        assert ".gate." in name or bits(value) == bits(wanted[name]), name


def test_integers_stay_and_numbers_beyond_fp16_are_refused(source, tmp_path) -> None:
    state = load_file(source / WEIGHTS)
    save_file({**state, "steps": torch.arange(3)}, source / WEIGHTS)
    upcycle_folder(source, tmp_path / "moe", Upcycling(1, dtype="bf16"))
    assert tensors(tmp_path / "moe")["steps"].dtype == torch.int64
    state["txt_norm.weight"][3] = 1e5
    save_file(state, source / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"'txt_norm.weight'.*65504.*bf16"):
        upcycle_folder(source, tmp_path / "half", Upcycling(1, dtype="fp16"), max_shard_bytes=60_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "moe"]


def test_the_defaults_are_those_of_diffusers(source, tmp_path) -> None:
    parameters = list(inspect.signature(QwenImageTransformer2DModel.__init__).parameters.values())[1:]
    assert {parameter.name: parameter.default for parameter in parameters} == DENSE_DEFAULTS
    config = json.loads((source / "config.json").read_text())
    for name in ("zero_cond_t", "use_layer3d_rope", "guidance_embeds", "patch_size"):
        del config[name]
    (source / "config.json").write_text(json.dumps(config | {"pooled_projection_dim": 768, "_name_or_path": "a/b"}))
    upcycle_folder(source, tmp_path / "disk", Upcycling(1, gate_hidden=7))
    loaded = TagMoETransformer2DModel.from_pretrained(source)
    upcycle(loaded, num_moe_blocks=1, gate_hidden=7).save_pretrained(tmp_path / "memory")
    assert (tmp_path / "disk" / "config.json").read_bytes() == (tmp_path / "memory" / "config.json").read_bytes()


def write_config(source: Path, **changes: Any) -> None:
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BAD_SOURCES: dict[str, tuple[Any, type[TagMoEError], str]] = {
    "other width": (
        lambda s: write_config(s, num_attention_heads=3),
        CheckpointError,
        "other dimensions.*img_in.weight",
    ),
    "other text": (
        lambda s: write_config(s, joint_attention_dim=25),
        CheckpointError,
        "other dimensions.*txt_in.weight",
    ),
    "other output": (lambda s: write_config(s, out_channels=5), CheckpointError, "other dimensions.*proj_out.weight"),
    "more blocks": (lambda s: write_config(s, num_layers=5), CheckpointError, r"missing: transformer_blocks\.4\."),
    "fewer blocks": (lambda s: write_config(s, num_layers=3), CheckpointError, r"unexpected: transformer_blocks\.3\."),
    "a mixture": (lambda s: write_config(s, num_moe_blocks=2), ConfigError, "already has 2 mixture blocks"),
    "no number": (lambda s: write_config(s, num_layers="4"), CheckpointError, "num_layers '4'"),
    "another class": (lambda s: write_config(s, _class_name="FluxTransformer2DModel"), CheckpointError, "Flux"),
    "quantised": (lambda s: write_config(s, quantization_config={"a": 1}), CheckpointError, "quantised"),
    "bad config": (lambda s: (s / "config.json").write_text("{"), CheckpointError, "config.json.*damaged"),
    "list config": (lambda s: (s / "config.json").write_text("[]"), CheckpointError, "no JSON object"),
    "no config": (lambda s: (s / "config.json").unlink(), MissingError, "no transformer"),
    "cut": (lambda s: cut(s / WEIGHTS), CheckpointError, f"{WEIGHTS}.*cut short"),
    "a pickle": (
        lambda s: (s / WEIGHTS).rename(s / "diffusion_pytorch_model.bin"),
        CheckpointError,
        "pickle.*run code",
    ),
    "no weights": (lambda s: (s / WEIGHTS).unlink(), CheckpointError, f"{WEIGHTS}.*missing"),
    "a tensor less": (
        lambda s: drop(s, "transformer_blocks.2.attn.to_q.bias"),
        CheckpointError,
        "missing: .*to_q.bias",
    ),
    "float8": (lambda s: to_float8(s), CheckpointError, "F8_E4M3.*before quantisation"),
}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def drop(source: Path, name: str) -> None:
    state = load_file(source / WEIGHTS)
    del state[name]
    save_file(state, source / WEIGHTS)


def to_float8(source: Path) -> None:
    save_file({name: v.to(torch.float8_e4m3fn) for name, v in load_file(source / WEIGHTS).items()}, source / WEIGHTS)


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_bad_source_is_one_sentence_and_nothing_is_written(source, tmp_path, case) -> None:
    spoil, kind, said = BAD_SOURCES[case]
    spoil(source)
    with pytest.raises(kind, match=said) as caught:
        upcycle_folder(source, tmp_path / "moe", Upcycling(2))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_moe_blocks": 5}, "num_moe_blocks is 5.*num_layers = 4"),
        ({"num_moe_blocks": 0}, "num_moe_blocks is 0"),
        ({"top_k": 5}, "top_k is 5"),
        ({"num_experts": 1}, "num_experts at least 2"),
        ({"gate": "round"}, "'round'"),
        ({"gate_hidden": 0}, "hidden width is 0"),
        ({"mode": "scaled"}, "'scaled'.*exact, plain"),
        ({"noise": -1.0}, "noise is -1"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"dtype": "int8"}, "'int8'.*bf16, fp16, fp32"),
    ],
)
def test_impossible_settings_are_named_before_anything_is_written(source, tmp_path, settings, said) -> None:
    with pytest.raises(ConfigError, match=said):
        upcycle_folder(source, tmp_path / "moe", Upcycling(**({"num_moe_blocks": 2} | settings)))
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_shard_that_is_missing_is_named(dense, tmp_path) -> None:
    dense.save_pretrained(tmp_path / "dense", max_shard_size="60KB")
    gone = sorted((tmp_path / "dense").glob("*.safetensors"))[2]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"{gone.name}.*missing"):
        upcycle_folder(tmp_path / "dense", tmp_path / "moe", Upcycling(2))


MEMORY = """
import sys
from pathlib import Path
from tagmoe.weights.upcycle import Upcycling, upcycle_folder
upcycle_folder(Path(sys.argv[1]), Path(sys.argv[2]), Upcycling(1, noise=float(sys.argv[3]), dtype=sys.argv[4] or None))
heavy = sorted({"torch", "diffusers", "transformers"} & set(sys.modules))
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(int(peak) * 1024, *heavy)
"""


def big_folder(folder: Path, dim: int = 3072) -> int:
    """A one-block checkpoint in bf16 whose largest tensor is an embedding of 113 MB; returns that size."""
    shapes = {
        "img_in.weight": (dim, 64),
        "txt_in.weight": (dim, 3584),
        "proj_out.weight": (64, dim),
        "extra.weight": (6 * dim, dim),
        "transformer_blocks.0.img_mlp.net.0.proj.weight": (4 * dim, dim),
        "transformer_blocks.0.img_mlp.net.0.proj.bias": (4 * dim,),
        "transformer_blocks.0.img_mlp.net.2.weight": (dim, 4 * dim),
        "transformer_blocks.0.img_mlp.net.2.bias": (dim,),
    }
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        handle.truncate(8 + len(text) + offset)
    config = {"_class_name": "QwenImageTransformer2DModel", "num_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return 2 * int(np.prod(shapes["extra.weight"]))


# Not ru_maxrss: a new process begins with that of the process that started it, here pytest with torch in it.
@pytest.mark.slow_but_first
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(("noise", "dtype"), [(0, ""), pytest.param(0.01, "fp32", marks=pytest.mark.slow)])
def test_memory_stays_far_below_the_largest_tensor_and_torch_is_not_imported(tmp_path, noise, dtype) -> None:
    largest = big_folder(tmp_path / "big")
    assert largest > 100e6
    command = [sys.executable, "-c", MEMORY, tmp_path / "big", tmp_path / "moe", str(noise), dtype]
    try:
        peak, *heavy = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    finally:
        shutil.rmtree(tmp_path / "moe", ignore_errors=True)
    assert heavy == []
    # The bound is 1.5 times the largest tensor and 300 MB; it is the interpreter and numpy that are measured here.
    assert 1e7 < int(peak) < 1e8
