"""Settings that exclude each other are refused before anything is built, in one sentence with the value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_model import tiny_components

from tagmoe import config
from tagmoe.config import RunConfig, apply_overrides, check_config, fit, schema
from tagmoe.errors import ConfigError
from tagmoe.losses.semantics import TagEmbedding
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.components import make_autoencoder, make_text_encoder
from tagmoe.tags import TAGS
from tagmoe.world import SIZE


def check(*overrides: str) -> RunConfig:
    # Components that are not there yet have settings of their own.
    data: dict[str, Any] = {"output_dir": "unused", "base": {"steps": 1}, "unified": {"steps": 1}, "components": None}
    return check_config(data, apply_overrides(data, overrides))


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["moe.top_k=5"], ["'moe.top_k' is 5", "'moe.num_experts' is 4"]),
        (["moe.num_experts=1"], ["'moe.num_experts' is 1", "2"]),
        (["moe.num_moe_blocks=7"], ["'moe.num_moe_blocks' is 7", "'transformer.num_layers' is 6"]),
        (["transformer.axes_dims_rope=[8, 8, 8]"], ["[8, 8, 8]", "'transformer.attention_head_dim', which is 32"]),
        (["transformer.axes_dims_rope=[9, 11, 12]"], ["[9, 11, 12]", "even"]),
        (["transformer.axes_dims_rope=[0, 16, 16]"], ["[0, 16, 16]", "from 2"]),
        (["transformer.axes_dims_rope=[8, 24]"], ["'transformer.axes_dims_rope"]),
        (["transformer.attention_head_dim=30"], ["which is 30"]),
        (["loss.tag_embedding=frozen-orthogonal", "loss.semantic_dim=17"], ["'loss.semantic_dim' is 17", "18"]),
        (["text_encoder.hidden_size=100", "text_encoder.num_heads=3"], ["'text_encoder.hidden_size' is 100", "6"]),
        (["text_encoder.hidden_size=36"], ["'text_encoder.hidden_size' is 36", "8", "even"]),
        (["text_encoder.num_kv_heads=3"], ["'text_encoder.num_kv_heads' is 3", "divide", "4"]),
        (["autoencoder.dim_mult=[]"], ["'autoencoder.dim_mult' is []", "1 to 6"]),
        (["autoencoder.dim_mult=[1, 1, 1, 1, 1, 1, 1]"], ["'autoencoder.dim_mult'", "1 to 6"]),
        (["autoencoder.dim_mult=[1, 0, 2, 2]"], ["[1, 0, 2, 2]", "from 1"]),
        (["seed=-1"], ["'seed' is -1"]),
        ([f"seed={2**70}"], [str(2**70)]),
        (["output_dir=''"], ["'output_dir'"]),
        (["optimizer.lr=.inf"], ["'optimizer.lr'", "finite"]),
        (["loss.lambda_align=.nan"], ["'loss.lambda_align'", "finite"]),
        (["loss.timestep_mean=-.inf"], ["'loss.timestep_mean'", "finite"]),
    ],
)
def test_each_misfit_is_one_sentence_with_its_value(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        check(*overrides)
    message = str(refused.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert "Value error" not in message


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        check(*overrides)
    text = str(refused.value)
    assert not any(words in text.lower() for words in ("input should", "unable to parse", "value error", "\n")), text
    return text


def test_all_wrong_settings_are_named() -> None:
    wrong = [
        "seed=-1",
        "moe.top_k=0",
        "loss.lambda_algin=1",
        "base.batch=true",
        "nothing",
        "threads=",
        "transformer.axes_dims_rope=[8, 8, 8]",
    ]
    text = message(*wrong)
    names = [
        "'seed' is -1",
        "'moe.top_k' is 0",
        "'loss.lambda_align'",
        "'base.batch' is true",
        "'nothing'",
        "'threads='",
    ]
    assert all(name in text for name in names), text
    # pydantic alone would look at pairs of settings only once every single one is right
    assert "'transformer.axes_dims_rope' is [8, 8, 8]" in text
    assert "(5 more settings are wrong.)" in message(*[f"q{i}=1" for i in range(25)])
    assert "(1 more setting is wrong.)" in message(*[f"q{i}=1" for i in range(21)])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=often", "The setting 'seed' is \"often\"; give a whole number from 0 to 4611686018427387904."),
        ("moe=3", "The setting 'moe' is 3; give a block of settings, or null."),
        ("moe.gate=round", "The setting 'moe.gate' is \"round\"; give mlp, linear or text."),
        ("loss.head_layers=4", "The setting 'loss.head_layers' is 4; give 2 or 3."),
        ("optimizer.lr=.inf", "The setting 'optimizer.lr' is .inf; give a finite number above 0."),
        ("optimizer.ema_decay=1", "The setting 'optimizer.ema_decay' is 1; give a number from 0 and below 1."),
        ("threads=100000", "The setting 'threads' is 100000; give a whole number from 1 to 1024, or null."),
        ("compile=3", "The setting 'compile' is 3; give true or false."),
        ("unified.edit_tasks=[1]", "The setting 'unified.edit_tasks' is [1]; give a list of texts, or null."),
        ("output_dir=''", "The setting 'output_dir' is \"\"; give a text that is not empty."),
    ],
)
def test_what_a_setting_takes_is_said_in_our_words(override: str, sentence: str) -> None:
    assert message(override) == sentence


def test_a_name_that_is_given_twice_is_refused() -> None:
    assert message("seed=1", "seed=2") == "--set gives 'seed' twice; give it once."
    assert "'moe.top_k' and 'moe'" in message("moe.top_k=1", "moe=null")


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "override",
    [f"seed={'9' * 500}", f"{'x' * 10**6}=1", f"output_dir=[{'x' * 10**6}]", "y" * 10**6, f"seed={'9' * 5000}"],
)
def test_a_long_value_is_cut(override: str) -> None:
    assert len(message(override)) < 350


def test_every_setting_is_described() -> None:
    found = {setting.name: setting for setting in config.settings()}
    assert found["moe.num_experts"].takes == "a whole number from 2 to 1024"
    assert (found["moe.num_experts"].default, found["base.steps"].default) == ("4", "required")
    assert all(setting.takes and "value" not in setting.takes for setting in found.values())
    numbers = [
        setting
        for setting in found.values()
        if setting.takes.startswith("a whole number") and "version" not in setting.name
    ]
    assert [setting.name for setting in numbers if " to " not in setting.takes] == []


def test_the_facts_copied_from_higher_layers_are_true() -> None:
    assert len(TAGS) == fit.NUM_TAGS
    assert SIZE == fit.PICTURE_SIZE
    generator = torch.Generator()
    assert generator.manual_seed(schema.LARGEST_SEED + 10**9) is generator


axis = st.integers(0, 5)


@settings(max_examples=40, deadline=None)
@given(axes=st.tuples(axis, axis, axis), blocks=st.integers(1, 3), top_k=st.integers(1, 3))
def test_an_accepted_transformer_runs(axes: tuple[int, int, int], blocks: int, top_k: int) -> None:
    overrides = [
        "transformer.num_layers=2", "transformer.num_attention_heads=1", "transformer.attention_head_dim=8",
        f"transformer.axes_dims_rope={list(axes)}", f"moe.num_moe_blocks={blocks}", "moe.num_experts=2",
        f"moe.top_k={top_k}",
    ]  # fmt: skip
    try:
        checked = check(*overrides)
    except ConfigError:
        assert blocks > 2 or top_k > 2 or sum(axes) != 8 or any(axis < 2 or axis % 2 for axis in axes)
        return
    model = TagMoETransformer2DModel(
        in_channels=4, out_channels=1, joint_attention_dim=4, **checked.transformer.model_dump(),
        num_moe_blocks=blocks, num_experts=2, top_k=top_k,
    )  # fmt: skip
    with torch.no_grad():
        sample = model(
            torch.zeros(1, 4, 4), torch.zeros(1, 3, 4), timestep=torch.ones(1), img_shapes=[[(1, 2, 2)]]
        ).sample
    assert sample.shape == (1, 4, 4)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("levels", range(1, 7))
def test_an_accepted_autoencoder_restores_the_size(levels: int) -> None:
    mult = [1] * levels
    assert check(f"autoencoder.dim_mult={mult}").autoencoder.dim_mult == tuple(mult)
    vae = make_autoencoder(base_dim=4, z_dim=1, dim_mult=mult)
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, 1, SIZE, SIZE)).latent_dist.mode()
        assert vae.decode(z).sample.shape == (1, 3, 1, SIZE, SIZE)
    assert z.shape[-1] % fit.PATCH_SIZE == 0


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("heads", "kv", "hidden"), [(1, 1, 16), (2, 1, 20), (4, 2, 24), (3, 3, 18), (8, 8, 16)])
def test_an_accepted_text_encoder_runs(heads: int, kv: int, hidden: int) -> None:
    check(f"text_encoder.num_heads={heads}", f"text_encoder.num_kv_heads={kv}", f"text_encoder.hidden_size={hidden}")
    tokenizer = tiny_components(["a red circle"])["tokenizer"]
    encoder = make_text_encoder(
        tokenizer, hidden_size=hidden, num_layers=1, num_heads=heads, num_kv_heads=kv, intermediate_size=16
    )
    ids = torch.tensor([tokenizer("a red circle").input_ids])
    with torch.no_grad():
        assert torch.isfinite(encoder(input_ids=ids).logits).all()


def test_the_smallest_frozen_embedding_that_is_accepted_can_be_built() -> None:
    checked = check("loss.tag_embedding=frozen-orthogonal", "loss.semantic_dim=18")
    assert TagEmbedding(checked.loss.semantic_dim, kind="frozen-orthogonal").weight.shape == (18, 18)
    with pytest.raises(ConfigError, match="18"):
        TagEmbedding(17, kind="frozen-orthogonal")
    assert check("loss.semantic_dim=17", "loss.tag_embedding=learned").loss.semantic_dim == 17
