"""The authors' weights: what our loaded model computes is what their layer computes, and every key has its place."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.modeling_utils import no_init_weights
from safetensors.torch import save_file
from support.released import (
    BLOCKS,
    DIM,
    EXPERTS,
    FFN,
    MIXTURES,
    dense_state,
    released_weights,
    save_base,
    save_released,
)
from torch import nn

from tagmoe.errors import CheckpointError, MissingError, TagMoEError
from tagmoe.losses.objective import Objective
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.release import load_release
from tagmoe.weights.layout import DENSE_DEFAULTS
from tagmoe.weights.release import dense_shapes, is_release, plan_release, read_base_config, read_release
from tagmoe.weights.shards import Entry

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("release") / "base")


@pytest.fixture(scope="module")
def weights(base: Path) -> Weights:
    return released_weights(dense_state(base))


@pytest.fixture(scope="module")
def folder(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_released(weights, tmp_path_factory.mktemp("release") / "authors")


# What the layer computes ----------------------------------------------------------------------------------------


def released_layer(
    weights: Weights,
    block: int,
    x_TD: torch.Tensor,
    *,
    transposed: bool = False,
    shared_bias: bool = False,
    renormalised: bool = False,
) -> torch.Tensor:
    """The released layer in plain torch, token by token. The switches are mistakes that a loader could make."""
    here = f"transformer_blocks.{block}.img_mlp"
    router = weights[f"{here}.router.layer.weight"]
    w1, w2 = (weights[f"{here}.experts.mlp.{name}"].view(EXPERTS, FFN, DIM) for name in ("w1", "w2"))
    rows = []
    for x_D in x_TD:
        scores = torch.softmax(router.float() @ x_D.float(), dim=0)
        expert = int(scores.argmax())
        weight = scores[expert] / (scores[expert] if renormalised else 1)
        hidden = torch.nn.functional.gelu(w1[expert] @ x_D, approximate="tanh")
        # the mistake: reading the bytes of [F, D] as if they were an nn.Linear's [D, F]
        matrix = w2[expert].reshape(DIM, FFN).T if transposed else w2[expert]
        y_D = weight * (hidden @ matrix)
        rows.append(y_D + weights[f"{here}.experts.bias"] if shared_bias else y_D)
    return torch.stack(rows)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(40, DIM, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("block", MIXTURES)
def test_a_loaded_mixture_is_the_released_layer(folder: Path, base: Path, weights: Weights, tokens, block) -> None:
    model, _ = load_release(folder, base)
    y_BTD, scores, ids = model.transformer_blocks[block].img_mlp(tokens[None], return_routing=True)
    assert len(ids.unique()) == EXPERTS
    assert scores.max(dim=-1).values.mean() < 0.95
    torch.testing.assert_close(y_BTD[0], released_layer(weights, block, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mistake", ["transposed", "shared_bias", "renormalised"])
def test_each_mistake_of_a_loader_would_be_seen(folder: Path, base: Path, weights: Weights, tokens, mistake) -> None:
    model, _ = load_release(folder, base)
    y_TD = model.transformer_blocks[MIXTURES[0]].img_mlp(tokens[None])[0]
    wrong = released_layer(weights, MIXTURES[0], tokens, **{mistake: True})
    assert ((y_TD - wrong).abs().amax(dim=-1) > 0.01).all()


class PlainReleasedFFN(nn.Module):
    """The released layer in place of a diffusers block's image MLP."""

    def __init__(self, weights: Weights, block: int) -> None:
        super().__init__()
        self.call = lambda x_TD: released_layer(weights, block, x_TD)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.call(x_BTD.flatten(0, 1)).view_as(x_BTD)


@pytest.mark.slow
def test_the_whole_model_is_diffusers_with_that_layer(folder: Path, base: Path, weights: Weights) -> None:
    stock = QwenImageTransformer2DModel.from_pretrained(base, subfolder="transformer").eval()
    kept = {name: value for name, value in weights.items() if name in stock.state_dict()}
    assert len(stock.load_state_dict(kept, strict=False).missing_keys) == 4 * len(MIXTURES)
    for block in MIXTURES:
        stock.transformer_blocks[block].img_mlp = PlainReleasedFFN(weights, block)
    model, _ = load_release(folder, base)
    generator = torch.Generator().manual_seed(1)
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(2, 23, 16, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 32, generator=generator),
        "timestep": torch.tensor([0.3, 0.8]),
        "img_shapes": [[(1, 3, 5), (1, 2, 4)]] * 2,
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).sample, stock(**inputs).sample, rtol=1e-4, atol=1e-4)


