"""LoRA files of every tool: names, the place of alpha, what is refused. The reference is W + alpha / rank B A."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import QwenImageLoraLoaderMixin
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from support.hub_server import client_of, served
from support.tiny_model import build_dense, build_pipeline
from torch import Tensor

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.model.lora_file import lora_file
from tagmoe.model.upcycle import upcycle
from tagmoe.pipeline.pipeline import TagMoEPipeline

RANK = 4
LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0", "transformer_blocks.1.img_mlp.net.2")
NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def built() -> TagMoEPipeline:
    """Its other parts never change, and take longer to build than all else here."""
    return build_pipeline()


@pytest.fixture
def pipe(built: TagMoEPipeline) -> TagMoEPipeline:
    built.register_modules(transformer=build_dense(2))
    return built


@pytest.fixture(scope="module")
def stock_parts() -> TagMoEPipeline:
    return build_pipeline()


@pytest.fixture
def mixture(stock_parts: TagMoEPipeline) -> TagMoEPipeline:
    """The image FFN of the last block is a mixture."""
    stock_parts.register_modules(transformer=upcycle(build_dense(2), num_moe_blocks=1).eval())
    return stock_parts


def matrices() -> dict[str, tuple[Tensor, Tensor]]:
    dense, generator = build_dense(2), torch.Generator().manual_seed(5)
    shapes = {name: dense.get_submodule(name).weight.shape for name in LAYERS}
    return {
        name: (torch.randn(RANK, into, generator=generator), 0.1 * torch.randn(out, RANK, generator=generator))
        for name, (out, into) in shapes.items()
    }


def sample(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(2, 20, 16, generator=generator),
            encoder_hidden_states=torch.randn(2, 7, 32, generator=generator),
            timestep=torch.tensor([0.3, 0.8]),
            img_shapes=[[(1, 3, 4), (1, 2, 4)]] * 2,
            return_dict=False,
        )[0]


def expected(strength: float = 1.0) -> Tensor:
    dense = build_dense(2)
    with torch.no_grad():
        for name, (down, up) in matrices().items():
            dense.get_submodule(name).weight += strength * up @ down
    return sample(dense)


def assert_update(pipe: TagMoEPipeline, strength: float = 1.0) -> None:
    torch.testing.assert_close(sample(pipe.transformer), expected(strength), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected(strength), expected(0.0), atol=1e-2)


# ---- names ---------------------------------------------------------------------------------------------------------
PAIRS = {
    "peft": ("lora_A.weight", "lora_B.weight"),
    "named adapter": ("lora_A.default.weight", "lora_B.default.weight"),
    "adapter of any name": ("lora_A.style_1.weight", "lora_B.style_1.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "SimpleTuner": ("lora.down.weight", "lora.up.weight"),
    "old diffusers": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}
PREFIXES = ("", "transformer.", "diffusion_model.", "model.diffusion_model.", "base_model.model.", "lora_unet_",
            "lora_transformer_", "lycoris_")  # fmt: skip


def named(prefix: str, pair: str, alpha: float | None = None) -> dict[str, Tensor]:
    tensors = {}
    for name, values in matrices().items():
        base = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
        tensors |= {f"{base}.{part}": value for part, value in zip(PAIRS[pair], values, strict=True)}
        if alpha is not None:
            tensors[f"{base}.alpha"] = torch.tensor(alpha)
    return tensors


@pytest.mark.slow_but_first
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_every_name_form_loads_as_the_update_it_means(pipe, stock_parts, prefix, pair, alpha) -> None:
    """Also against stock diffusers: a form that stock loads exactly gives the same here."""
    tensors = named(prefix, pair, alpha)
    report = pipe.load_lora_weights(tensors)
    assert (report.loaded, report.dropped) == (len(LAYERS), ())
    assert_update(pipe, 1.0 if alpha is None else alpha / RANK)
    stock = stock_parts
    stock.register_modules(transformer=build_dense(2))
    try:
        QwenImageLoraLoaderMixin.load_lora_weights(stock, dict(tensors))
    except Exception:
        return
    if any("lora_" in name for name, _ in stock.transformer.named_parameters()):
        theirs = sample(stock.transformer)
        if torch.allclose(theirs, expected(1.0 if alpha is None else alpha / RANK), rtol=1e-4, atol=1e-4):
            torch.testing.assert_close(sample(pipe.transformer), theirs, rtol=1e-5, atol=1e-5)


def test_old_processor_names(pipe) -> None:
    down, up = matrices()[LAYERS[0]]
    base = "transformer.transformer_blocks.0.attn.processor.to_q_lora"
    report = pipe.load_lora_weights({f"{base}.down.weight": down, f"{base}.up.weight": up})
    assert report.loaded == 1
    assert isinstance(pipe.transformer.transformer_blocks[0].attn.to_q, torch.nn.Module)
    loaded = pipe.transformer.transformer_blocks[0].attn.to_q
    torch.testing.assert_close(loaded.lora_B["default_0"].weight @ loaded.lora_A["default_0"].weight, up @ down)


def test_a_bias_of_the_update_is_loaded(pipe) -> None:
    bias = torch.linspace(-1, 1, 32)
    tensors = named("transformer.", "peft") | {f"transformer.{LAYERS[0]}.lora_B.bias": bias}
    pipe.load_lora_weights(tensors, adapter_name="a")
    dense = build_dense(2)
    with torch.no_grad():
        for name, (down, up) in matrices().items():
            dense.get_submodule(name).weight += up @ down
        dense.get_submodule(LAYERS[0]).bias += bias
    torch.testing.assert_close(sample(pipe.transformer), sample(dense), rtol=1e-4, atol=1e-4)


# ---- alpha ---------------------------------------------------------------------------------------------------------
def adapter_metadata(prefix: str = "transformer.", **settings: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"{prefix}{key}": value for key, value in settings.items()})}


HEADERS = {
    "adapter metadata": adapter_metadata(r=RANK, lora_alpha=2),
    "adapter metadata without prefix": adapter_metadata("", r=RANK, lora_alpha=2),
    "adapter metadata with the text encoder's": adapter_metadata(lora_alpha=2)
    | {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "text_encoder.lora_alpha": 99})},
    "a pattern": adapter_metadata(r=RANK, lora_alpha=99, alpha_pattern=dict.fromkeys(LAYERS, 2)),
    "rank-stabilised": adapter_metadata(r=RANK, lora_alpha=1, use_rslora=True),
    "lora_alpha": {"lora_alpha": "2"},
    "lora_alpha with prefix": {"transformer.lora_alpha": "2.0"},
    "network_alpha": {"network_alpha": "2", "network_dim": "4"},
    "network_alpha with prefix": {"transformer.network_alpha": "2"},
    "kohya's": {"ss_network_alpha": "2.0", "ss_network_dim": "4"},
    "the first counts": {"lora_alpha": "2", "ss_network_alpha": "99"} | adapter_metadata(r=RANK, lora_alpha=2),
}


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("prefix", ["", "transformer.", "lora_unet_"])
def test_alpha_of_a_header_is_applied_once(pipe, tmp_path, kind, prefix) -> None:
    pair = "kohya" if prefix == "lora_unet_" else "peft"
    save_file(named(prefix, pair), tmp_path / "a.safetensors", metadata=HEADERS[kind])
    report = pipe.load_lora_weights(tmp_path / "a.safetensors")
    assert (report.alpha, report.strengths) == ("header", (0.5, 0.5))
    assert "strength 0.5 (alpha: header)" in str(report)
    assert_update(pipe, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter metadata", "adapter metadata without prefix", "lora_alpha", "kohya's"])
def test_tensors_come_before_the_header_and_are_applied_once(pipe, tmp_path, kind) -> None:
    """Stock diffusers multiplies by both: kohya writes both, and so do converters."""
    header = {key: value.replace("2", "3") for key, value in HEADERS[kind].items()}
    save_file(named("transformer.", "peft", alpha=1.0), tmp_path / "a.safetensors", metadata=header)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 40, "r": 4}')
    report = pipe.load_lora_weights(tmp_path)
    assert (report.alpha, report.strengths) == (".alpha tensors", (0.25, 0.25))
    assert_update(pipe, 0.25)


def test_a_header_comes_before_the_settings_beside_the_file(pipe, tmp_path) -> None:
    save_file(named("transformer.", "peft"), tmp_path / "a.safetensors", metadata={"lora_alpha": "2"})
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 40, "r": 4}')
    pipe.load_lora_weights(tmp_path)
    assert_update(pipe, 0.5)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_real_folder_of_peft(pipe, tmp_path, rslora) -> None:
    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=rslora, init_lora_weights=False, target_modules=["to_q", "img_mlp.net.2"],
        rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 5},
    )  # fmt: skip
    torch.manual_seed(3)
    model = get_peft_model(build_dense(2), config)
    model.save_pretrained(tmp_path)
    report = pipe.load_lora_weights(tmp_path)
    assert (report.loaded, report.alpha) == (4, "adapter_config.json")
    torch.testing.assert_close(sample(pipe.transformer), sample(model), rtol=1e-5, atol=1e-5)
    again = PeftModel.from_pretrained(build_dense(2), tmp_path)
    torch.testing.assert_close(sample(pipe.transformer), sample(again), rtol=1e-5, atol=1e-5)


def test_a_named_adapter_of_peft_lies_in_a_folder_of_its_name(pipe, tmp_path) -> None:
    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=["to_q"])
    model = get_peft_model(build_dense(2), config, adapter_name="style")
    model.save_pretrained(tmp_path)
    pipe.load_lora_weights(tmp_path, subfolder="style")
    torch.testing.assert_close(sample(pipe.transformer), sample(model), rtol=1e-5, atol=1e-5)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("saved_by", ["the model", "the pipeline"])
@pytest.mark.parametrize("upcycled", [False, True])
def test_what_is_saved_loads_as_it_was(pipe, mixture, tmp_path, saved_by, upcycled) -> None:
    source = mixture if upcycled else pipe
    torch.manual_seed(3)
    source.transformer.add_adapter(
        LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "net.2"]), "mine"
    )
    if saved_by == "the model":
        source.transformer.save_lora_adapter(tmp_path, adapter_name="mine")
    else:
        from peft.utils import get_peft_model_state_dict

        type(source).save_lora_weights(
            tmp_path,
            transformer_lora_layers=get_peft_model_state_dict(source.transformer, adapter_name="mine"),
            transformer_lora_adapter_metadata=source.transformer.peft_config["mine"].to_dict(),
        )
    wanted = sample(source.transformer)
    source.unload_lora_weights()
    assert not torch.allclose(sample(source.transformer), wanted, atol=1e-2)
    report = source.load_lora_weights(tmp_path)
    assert report.strengths == (1.5, 1.5)
    torch.testing.assert_close(sample(source.transformer), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", ["nan", "inf", "0", "soft"])
def test_an_alpha_that_is_no_number_is_refused(pipe, tmp_path, alpha) -> None:
    save_file(named("", "peft"), tmp_path / "a.safetensors", metadata={"lora_alpha": alpha})
    with pytest.raises(CheckpointError, match=f"gives alpha as '{alpha}'"):
        pipe.load_lora_weights(tmp_path / "a.safetensors")


# ---- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('{"peft_type": "LOHA"}', "kind LOHA"),
        ('{"use_dora": true}', "kind DoRA"),
        ('{"init_lora_weights": "pissa_niter_4"}', "begun as pissa_niter_4"),
        ('{"modules_to_save": ["proj_out"]}', "replaces whole modules"),
        ("[]", "no JSON object"),
        ("{", "damaged"),
    ],
)
def test_settings_of_another_kind_are_refused(pipe, tmp_path, settings, said) -> None:
    save_file(named("base_model.model.", "peft"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(CheckpointError, match=said):
        pipe.load_lora_weights(tmp_path)


FIRST = f"transformer.{LAYERS[0]}"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{FIRST}.lora_A.b.weight": torch.ones(RANK, 32)}, "holds two matrices"),
        ({f"{FIRST}.diff": torch.ones(32, 32)}, "full weight difference"),
        ({f"{FIRST}.lora_A.weight": torch.ones(RANK, 32).char()}, "as int8"),
        ({f"{FIRST}.scale_weight": torch.ones(1)}, "no part of a LoRA"),
        ({"transformer.proj_out.weight": torch.ones(4, 32)}, "no part of a LoRA"),
        ({f"{FIRST}.lora_B.weight": torch.full((32, RANK), torch.nan)}, "not finite"),
        ({f"{FIRST}.alpha": torch.tensor(torch.inf)}, "not finite"),
    ],
)
def test_tensors_that_are_no_plain_lora_are_refused(pipe, tensors, said) -> None:
    with pytest.raises(CheckpointError, match=said):
        pipe.load_lora_weights(named("transformer.", "peft") | tensors)
    assert not getattr(pipe.transformer, "peft_config", {})


def test_two_adapters_in_one_file_are_refused(pipe) -> None:
    tensors = {}
    for adapter, (name, (down, up)) in zip("abc", matrices().items(), strict=True):
        tensors |= {f"{name}.lora_A.{adapter}.weight": down, f"{name}.lora_B.{adapter}.weight": up}
    with pytest.raises(CheckpointError, match="adapters a, b, c"):
        pipe.load_lora_weights(tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_other_precisions_give_the_update_of_their_numbers(pipe, dtype) -> None:
    pipe.load_lora_weights({key: value.to(dtype) for key, value in named("transformer.", "peft").items()})
    dense = build_dense(2)
    with torch.no_grad():
        for name, (down, up) in matrices().items():
            dense.get_submodule(name).weight += up.to(dtype).float() @ down.to(dtype).float()
    tolerance = {torch.bfloat16: 0.1, torch.float16: 1e-2}.get(dtype, 1e-4)
    torch.testing.assert_close(sample(pipe.transformer), sample(dense), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), [float("nan")], {"transformer": float("nan")}])
def test_a_strength_must_be_finite(pipe, strength) -> None:
    pipe.load_lora_weights(named("transformer.", "peft"), adapter_name="a")
    with pytest.raises(UsageError, match="finite number"):
        pipe.set_adapters(["a"], strength)
    with pytest.raises(UsageError, match="finite number"):
        pipe.fuse_lora(lora_scale=float("nan"))


# ---- experts -------------------------------------------------------------------------------------------------------
def test_each_expert_has_an_update_of_its_own(mixture, tmp_path) -> None:
    given = named("transformer.", "peft")
    kept = {key: value.clone() for key, value in given.items()}
    mixture.load_lora_weights(given, adapter_name="a")
    experts = mixture.transformer.transformer_blocks[1].img_mlp.experts
    ups = [expert.net[2].lora_B["a"].weight for expert in experts]
    before = [up.detach().clone() for up in ups]
    with torch.no_grad():
        ups[0] += 1
    assert all(torch.equal(up, old) for up, old in zip(ups[1:], before[1:], strict=True))
    assert all(torch.equal(given[key], kept[key]) for key in given), "the caller's tensors are the caller's"
    mixture.transformer.save_pretrained(tmp_path)


# ---- which file ----------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for strength, name in enumerate(("first.safetensors", "deep/second.safetensors", f"usual/{NAME}"), start=1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tensors = {k: v * strength if "lora_B" in k else v for k, v in named("transformer.", "peft").items()}
        save_file(tensors, tmp_path / name)
    return tmp_path


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("options", "strength"),
    [
        ({}, 1),
        ({"weight_name": "deep/second.safetensors"}, 2),
        ({"weight_name": "second.safetensors", "subfolder": "deep"}, 2),
        ({"subfolder": "deep"}, 2),
        ({"subfolder": "usual/"}, 3),
        ({"local_files_only": True, "subfolder": "usual", "token": "x"}, 3),
    ],
)
def test_the_named_file_of_a_folder_is_loaded(pipe, folder, options, strength) -> None:
    pipe.load_lora_weights(folder, **options)
    assert_update(pipe, strength)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight_name": "none.safetensors"}, "holds no 'none.safetensors'"),
        ({"subfolder": "none"}, "holds no 'none/"),
        ({"weight_name": "../out.safetensors"}, "leads out"),
        ({"subfolder": "/etc"}, "leads out|holds no"),
        ({"weight_name": "lora.bin"}, "pickle"),
        ({"revision": "v2"}, "leave revision out"),
        ({"use_safetensors": False}, "pickle"),
        ({"network_alphas": {}}, "'network_alphas' is no option"),
        ({"hotswap": True}, "not; load it first"),
    ],
)
def test_an_option_is_honoured_or_refused(pipe, folder, options, said) -> None:
    with pytest.raises((UsageError, MissingError), match=said):
        pipe.load_lora_weights(folder, **options)


@pytest.mark.parametrize("option", ["weight_name", "subfolder", "revision"])
def test_a_file_and_a_state_dict_take_no_choice_of_file(pipe, folder, option) -> None:
    for source in (folder / "first.safetensors", named("", "peft")):
        with pytest.raises(UsageError, match=f"leave {option} out"):
            pipe.load_lora_weights(source, **{option: "x.safetensors"})


def test_only_the_named_file_of_a_repository_is_fetched(folder, tmp_path_factory) -> None:
    with served(folder) as hub, client_of(hub, tmp_path_factory.mktemp("cache")):
        fetched = lora_file("owner/model", subfolder="deep")
        assert fetched.parts[-2:] == ("deep", "second.safetensors")
        assert lora_file("owner/model", "deep/second.safetensors", local_files_only=True) == fetched
        with pytest.raises(MissingError, match=r"holds no 'usual/none\.safetensors'"):
            lora_file("owner/model", "usual/none.safetensors")
        with pytest.raises(MissingError, match=r"holds no 'usual/|not on this machine"):
            lora_file("owner/model", subfolder="usual", local_files_only=True)
        with pytest.raises(MissingError, match="no such revision"):
            lora_file("owner/model", subfolder="usual", revision="v9")
    assert set(hub.asked) == {"deep/second.safetensors"}
