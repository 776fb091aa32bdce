"""Tokens that cannot change a pixel: they are dead, they may be left out, and the config says whether they count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from tagmoe.errors import ConfigError
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.routing import ROUTING_TOKENS
from tagmoe.model.transformer import TagMoETransformer2DModel, takes_target_only

TARGET, REFERENCE, BATCH = 15, 8, 2  # tokens a sample, and samples, of the fixture `inputs`


def add_noise(block: nn.Module, *, to: slice) -> None:
    """Noise of sd 100 on the output of the block's image MLP, on some tokens."""

    def noisy(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        y_BTD = (output[0] if isinstance(output, tuple) else output).clone()
        y_BTD[:, to] += 100 * torch.randn_like(y_BTD[:, to])
        return (y_BTD, *output[1:]) if isinstance(output, tuple) else y_BTD

    block.img_mlp.register_forward_hook(noisy)


@pytest.mark.parametrize("mixtures", [0, 2])
def test_the_last_blocks_reference_tokens_change_no_pixel_and_others_do(build, inputs, mixtures):
    expected = build(num_moe_blocks=mixtures)(**inputs).sample
    for block, tokens, dead in (
        (-1, slice(TARGET, None), True),
        (-1, slice(0, TARGET), False),
        (-2, slice(TARGET, None), False),
    ):
        model = build(num_moe_blocks=mixtures)
        add_noise(model.transformer_blocks[block], to=tokens)
        sample = model(**inputs).sample
        assert torch.equal(sample[:, :TARGET], expected[:, :TARGET]) == dead
        assert not torch.equal(sample, expected)


@pytest.mark.parametrize("mixtures", [0, 2])
def test_no_gradient_of_the_picture_reaches_them_or_the_last_text_mlp(build, inputs, mixtures):
    model = build(num_moe_blocks=mixtures)
    outputs = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        outputs[-1].retain_grad()

    model.transformer_blocks[-1].img_mlp.register_forward_hook(keep)
    model(**inputs).sample[:, :TARGET].square().sum().backward()
    assert (outputs[0].grad[:, TARGET:] == 0).all()
    assert (outputs[0].grad[:, :TARGET] != 0).any()
    dead = [p.grad for name, p in model.named_parameters() if "blocks.3.txt_mlp" in name]
    assert dead
    assert all(grad is None for grad in dead)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("routing", [None, "stats", "full"])
@pytest.mark.parametrize(
    "extra",
    [{}, {"zero_cond_t": True}, {"top_k": 2}, {"num_moe_blocks": 0}, *({"routing_tokens": k} for k in ROUTING_TOKENS)],
    ids=str,
)
def test_the_target_alone_is_as_among_all_tokens(build, inputs, extra, routing):
    model = build(**extra)
    if routing is not None and extra.get("num_moe_blocks") == 0:
        pytest.skip("a dense model has no routing")
    inputs["controlnet_block_samples"] = [torch.randn(BATCH, TARGET + REFERENCE, 32) for _ in range(2)]
    with torch.no_grad():
        whole = model(**inputs, return_routing=routing)
        alone = model(**inputs, return_routing=routing, target_only=True)
    assert alone.sample.shape == (BATCH, TARGET, 16)
    torch.testing.assert_close(alone.sample, whole.sample[:, :TARGET], rtol=0, atol=1e-6)
    if routing is not None:
        for name in alone.routing:
            given, wanted = getattr(alone.routing, name), getattr(whole.routing, name)
            if isinstance(wanted, torch.Tensor) and wanted.is_floating_point():
                torch.testing.assert_close(given, wanted, rtol=0, atol=1e-6)
            else:
                assert torch.equal(given, wanted) if isinstance(wanted, torch.Tensor) else given == wanted


# Target, reference, batch, and whether leaving tokens out keeps every bit. It does where each expert has four
# rows or more, or none, and no count of rows sends a product to another kernel.
SIZES = {
    ((4, 4), (4, 4), 2): True,  # TagWorld's: target, reference, batch with guidance
    ((8, 8), (4, 4), 2): True,
    ((8, 8), (16, 16), 1): True,
    ((16, 20), (16, 16), 1): True,
    ((4, 4), (2, 2), 1): False,  # an expert has three rows among all tokens
    ((1, 1), (3, 5), 1): False,
    ((1, 3), (2, 2), 1): False,
    ((3, 5), (16, 16), 4): False,  # 1084 rows become 60: below CPU_FUSED_ROWS torch multiplies, not oneDNN
}


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("size", "to_the_bit"), SIZES.items(), ids=str)
def test_it_holds_at_every_size_to_the_bit_or_to_rounding(build, size, to_the_bit):
    (height, width), (reference_height, reference_width), batch = size
    generator = torch.Generator().manual_seed(1)
    target, tokens = height * width, height * width + reference_height * reference_width
    inputs = {
        "hidden_states": torch.randn(batch, tokens, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 24, generator=generator),
        "timestep": torch.rand(batch, generator=generator),
        "img_shapes": [[(1, height, width), (1, reference_height, reference_width)]] * batch,
    }
    model = build()
    with torch.no_grad():
        whole, alone = model(**inputs).sample[:, :target], model(**inputs, target_only=True).sample
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)
    if to_the_bit:
        assert torch.equal(alone, whole)