# Every key ------------------------------------------------------------------------------------------------------


def test_the_alignment_parts_load_into_the_objective(folder: Path, base: Path, weights: Weights) -> None:
    _, alignment = load_release(folder, base)
    objective = Objective(EXPERTS, 512, head_layers=3)
    objective.load_state_dict(alignment, strict=True)
    assert torch.equal(objective.tag_embedding.weight, weights["tag_embedding.weight"])
    assert torch.equal(objective.router_head.net[4].bias, weights["router_head.net.4.bias"])


@pytest.mark.slow
def test_the_loaded_model_says_what_it_is_and_is_ready(folder: Path, base: Path) -> None:
    model, _ = load_release(folder, base, dtype=torch.bfloat16)
    config = model.config
    assert (config.gate, config.expert_bias, config.top_k) == ("linear", False, 1)
    assert (config.num_moe_blocks, config.num_experts, config.num_layers) == (len(MIXTURES), EXPERTS, BLOCKS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert all(parameter.device.type == "cpu" and parameter.requires_grad for parameter in model.parameters())


def full_size_release() -> dict[str, tuple[int, ...]]:
    """The expected names and shapes of the authors' file: 60 blocks of Qwen-Image, mixtures in the last ten."""
    with torch.device("meta"), no_init_weights():
        stock = QwenImageTransformer2DModel()
    shapes = {name: tuple(value.shape) for name, value in stock.state_dict().items()}
    for block in range(50, 60):
        here = f"transformer_blocks.{block}.img_mlp"
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(f"{here}.")}
        shapes |= {
            f"{here}.router.layer.weight": (4, 3072),
            f"{here}.experts.mlp.w1": (49152, 3072),
            f"{here}.experts.mlp.w2": (49152, 3072),
            f"{here}.experts.bias": (3072,),
        }
    shapes["tag_embedding.weight"] = (18, 512)
    for layer, (wide, narrow) in {0: (256, 4), 2: (256, 256), 4: (512, 256)}.items():
        shapes |= {f"router_head.net.{layer}.weight": (wide, narrow), f"router_head.net.{layer}.bias": (wide,)}
    return shapes


def entries(shapes: dict[str, tuple[int, ...]], dtype: str = "BF16") -> dict[str, Entry]:
    return {name: Entry(name, dtype, shape, Path("none"), 0, 0) for name, shape in shapes.items()}


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [pytest.param("", marks=SLOW), pytest.param("module.", marks=SLOW), "transformer."])
def test_the_full_size_release_maps_one_to_one_onto_our_model(prefix: str) -> None:
    released = full_size_release()
    plan = plan_release(entries({prefix + name: shape for name, shape in released.items()}), {})
    with torch.device("meta"), no_init_weights():
        ours = TagMoETransformer2DModel.from_config(plan.config).state_dict()
    assert sum(value.numel() for value in ours.values()) == 22_695_294_528
    assert {piece.name: piece.shape for piece in plan.weights} == {k: tuple(v.shape) for k, v in ours.items()}
    assert len(plan.weights) == len(ours)

    # every row of every released key goes to exactly one place
    taken: Counter[str] = Counter()
    for piece in plan.weights:
        shape = released[piece.source.removeprefix(prefix)]
        first, last = (0, shape[0]) if piece.rows is None else piece.rows
        assert 0 <= first < last <= shape[0]
        rows = (last - first, *shape[1:])
        assert piece.shape == (rows[::-1] if piece.transposed else rows)
        taken[piece.source] += last - first
    counts = plan.counts()
    assert counts == {
        "taken": len(released) - 20 - 7 - 10, "split": 10, "transposed": 10, "kept_for_analysis": 7, "dropped": 10,
    }  # fmt: skip
    everywhere = [*taken, *(piece.source for piece in plan.alignment), *plan.dropped]
    assert sorted(everywhere) == sorted(prefix + name for name in released)
    assert all(taken[name] == released[name.removeprefix(prefix)][0] for name in taken)
    assert plan.dropped == tuple(f"{prefix}transformer_blocks.{block}.img_mlp.experts.bias" for block in range(50, 60))


