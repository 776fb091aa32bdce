"""The transformer: diffusers' own bit for bit without mixtures, and everything around it keeps working with them."""

from __future__ import annotations

import pytest
import torch
from diffusers import FirstBlockCacheConfig, QwenImageTransformer2DModel

from tagmoe.errors import ConfigError, UsageError
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.moe import MoE
from tagmoe.model.transformer import TagMoETransformer2DModel, TagMoETransformerBlock


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "extra", [{}, {"zero_cond_t": True}, {"use_layer3d_rope": True}, {"use_additional_t_cond": True}]
)
def test_without_mixtures_it_is_diffusers_bit_for_bit(build, inputs, extra):
    ours = build(num_moe_blocks=0, **extra)
    stock = QwenImageTransformer2DModel(**{k: v for k, v in ours.config.items() if k in stock_settings()})
    stock.load_state_dict(ours.state_dict())
    residuals = [torch.randn(2, 23, 32) for _ in range(2)]
    inputs |= {"controlnet_block_samples": residuals, "encoder_hidden_states_mask": torch.ones(2, 7)}
    if "use_additional_t_cond" in extra:
        inputs["additional_t_cond"] = torch.tensor([0, 1])
    results = []
    for model in (stock, ours):
        sample = model(**inputs).sample
        sample.square().mean().backward()
        results.append((sample, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])


def stock_settings() -> set[str]:
    return set(QwenImageTransformer2DModel.__init__.__wrapped__.__annotations__)


def test_the_last_blocks_hold_the_mixtures(build):
    model = build()
    kinds = [isinstance(block.img_mlp, MoE) for block in model.transformer_blocks]
    assert kinds == [False, False, True, True]
    keys = model.state_dict().keys()
    assert "transformer_blocks.3.img_mlp.experts.3.net.0.proj.weight" in keys
    assert not any("img_mlp" in name for name in model._tp_plan)


def test_a_mixture_block_returns_what_a_dense_block_returns(build, inputs):
    model = build()
    block = model.transformer_blocks[-1]
    out = block(torch.randn(2, 5, 32), torch.randn(2, 3, 32), None, torch.randn(2, 32))
    assert [tuple(t.shape) for t in out] == [(2, 3, 32), (2, 5, 32)]
    assert model(**inputs).routing is None
    assert len(model(**inputs, return_dict=False)) == 1


@pytest.mark.parametrize("extra", [{"zero_cond_t": True}, {"use_layer3d_rope": True}, {"top_k": 2}, {"gate": "linear"}])
def test_variants_run_and_depend_on_the_reference(build, inputs, extra):
    model = build(**extra)
    first = model(**inputs).sample
    assert first.isfinite().all()
    inputs["hidden_states"] = inputs["hidden_states"].clone()
    inputs["hidden_states"][:, 15:] += 1
    assert not torch.allclose(model(**inputs).sample[:, :15], first[:, :15])


def test_controlnet_residuals_reach_the_output(build, inputs):
    model = build()
    plain = model(**inputs).sample
    assert not torch.allclose(model(**inputs, controlnet_block_samples=[torch.ones(2, 23, 32)]).sample, plain)


@pytest.mark.parametrize("real", [False, True])
def test_padded_text_equals_unpadded_text(build, inputs, real):
    model = build()
    if real:
        model.set_attn_processor(RealRoPEAttnProcessor())
    expected = model(**inputs).sample
    text = inputs["encoder_hidden_states"]
    inputs["encoder_hidden_states"] = torch.cat([text, torch.full((2, 4, 24), 9.0)], dim=1)
    mask = torch.cat([torch.ones(2, 7), torch.zeros(2, 4)], dim=1)
    torch.testing.assert_close(model(**inputs, encoder_hidden_states_mask=mask).sample, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model(**inputs).sample, expected, atol=1e-4)


def test_a_sample_does_not_see_its_batch(build, inputs):
    model = build()
    together = model(**inputs, return_routing="full")
    alone = model(
        **{k: v[1:] for k, v in inputs.items()},
        return_routing="full",
    )
    torch.testing.assert_close(alone.sample, together.sample[1:], rtol=1e-5, atol=1e-6)
    assert torch.equal(alone.routing.expert_ids_LBTA, together.routing.expert_ids_LBTA[:, 1:])


def test_two_runs_are_equal(build, inputs):
    model = build()
    assert torch.equal(model(**inputs).sample, model(**inputs).sample)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("compiling", [False, True])