@pytest.mark.parametrize("real", [False, True])
def test_without_references_nothing_changes_a_bit(build, inputs, real):
    model = build()
    if real:
        model.set_attn_processor(RealRoPEAttnProcessor())
    inputs["hidden_states"] = inputs["hidden_states"][:, :3]
    inputs["img_shapes"] = [[(1, 1, 3)]] * BATCH
    with torch.no_grad():
        assert torch.equal(model(**inputs, target_only=True).sample, model(**inputs).sample)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("tokens", "routing", "experts", "gate"),
    [
        ("all", None, TARGET, TARGET),
        ("all", "stats", TARGET, TARGET + REFERENCE),
        ("all", "full", TARGET, TARGET + REFERENCE),
        ("live", "stats", TARGET, TARGET),
        ("target", "stats", TARGET, TARGET),
        ("target", "full", TARGET, TARGET + REFERENCE),
    ],
)
def test_what_nobody_reads_is_not_computed(build, inputs, tokens, routing, experts, gate):
    model = build(routing_tokens=tokens)
    rows = {"experts": 0, "gate": 0}

    def count(name: str) -> Any:
        def counted(_module: nn.Module, given: Any) -> None:
            rows[name] += given[0].shape[:-1].numel()

        return counted

    mixture = model.transformer_blocks[-1].img_mlp
    mixture.gate.register_forward_pre_hook(count("gate"))
    for expert in mixture.experts:
        expert.register_forward_pre_hook(count("experts"))
    model(**inputs, return_routing=routing, target_only=True)
    assert rows == {"experts": BATCH * experts, "gate": BATCH * gate}
    rows |= {"experts": 0, "gate": 0}
    model(**inputs, return_routing=routing)
    assert rows == {"experts": BATCH * (TARGET + REFERENCE), "gate": BATCH * (TARGET + REFERENCE)}


def test_the_last_text_mlp_is_left_out_unless_it_is_hooked(build, inputs, monkeypatch):
    model = build()
    mlp = model.transformer_blocks[-1].txt_mlp
    called: list[int] = []
    forward = type(mlp).forward
    monkeypatch.setattr(type(mlp), "forward", lambda self, x: called.append(id(self)) or forward(self, x))
    expected = model(**inputs).sample[:, :TARGET]
    assert id(mlp) in called
    called.clear()
    model(**inputs, target_only=True)
    assert called
    assert id(mlp) not in called
    mlp.net[2].register_forward_hook(lambda *_: None)
    torch.testing.assert_close(model(**inputs, target_only=True).sample, expected, rtol=0, atol=1e-6)
    assert id(mlp) in called


@pytest.mark.slow_but_first
@pytest.mark.parametrize("tokens", ROUTING_TOKENS)
def test_the_setting_changes_the_statistics_and_nothing_else(build, inputs, tokens):
    model, plain = build(routing_tokens=tokens), build()
    trace = plain(**inputs, return_routing="full").routing
    counted = {"all": [23, 23], "live": [23, TARGET], "target": [TARGET, TARGET]}[tokens]
    for target_only in (False, True):
        out = model(**inputs, return_routing="stats", target_only=target_only)
        for layer, number in enumerate(counted):
            wanted = trace.scores_LBTN[layer, :, :number].mean(dim=1)
            torch.testing.assert_close(out.routing.mean_probs_LBN[layer], wanted, rtol=0, atol=1e-6)
            ids = trace.expert_ids_LBTA[layer, :, :number, 0]
            assert torch.equal(out.routing.counts_LBN[layer], nn.functional.one_hot(ids, 4).sum(dim=1).float())
    assert torch.equal(model(**inputs, return_routing="stats").sample, plain(**inputs).sample)
    full = model(**inputs, return_routing="full").routing
    assert full.routing_tokens == tokens
    assert torch.equal(full.scores_LBTN, trace.scores_LBTN)
    stats = model(**inputs, return_routing="stats").routing
    assert torch.equal(full.stats().counts_LBN, stats.counts_LBN)
    torch.testing.assert_close(full.stats().mean_probs_LBN, stats.mean_probs_LBN, rtol=0, atol=1e-6)