@pytest.mark.slow_but_first
@pytest.mark.parametrize("config", [{}, {"num_layers": 2, "use_additional_t_cond": True}, {"out_channels": None}])
def test_the_table_of_names_is_that_of_diffusers(config: dict[str, Any]) -> None:
    with torch.device("meta"), no_init_weights():
        stock = QwenImageTransformer2DModel(**config)
    assert dense_shapes(config) == {name: tuple(value.shape) for name, value in stock.state_dict().items()}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(QwenImageTransformer2DModel.__init__).parameters.items()
    }
    del defaults["self"]
    assert defaults == DENSE_DEFAULTS


def same(first: TagMoETransformer2DModel, second: TagMoETransformer2DModel) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "layout", ["transformer", "shards", "shards below", "other name", "no index", "file", "prefix"]
)
def test_every_layout_of_files_is_the_same_model(folder, base, weights, tmp_path, layout) -> None:
    source = tmp_path / "authors"
    if layout == "transformer":
        save_released(weights, source / "transformer")
    elif layout.startswith("shards"):
        save_released(weights, source / "transformer" if "below" in layout else source, shards=3)
    elif layout == "prefix":
        save_released({f"module.{name}": value for name, value in weights.items()}, source)
    else:
        save_released(weights, source, name="tagmoe.safetensors", shards=2 if layout == "no index" else 1)
        (source / "tagmoe.safetensors.index.json").unlink(missing_ok=True)
    # a pickle beside the weights is not looked at
    torch.save({}, source / "pytorch_model.bin")
    assert is_release(source)
    loaded, alignment = load_release(source / "tagmoe.safetensors" if layout == "file" else source, base)
    assert same(load_release(folder, base)[0], loaded)
    assert len(alignment) == 7


def test_a_release_without_the_alignment_parts_or_the_unused_bias_still_loads(base, weights, tmp_path) -> None:
    needed = {
        name: value
        for name, value in weights.items()
        if not name.startswith(("tag_", "router_head")) and not name.endswith("experts.bias")
    }
    model, alignment = load_release(save_released(needed, tmp_path / "authors"), base)
    assert alignment == {}
    assert plan_release(read_release(tmp_path / "authors"), read_base_config(base)).counts()["dropped"] == 0
    assert model.config.num_moe_blocks == len(MIXTURES)


# Bad input ------------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def with_(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.zeros(shape)}