def test_our_attention_equals_the_stock_one_eager_and_as_it_is_compiled(build, inputs, mask, compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    model = build(num_moe_blocks=0)
    for name, parameter in model.named_parameters():
        if ".attn.norm_" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    if mask:
        inputs["encoder_hidden_states_mask"] = torch.tensor([[1] * 7, [1, 0, 1, 1, 1, 0, 0]])
    results = []
    for processor in (None, RealRoPEAttnProcessor()):
        if processor is not None:
            model.set_attn_processor(processor)
        model.zero_grad()
        sample = model(**inputs).sample
        sample.square().mean().backward()
        results.append((sample, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    for complex_grad, real_grad in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(real_grad, complex_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cast", ["autocast", "weights"])
def test_our_attention_in_bf16_stays_close_to_fp32(build, inputs, cast):
    model = build(num_moe_blocks=0)
    model.set_attn_processor(RealRoPEAttnProcessor())
    expected = model(**inputs).sample
    if cast == "weights":
        model = model.to(torch.bfloat16)
        inputs = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=cast == "autocast"):
        sample = model(**inputs).sample
    assert sample.dtype == torch.bfloat16
    torch.testing.assert_close(sample.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("routing", [None, "stats", "full"])
def test_checkpointing_changes_no_gradient(build, inputs, routing):
    results = []
    for checkpointed in (False, True):
        model = build().train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        out = model(**inputs, return_routing=routing)
        loss = out.sample.square().mean()
        if routing == "stats":
            loss = loss + (out.routing.mean_probs_LBN * torch.arange(4.0)).sum()
        if routing == "full":
            loss = loss + (out.routing.scores_LBTN * torch.arange(4.0)).sum()
        loss.backward()
        results.append((out, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    assert results[0][1].keys() == results[1][1].keys()
    for name, grad in results[0][1].items():
        assert torch.equal(grad, results[1][1][name]), name
    if routing == "stats":
        assert torch.equal(results[0][0].routing.counts_LBN, results[1][0].routing.counts_LBN)


def test_a_step_cache_meets_mixture_blocks(build, inputs):
    model = build()
    model.enable_cache(FirstBlockCacheConfig(threshold=100.0))
    with torch.no_grad(), model.cache_context("cond"):
        first = model(**inputs).sample
        skipped = model(**inputs).sample
    torch.testing.assert_close(skipped, first)
    with pytest.raises(UsageError, match="disable_cache"):
        model(**inputs, return_routing="stats")


def test_layerwise_casting_leaves_the_gate_alone(build):
    model = build()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    mixture = model.transformer_blocks[-1].img_mlp
    assert mixture.gate.proj_out.weight.dtype == torch.float32
    assert mixture.experts[0].net[2].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_moe_blocks": 5}, "num_moe_blocks is 5.*num_layers = 4"),
        ({"num_moe_blocks": -1}, "num_moe_blocks is -1"),
        ({"gate": "soft"}, "'soft'"),
        ({"top_k": 9}, "top_k is 9"),
    ],
)
def test_impossible_configs_are_named(build, settings, said):
    with pytest.raises(ConfigError, match=said):
        build(**settings)


def test_unknown_or_impossible_routing_is_named(build, inputs):
    with pytest.raises(UsageError, match=r"'all'.*stats"):
        build()(**inputs, return_routing="all")
    with pytest.raises(UsageError, match="no mixture blocks"):
        build(num_moe_blocks=0)(**inputs, return_routing="stats")
    with pytest.raises(UsageError, match="timestep"):
        build()(inputs["hidden_states"], inputs["encoder_hidden_states"])


def test_it_says_how_it_may_be_split(build):
    model = build()
    assert TagMoETransformerBlock.__name__ in model._no_split_modules
    assert TagMoETransformerBlock.__name__ in model._repeated_blocks
    assert TagMoETransformer2DModel.__module__ == "tagmoe"


# quick: the compiled mixture in test_plain_experts.py
@pytest.mark.slow
@pytest.mark.parametrize("routing", [None, "stats", "full"])
def test_it_compiles_as_one_graph(build, inputs, routing):
    # of four blocks, as elsewhere, the trace takes twice as long
    model = build(num_layers=2, num_moe_blocks=2)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    sample, *rest = compiled(**inputs, return_dict=False, return_routing=routing)
    expected, *expected_rest = model(**inputs, return_dict=False, return_routing=routing)
    torch.testing.assert_close(sample, expected, rtol=1e-5, atol=1e-5)
    assert len(rest) == len(expected_rest) == (routing is not None)
    sample.square().mean().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if ".experts." in name)
