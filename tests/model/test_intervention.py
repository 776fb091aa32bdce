"""Switching an expert off or forcing it: what the routing then is, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tagmoe.errors import UsageError
from tagmoe.model.intervention import Intervention, intervene
from tagmoe.model.moe import MoE
from tagmoe.model.transformer import TagMoETransformer2DModel

Build = Callable[..., TagMoETransformer2DModel]
KINDS = [{"gate": "mlp"}, {"gate": "linear", "expert_bias": False}, {"gate": "mlp", "top_k": 2}, {"top_k": 4}]


def run(model: TagMoETransformer2DModel, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**inputs, return_routing="full")


def hooks(model: TagMoETransformer2DModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
@pytest.mark.parametrize("expert", range(4))
def test_an_expert_that_is_off_is_never_chosen_and_the_others_keep_their_scores(build: Build, inputs, kind, expert):
    model = build(**kind)
    before = run(model, inputs).routing
    with intervene(model, [Intervention("off", expert, layer=0)]):
        during = run(model, inputs).routing
    assert (before.expert_ids_LBTA[0] == expert).any(), "the test needs an expert that is used"
    assert not (during.expert_ids_LBTA[0] == expert).any()
    assert (during.scores_LBTN[0, ..., expert] == 0).all()
    others = [n for n in range(4) if n != expert]
    assert torch.equal(during.scores_LBTN[0][..., others], before.scores_LBTN[0][..., others])
    assert (during.expert_ids_LBTA[1] == expert).any() == (before.expert_ids_LBTA[1] == expert).any()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
@pytest.mark.parametrize("expert", range(4))
def test_a_forced_expert_is_every_tokens_first_choice_with_the_first_choices_weight(build: Build, inputs, kind, expert):
    model = build(**kind)
    before = run(model, inputs).routing
    with intervene(model, [Intervention("forced", expert)]):
        during = run(model, inputs).routing
    assert (during.expert_ids_LBTA[..., 0] == expert).all()
    best = before.scores_LBTN[0].max(dim=-1).values
    assert torch.allclose(during.scores_LBTN[0, ..., expert], best, rtol=1e-6)
    assert torch.allclose(during.scores_LBTN.sum(dim=-1), torch.ones(()), atol=1e-5)


def test_forcing_what_is_chosen_anyway_changes_nothing(build: Build, inputs):
    model = build()
    layer = next(module for module in model.modules() if isinstance(module, MoE))
    torch.nn.init.zeros_(layer.gate.proj_out.weight)
    with torch.no_grad():
        layer.gate.proj_out.bias.copy_(torch.tensor([0.0, 3.0, 0.0, 0.0]))
    before = run(model, inputs).sample
    with intervene(model, [Intervention("forced", 1, layer=0)]):
        assert torch.equal(run(model, inputs).sample, before)


def test_equal_scores_do_not_keep_an_expert_from_being_forced(build: Build, inputs):
    model = build()
    for module in model.modules():
        if isinstance(module, MoE):
            torch.nn.init.zeros_(module.gate.proj_out.weight)
            torch.nn.init.zeros_(module.gate.proj_out.bias)
    with intervene(model, [Intervention("forced", 3)]):
        assert (run(model, inputs).routing.expert_ids_LBTA == 3).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_with_every_expert_off_the_mixture_adds_nothing(build: Build, kind):
    moe = next(module for module in build(**kind).modules() if isinstance(module, MoE))
    x = torch.randn(2, 5, 32)
    with torch.no_grad(), intervene(moe, [Intervention("off", n) for n in range(4)]):
        assert not moe(x).any()


def test_nothing_is_left_behind_even_after_an_exception(build: Build, inputs):
    model = build()
    before, weights = run(model, inputs).sample, {k: v.clone() for k, v in model.state_dict().items()}

    def interrupted() -> None:
        with intervene(model, [Intervention("off", 0), Intervention("forced", 1, 1)]):
            assert hooks(model) == 3
            assert not torch.equal(run(model, inputs).sample, before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert hooks(model) == 0
    assert torch.equal(run(model, inputs).sample, before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (Intervention("off", 4), ("Expert 4", "0 to 3")),
        (Intervention("off", -1), ("Expert -1",)),
        (Intervention("off", 0, 2), ("layer 2", "0 to 1")),
        (Intervention("loud", 0), ("'loud'", "off, forced")),  # type: ignore[arg-type]
    ],
)
def test_what_the_model_does_not_have_is_refused_before_anything_is_changed(build: Build, bad, parts):
    model = build()
    with pytest.raises(UsageError) as caught, intervene(model, [Intervention("off", 0), bad]):
        pass
    assert all(part in str(caught.value) for part in parts)
    assert hooks(model) == 0


def test_a_dense_model_a_cached_and_a_compiled_one_are_refused(build: Build):
    with pytest.raises(UsageError, match="no mixture layers"), intervene(build(num_moe_blocks=0), []):
        pass
    compiled = build()
    compiled.transformer_blocks[3].compile()
    with pytest.raises(UsageError, match="compiled"), intervene(compiled, [Intervention("off", 0)]):
        pass
    cached = build()
    from diffusers import FirstBlockCacheConfig

    cached.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(UsageError, match="disable_cache"), intervene(cached, [Intervention("off", 0)]):
        pass