ROUTER = "transformer_blocks.3.img_mlp.router.layer.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("proj_out.bias"), r"missing: proj_out\.bias"),
        (without("transformer_blocks.0.attn.to_q.weight"), r"missing: transformer_blocks\.0\.attn\.to_q\.weight"),
        (without("transformer_blocks.3.img_mlp.experts.mlp.w2"), r"missing: .*3\.img_mlp\.experts\.mlp\.w2"),
        (without("router_head.net.2.bias"), r"missing: router_head\.net\.2\.bias"),
        (with_("proj_extra.weight", 3), r"unknown: proj_extra\.weight"),
        (with_("module.proj_extra.weight", 3), r"unknown: module\.proj_extra\.weight"),
        (with_("transformer_blocks.3.img_mlp.net.2.bias", 32), r"unknown: .*3\.img_mlp\.net\.2\.bias"),
        (with_("transformer_blocks.4.attn.to_q.weight", 32, 32), r"unknown: transformer_blocks\.4"),
        (with_("img_in.weight", 64, 16), r"of another shape: img_in\.weight is \[64, 16\] and must be \[32, 16\]"),
        (with_("transformer_blocks.2.img_mlp.experts.mlp.w1", 2 * FFN, DIM), r"w1 is \[256, 32\].*be \[512, 32\]"),
        (with_("transformer_blocks.2.img_mlp.experts.mlp.w2", EXPERTS * DIM, FFN), r"w2 is \[128, 128\]"),
        (with_("transformer_blocks.2.img_mlp.experts.bias", 7), r"bias is \[7\] and must be \[32\]"),
        (with_("tag_embedding.weight", 18, 64), r"tag_embedding\.weight is \[18, 64\] and must be \[18, 512\]"),
        (with_("transformer_blocks.2.img_mlp.router.layer.weight", 1, 32), r"router of shape \[1, 32\]"),
        (with_("transformer_blocks.2.img_mlp.router.layer.weight", 4), r"router of shape \[4\]"),
        (with_(ROUTER, 2, 32), r"of another shape: .*3\.img_mlp\.router\.layer\.weight"),
        (without(ROUTER), r"blocks 2, which are not the last ones of the 4 blocks"),
        (with_("transformer_blocks.0.img_mlp.router.layer.weight", 4, 32), r"blocks 0, 2, 3, which are not the last"),
        (lambda w: {k: v for k, v in w.items() if "router.layer" not in k}, "does not have the layout"),
        (lambda w: w | {"proj_out.bias": torch.zeros(16, dtype=torch.float8_e4m3fn)}, r"dtype.*proj_out\.bias is F8"),
        (lambda w: w | {"proj_out.bias": torch.zeros(16, dtype=torch.int8)}, r"dtype.*proj_out\.bias is I8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_loaded(base, weights, tmp_path, change, said) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        load_release(save_released(change(weights), tmp_path / "authors"), base)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("num_attention_heads", 4, r"of another shape: .* and \d+ more"),
        ("num_layers", 6, "blocks 2, 3, which are not the last ones of the 6 blocks of the base"),
        ("num_layers", 3, "not the last ones of the 3 blocks"),
        ("joint_attention_dim", 64, r"txt_norm\.weight is \[32\] and must be \[64\]"),
        ("in_channels", "many", "in_channels 'many'"),
        ("num_layers", 0, "num_layers 0"),
        ("patch_size", True, "patch_size True"),
    ],
)
def test_a_base_of_other_dimensions(folder, base, tmp_path, setting, value, said) -> None:

    config = json.loads((base / "transformer" / "config.json").read_text())
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config | {setting: value}))
    with pytest.raises(CheckpointError, match=said):
        load_release(folder, tmp_path)


def damage(folder: Path, how: str) -> str:
    """Break a release of three shards; returns the file that must be named."""
    shard = sorted(folder.glob("*.safetensors"))[1]
    data = shard.read_bytes()
    if how == "missing shard":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(data[:-10])
    elif how == "cut header":
        shard.write_bytes(data[:20])
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "pickle inside":
        torch.save({"weight": torch.zeros(2)}, shard)
    return shard.name


@pytest.mark.parametrize("how", ["missing shard", "cut", "cut header", "empty", "pickle inside"])
def test_a_damaged_file_is_named(base, weights, tmp_path, how) -> None:
    folder = save_released(weights, tmp_path / "authors", shards=3)
    name = damage(folder, how)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_release(folder, base)
    assert "\n" not in str(caught.value)
    assert not is_release(folder)


class Bomb:
    """Runs code when a pickle of it is read."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('the pickle was read')",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tagmoe.pt", "transformer/diffusion_pytorch_model.bin"])
def test_a_pickle_is_refused_with_the_reason(base, tmp_path, name) -> None:
    file = tmp_path / "authors" / name
    file.parent.mkdir(parents=True)
    torch.save(Bomb(), file)
    for source in (tmp_path / "authors", file):
        with pytest.raises(CheckpointError, match=r"a pickle can run any code.*safetensors"):
            load_release(source, base)


def test_what_is_not_there(folder, base, tmp_path) -> None:
    with pytest.raises(MissingError, match="hf download YUXU915/TAG-MoE"):
        load_release(tmp_path / "none", base)
    with pytest.raises(MissingError, match="hf download Qwen/Qwen-Image"):
        load_release(folder, tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        load_release(tmp_path, base)
    with pytest.raises(CheckpointError, match=r"config\.json' is missing"):
        load_release(folder, folder)


def test_a_key_in_two_files_is_refused(base, weights, tmp_path) -> None:
    folder = save_released(weights, tmp_path / "authors", name="a.safetensors")
    save_file({"proj_out.bias": torch.zeros(16)}, folder / "b.safetensors")
    with pytest.raises(TagMoEError, match=r"proj_out\.bias"):
        load_release(folder, base)


def test_a_dense_model_is_no_release(base) -> None:
    assert not is_release(base)
    with pytest.raises(CheckpointError, match="does not have the layout"):
        load_release(base, base)