def test_unknown_tokens_are_named(build):
    with pytest.raises(ConfigError, match="routing_tokens is 'dead'; give one of all, live, target"):
        build(routing_tokens="dead")


def test_a_config_without_the_setting_counts_all_tokens(build, tmp_path):
    model = build(routing_tokens="live")
    model.save_pretrained(tmp_path)
    assert TagMoETransformer2DModel.from_pretrained(tmp_path).config.routing_tokens == "live"
    config = {name: value for name, value in model.config.items() if name != "routing_tokens"}
    assert TagMoETransformer2DModel.from_config(config).config.routing_tokens == "all"


@pytest.mark.slow_but_first
@pytest.mark.parametrize("tokens", ROUTING_TOKENS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_on_the_target_alone_has_the_gradients_of_all_tokens(build, inputs, tokens, checkpointed):
    results = []
    for target_only in (False, True):
        model = build(routing_tokens=tokens).train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        out = model(**inputs, return_routing="stats", target_only=target_only)
        loss = out.sample[:, :TARGET].square().mean() + (out.routing.mean_probs_LBN * torch.arange(4.0)).sum()
        loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, grad in results[0].items():
        torch.testing.assert_close(
            results[1][name], grad, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_a_step_cache_gets_whole_outputs(build, inputs):
    model = build()
    expected = model(**inputs).sample[:, :TARGET]
    model.enable_cache(FirstBlockCacheConfig(threshold=100.0))
    with torch.no_grad(), model.cache_context("cond"):
        samples = [model(**inputs, target_only=True).sample for _ in range(2)]
    for sample in samples:
        torch.testing.assert_close(sample, expected)


def test_under_context_parallelism_every_part_is_computed(build, inputs, monkeypatch):
    # A process sees a part of the tokens, and the last layer's hook gathers them: only then can they be cut.
    model = build()
    rows: list[int] = []
    model.proj_out.register_forward_pre_hook(lambda _module, given: rows.append(given[0].shape[1]))
    monkeypatch.setattr(model, "_parallel_config", SimpleNamespace(context_parallel_config=object()), raising=False)
    sample = model(**inputs, target_only=True).sample
    assert rows == [TARGET + REFERENCE]
    assert sample.shape[1] == TARGET


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_offloading_draws_the_same(build, inputs, kind):
    model = build()
    with torch.no_grad():
        expected = model(**inputs, target_only=True).sample
    number = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    apply_group_offloading(model, onload_device=torch.device("cpu"), offload_type=kind, **number)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(model(**inputs, target_only=True).sample, expected, rtol=0, atol=1e-6)


def test_lora_on_experts_acts_on_the_target(build, inputs):
    model = build()
    before = model(**inputs).sample
    inject_adapter_in_model(LoraConfig(r=2, target_modules=r".*experts\.\d\.net\.2", init_lora_weights=False), model)
    with torch.no_grad():
        whole, alone = model(**inputs).sample[:, :TARGET], model(**inputs, target_only=True).sample
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)
    assert not torch.allclose(alone, before[:, :TARGET])


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["all", "target"])
def test_it_compiles_as_one_graph_without_the_dead_tokens(build, inputs, tokens):
    model = build(num_layers=2, num_moe_blocks=2, routing_tokens=tokens)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for routing in (None, "stats"):
        out = compiled(**inputs, return_routing=routing, target_only=True)
        expected = model(**inputs, return_routing=routing, target_only=True)
        torch.testing.assert_close(out.sample, expected.sample, rtol=1e-5, atol=1e-5)


def test_diffusers_own_model_does_not_take_it(build, dense):
    assert takes_target_only(build())
    assert not takes_target_only(dense)
