"""What trains: the mixtures alone without a graph before them, LoRA in diffusers' names, frozen weights in few bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_training import tiny_config, train_quietly
from torch.autograd.graph import saved_tensors_hooks

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import ConfigError, MissingError
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.checkpoint import list_checkpoints
from tagmoe.train.frozen import StoredLinear, kept_bytes, restore_frozen
from tagmoe.train.mixture import with_start
from tagmoe.train.trained import MIXTURE, TrainedPart, choose_trained, save_lora, trained_part

RunTraining = Callable[..., Path]
WEIGHTS = "diffusion_pytorch_model.safetensors"
STAGES = {"base": {"steps": 0}, "unified": {"steps": 3, "batch": 4, "unique_samples": 64, "text_to_image_every": 3}}


def model(layers: int = 4, mixtures: int = 2) -> TagMoETransformer2DModel:
    torch.manual_seed(0)
    made: TagMoETransformer2DModel = TagMoETransformer2DModel(
        num_layers=layers, num_attention_heads=2, attention_head_dim=32, axes_dims_rope=(8, 12, 12), in_channels=16,
        out_channels=4, joint_attention_dim=32, num_moe_blocks=mixtures,
    )  # fmt: skip
    return made


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 32, 16, generator=generator),
        "encoder_hidden_states": torch.randn(2, 8, 32, generator=generator),
        "timestep": torch.rand(2, generator=generator),
        "img_shapes": [[(1, 4, 4)] * 2] * 2,
    }


def settings(**changes: Any) -> RunConfig:
    return check_config({"output_dir": "unused", "base": {"steps": 0}, "unified": {"steps": 1}, **changes})


def test_moe_has_no_graph_before_the_first_mixture() -> None:
    transformer = model()
    choose_trained(transformer, settings(parameters="moe", frozen_dtype="fp32"))
    saved: list[torch.Tensor] = []
    at_block: list[int] = []
    graphs: list[bool] = []

    def note(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        at_block.append(len(saved))
        graphs.append(args[0].requires_grad)

    for block in transformer.transformer_blocks:
        block.register_forward_pre_hook(note)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = transformer(**inputs(), return_routing="stats")
    assert at_block[:3] == [0, 0, 0], "the two dense blocks save nothing for backward"
    assert at_block[3] > 0
    assert graphs == [False, False, False, True]
    assert output.sample.requires_grad
    assert output.routing.mean_probs_LBN.requires_grad


def test_gradients_of_moe_are_those_of_all() -> None:
    def gradients(parameters: str) -> dict[str, torch.Tensor]:
        transformer = model()
        choose_trained(
            transformer, settings(parameters=parameters, **({} if parameters == "all" else {"frozen_dtype": "fp32"}))
        )
        output = transformer(**inputs(), return_routing="stats")
        (output.sample.square().mean() + output.routing.mean_probs_LBN.square().sum()).backward()
        return {name: p.grad for name, p in transformer.named_parameters() if p.grad is not None}

    every, mixture = gradients("all"), gradients("moe")
    assert mixture.keys() == {name for name in every if any(part in name for part in MIXTURE)}
    assert all(torch.equal(mixture[name], every[name]) for name in mixture)


def test_a_part_has_the_names_of_what_trains_and_refuses_others() -> None:
    transformer = model()
    assert trained_part(transformer) is transformer
    choose_trained(transformer, settings(parameters="moe"))
    part = trained_part(transformer)
    assert isinstance(part, TrainedPart)
    state = part.state_dict()
    assert state.keys() == dict(part.named_parameters()).keys()
    assert all(any(mark in name for mark in MIXTURE) for name in state)
    name = next(iter(state))
    part.load_state_dict({**state, name: torch.full_like(state[name], 7.0)})
    assert bool((transformer.get_parameter(name) == 7).all())
    with pytest.raises(RuntimeError, match="elsewhere"):
        part.load_state_dict({**state, "elsewhere": state[name]})
    with pytest.raises(RuntimeError, match="shape"):
        part.load_state_dict({**state, name: state[name][:1]})


@pytest.mark.parametrize(("dtype", "bits", "most"), [("bf16", 16, 2**-8), ("fp8", 8, 2**-4), ("nf4", 4, 0.2)])
def test_frozen_weights_take_so_many_bits_and_are_so_near(dtype: str, bits: int, most: float) -> None:
    before = model()
    transformer = model()
    choose_trained(transformer, settings(parameters="moe", frozen_dtype=dtype))
    layer = transformer.transformer_blocks[0].attn.to_q
    shape = before.transformer_blocks[0].attn.to_q.weight.shape
    assert layer.weight.numel() * layer.weight.element_size() == shape.numel() * bits // 8
    assert kept_bytes(shape, dtype) >= shape.numel() * bits // 8
    outputs = [one(**inputs()).sample for one in (before, transformer)]
    assert not torch.equal(*outputs)
    restore_frozen(transformer, torch.float32)
    assert type(transformer.transformer_blocks[0].attn.to_q) is torch.nn.Linear
    torch.testing.assert_close(transformer(**inputs()).sample, outputs[1], rtol=0, atol=1e-5)
    old, new = (one.transformer_blocks[0].attn.to_q.weight.detach() for one in (before, transformer))
    assert float((old - new).abs().max() / old.abs().max()) <= most
    for name in ("img_in", "proj_out"):
        assert torch.equal(getattr(before, name).weight, getattr(transformer, name).weight), "kept in fp32"


def test_no_copy_of_a_frozen_weight_waits_for_backward() -> None:
    layer = StoredLinear(torch.nn.Linear(64, 48), torch.float8_e4m3fn)
    saved: list[torch.Tensor] = []
    x = torch.randn(5, 64, requires_grad=True)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert sum(tensor.numel() * tensor.element_size() for tensor in saved) == 64 * 48 + 4
    y.sum().backward()
    assert torch.allclose(x.grad, layer.restored(torch.float32).weight.sum(dim=0).expand_as(x))


def test_a_layer_of_zeros_stays_one() -> None:
    linear = torch.nn.Linear(4, 4)
    torch.nn.init.zeros_(linear.weight)
    assert float(StoredLinear(linear, torch.float8_e4m3fn).restored(torch.float32).weight.abs().max()) == 0


@pytest.mark.slow_but_first
@pytest.mark.parametrize("dtype", ["nf4", "fp8", "bf16"])
def test_a_run_of_moe_trains_the_mixture_alone_and_resumes(
    dtype: str, config: Callable[..., RunConfig], run_training: RunTraining
) -> None:
    changes = {
        "parameters": "moe",
        "frozen_dtype": dtype,
        "base": {"steps": 1},
        "unified": {"steps": 2},
        "save_every": 1,
    }
    whole, stopped = config("whole", **changes), config("stopped", **changes, keep_checkpoints=5)
    finished = run_training(whole)
    state = load_file(list_checkpoints(Path(whole.output_dir) / "checkpoints" / "unified")[-1] / "ema.safetensors")
    owners = {name.split(".")[0] for name in state}
    assert owners == {"transformer", "objective"}
    assert all(any(part in name for part in MIXTURE) for name in state if name.startswith("transformer"))
    run_training(stopped)
    last = list_checkpoints(Path(stopped.output_dir) / "checkpoints" / "unified")[-1]
    for file in last.iterdir():
        file.unlink()
    again = run_training(stopped, resume=True)
    before, after = (load_file(folder / "transformer" / WEIGHTS) for folder in (finished, again))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_of_lora_is_read_by_the_pipeline(
    whole: RunConfig, run_training: RunTraining, latents: str, tmp_path: Path
) -> None:
    first = Path(whole.output_dir) / "model"
    lora = {"rank": 2, "alpha": 4, "modules": ["to_q", "net.2"]}
    second = check_config(
        {
            "output_dir": str(tmp_path / "second"), "start": str(first.parent), "parameters": "lora", "lora": lora,
            "threads": 1, "precision": "fp32", "cache_dir": latents, "optimizer": {"lr": 1e-2, "name": "adamw"},
            **STAGES,
        }
    )  # fmt: skip
    folder = run_training(second)
    assert folder.name == "lora"
    names = load_file(folder / "pytorch_lora_weights.safetensors").keys()
    assert {"transformer.transformer_blocks.1.img_mlp.experts.3.net.2.lora_B.weight",
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"} <= names  # fmt: skip
    pipeline = TagMoEPipeline.from_pretrained(first, dtype=torch.float32)
    plain = deepcopy(pipeline.transformer)
    report = pipeline.load_lora_weights(folder)
    assert report.dropped == ()
    assert report.strengths == (2.0, 2.0)
    changed = {"in_channels": plain.config.in_channels, "joint": plain.config.joint_attention_dim}
    arguments = inputs() | {
        "hidden_states": torch.randn(2, 32, changed["in_channels"]),
        "encoder_hidden_states": torch.randn(2, 8, changed["joint"]),
    }
    assert not torch.equal(plain(**arguments).sample, pipeline.transformer(**arguments).sample)
    assert run_training(second, resume=True) == folder


def test_a_lora_that_is_saved_computes_what_trained(components: str, tmp_path: Path) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components, dtype=torch.float32)
    trained = deepcopy(pipeline.transformer)
    choose_trained(trained, settings(parameters="lora", frozen_dtype="fp32", moe=None, lora={"rank": 3, "alpha": 6}))
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            assert ".lora_" in name
            torch.nn.init.normal_(parameter, std=0.3)
    save_lora(trained, tmp_path)
    pipeline.load_lora_weights(tmp_path)
    arguments = inputs() | {"encoder_hidden_states": torch.randn(2, 8, 32)}
    torch.testing.assert_close(trained(**arguments).sample, pipeline.transformer(**arguments).sample)


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_start_is_a_folder_of_either_kind(kind: str, components: str, latents: str, tmp_path: Path) -> None:
    folder = Path(components)
    if kind == "mixture":
        folder = train_quietly(
            tiny_config(tmp_path / "m", components, latents, base={"steps": 0}, unified={"steps": 0})
        )
    tiny = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6]}
    config = with_start(
        settings(
            start=str(folder), transformer=tiny, moe={"num_moe_blocks": 1}, loss={"semantic_dim": 18, "head_hidden": 16}
        )
    )
    assert getattr(config, kind) == str(folder)
    assert config.start == "scratch"
    older = with_start(
        settings(
            **{kind: str(folder)},
            transformer=tiny,
            moe={"num_moe_blocks": 1},
            loss={"semantic_dim": 18, "head_hidden": 16},
        )
    )
    assert config.model_dump(mode="json") == older.model_dump(mode="json"), "one way, whatever it is called"


def test_a_start_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="'start'"):
        with_start(settings(start=str(tmp_path / "none")))
    release = tmp_path / "release"
    release.mkdir()
    (release / "config.json").write_text(json.dumps({"_class_name": "QwenImageTransformer2DModel"}))
    with pytest.raises(Exception, match=r"transformer|authors"):
        with_start(settings(start=str(release)))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"start": "a", "mixture": "b"}, "'mixture' names 'b'"),
        ({"start": "a", "dense": "b"}, "'dense' names 'b'"),
        ({"start": "a", "base": {"steps": 3}}, "'base.steps' is 3"),
        ({"parameters": "moe", "moe": None}, "'parameters' is 'moe'"),
        ({"frozen_dtype": "fp8"}, "nothing is frozen"),
        ({"parameters": "moe", "lora": {"rank": 4}}, "'lora' is given"),
        ({"parameters": "lora", "moe": None, "wide": {"num_blocks": 1}}, "'wide' adds FFNs"),
        ({"optimizer": {"states": "8bit"}}, "'optimizer.states' is '8bit'"),
        ({"optimizer": {"gradients": "bf16"}}, "'optimizer.gradients' is 'bf16'"),
        ({"optimizer": {"schedule": "cosine", "decay_share": 0.5}}, "'optimizer.decay_share'"),
        ({"loss": {"resolution_shift": True, "timestep_shift": 3.0}}, "'loss.timestep_shift' is 3"),
        ({"base": {"steps": 1, "reference_dropout": 0.1}}, "'base.reference_dropout' is 0.1"),
        ({"base": {"steps": 1, "edit_tasks": ["recolour"]}}, "'base.edit_tasks' is given"),
        ({"base": {"steps": 1, "text_to_image_every": 4}}, "leave 'base.text_to_image_every' out"),
        ({"unified": {"steps": 1, "edit_tasks": ["recolour"], "text_to_image_every": 1}}, "'unified.edit_tasks'"),
        ({"unified": {"steps": 1, "keep_texts": True}, "data": {"store": "a"}}, "'unified.keep_texts' keeps"),
        ({"optimizer": {"name": "adamw", "muon_lr": 0.1}}, "'optimizer.muon_lr' is 0.1"),
        ({"parameters": "lora", "optimizer": {"gate_rate": 2.0}}, "no gate trains"),
        ({"loss": {"timestep_density": "uniform", "timestep_mean": 0.5}}, "'loss.timestep_mean' is 0.5"),
        ({"loss": {"timestep_density": "uniform", "timestep_std": 2.0}}, "'loss.timestep_std' is 2"),
        ({"autoencoder": {"base_dim": 16}}, "'autoencoder' is given"),
        ({"text_encoder": {"num_layers": 3}}, "'text_encoder' is given"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(**changes)
    assert part in str(refused.value)


def test_modules_that_the_transformer_has_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="'to_x'"):
        choose_trained(model(), settings(parameters="lora", lora={"modules": ["to_x"]}))
    with pytest.raises(ConfigError, match="no mixture"):
        choose_trained(model(mixtures=0), settings(parameters="moe"))
