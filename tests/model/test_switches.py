"""Controls and switches of the mixture: each changes what it says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from tagmoe.errors import ConfigError, UsageError
from tagmoe.model.intervention import given_experts
from tagmoe.model.transformer import TagMoETransformer2DModel, pooled_text
from tagmoe.model.upcycle import upcycle, widen

Build = Callable[..., TagMoETransformer2DModel]
Inputs = dict[str, Any]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def output(model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        sample: torch.Tensor = model(**inputs).sample
    return sample


def test_wide_ffns_start_as_the_dense_model_and_can_learn(dense: QwenImageTransformer2DModel, inputs: Inputs) -> None:
    wide = widen(dense, num_blocks=2, factor=4, generator=seeded())
    torch.testing.assert_close(output(wide, inputs), output(dense, inputs), atol=1e-5, rtol=1e-5)
    widths = [block.img_mlp.net[0].proj.weight.shape[0] for block in wide.transformer_blocks]
    assert widths == [128, 128, 512, 512]
    wide(**inputs).sample.square().mean().backward()
    ffn = wide.transformer_blocks[-1].img_mlp.net
    assert ffn[2].weight.grad[:, 128:].abs().min(dim=0).values.max() > 0
    before, after = dense.state_dict(), wide.state_dict()
    assert before.keys() == after.keys()
    same = [name for name, value in before.items() if value.shape == after[name].shape]
    assert all(torch.equal(before[name], after[name]) for name in same)
    assert sorted(before.keys() - set(same)) == [
        f"transformer_blocks.{block}.img_mlp.net.{name}"
        for block in (2, 3)
        for name in ("0.proj.bias", "0.proj.weight", "2.weight")
    ]


def test_a_wide_model_keeps_its_width_in_its_folder(
    dense: QwenImageTransformer2DModel, inputs: Inputs, tmp_path: Any
) -> None:
    wide = widen(dense, num_blocks=1, factor=2, generator=seeded())
    wide.save_pretrained(tmp_path)
    again = TagMoETransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(output(again, inputs), output(wide.eval(), inputs))


def test_a_mixture_is_not_widened(build: Build) -> None:
    with pytest.raises(ConfigError, match="has mixture blocks"):
        widen(build(), num_blocks=1, factor=2)
    with pytest.raises(ConfigError, match="num_wide_blocks is 2"):
        build(num_wide_blocks=2)


def test_given_experts_take_all_tokens_of_their_sample(build: Build, inputs: Inputs) -> None:
    model = build()
    free = output(model, inputs)
    with given_experts(model, torch.tensor([3, 1])), torch.no_grad():
        found = model(**inputs, return_routing="full")
    assert (found.routing.expert_ids_LBTA[:, 0] == 3).all()
    assert (found.routing.expert_ids_LBTA[:, 1] == 1).all()
    assert (found.routing.scores_LBTN.max(dim=-1).values == 1).all()
    # the expert alone, as a dense FFN, computes the same
    for block in model.transformer_blocks[-2:]:
        for expert in block.img_mlp.experts:
            expert.load_state_dict(block.img_mlp.experts[3].state_dict())
    with given_experts(model, torch.tensor([0, 0])):
        alone = output(model, inputs)
    torch.testing.assert_close(alone[0], found.sample[0])
    assert torch.equal(output(build(), inputs), free)
    with pytest.raises(UsageError, match="Expert 4 does not exist"), given_experts(model, torch.tensor([0, 4])):
        pass


@pytest.mark.slow
def test_experts_that_are_given_start_as_the_dense_model(dense: QwenImageTransformer2DModel, inputs: Inputs) -> None:
    mixture = upcycle(dense, num_moe_blocks=2, mode="plain", generator=seeded()).eval()
    with given_experts(mixture, torch.tensor([2, 0])):
        torch.testing.assert_close(output(mixture, inputs), output(dense, inputs), atol=1e-5, rtol=1e-5)


def test_a_text_gate_adds_the_text_to_the_papers_gate(build: Build, inputs: Inputs) -> None:
    paper, text = build(), build(gate="text")
    added = text.load_state_dict(paper.state_dict(), strict=False)
    assert added.missing_keys == [f"transformer_blocks.{b}.img_mlp.gate.proj_text.weight" for b in (2, 3)]
    with torch.no_grad():
        for block in text.transformer_blocks[-2:]:
            block.img_mlp.gate.proj_text.weight.zero_()
    assert torch.equal(output(text, inputs), output(paper, inputs))
    with torch.no_grad():
        for block in text.transformer_blocks[-2:]:
            block.img_mlp.gate.proj_text.weight.fill_(1.0).mul_(torch.linspace(-1, 1, 32))
    one = text(**inputs, return_routing="full").routing.scores_LBTN[0]
    other_text = inputs["encoder_hidden_states"].flip(0)
    two = text(**inputs | {"encoder_hidden_states": other_text}, return_routing="full").routing.scores_LBTN[0]
    assert not torch.allclose(one, two, atol=1e-3)


def test_padding_of_a_text_does_not_reach_the_gate() -> None:
    text = torch.randn(2, 5, 8, generator=seeded())
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    padded = text.clone()
    padded[0, 3:] = 99.0
    assert torch.equal(pooled_text(text, mask), pooled_text(padded, mask))
    torch.testing.assert_close(pooled_text(text, mask)[0], text[0, :3].mean(dim=0))
    assert torch.equal(pooled_text(text, None), text.mean(dim=1))


def test_a_gate_can_see_its_tokens_before_the_modulation(build: Build, inputs: Inputs) -> None:
    paper, normed = build(), build(gate_input="normed")
    assert paper.state_dict().keys() == normed.state_dict().keys()
    # the experts see the same: with the same expert for all tokens there is no difference
    experts = torch.tensor([1, 2])
    with given_experts(paper, experts), given_experts(normed, experts):
        assert torch.equal(output(paper, inputs), output(normed, inputs))
    scores = [model(**inputs, return_routing="full").routing.scores_LBTN[0] for model in (paper, normed)]
    assert not torch.allclose(*scores)
    # without modulation both gates see the same
    for model in (paper, normed):
        for block in model.transformer_blocks:
            torch.nn.init.zeros_(block.img_mod[1].weight)
            torch.nn.init.zeros_(block.img_mod[1].bias)
    assert torch.equal(output(paper, inputs), output(normed, inputs))
    with pytest.raises(ConfigError, match="gate_input is 'raw'"):
        build(gate_input="raw")


def test_dropped_units_start_anew_and_differ_between_experts(dense: QwenImageTransformer2DModel) -> None:
    plain = upcycle(dense, num_moe_blocks=1, generator=seeded())
    dropped = upcycle(dense, num_moe_blocks=1, drop=0.25, generator=seeded())
    changed = []
    for before, after in zip(*(m.transformer_blocks[-1].img_mlp.experts for m in (plain, dropped)), strict=True):
        rows = (before.net[0].proj.weight != after.net[0].proj.weight).any(dim=1)
        columns = (before.net[2].weight != after.net[2].weight).any(dim=0)
        assert torch.equal(rows, columns)
        assert int(rows.sum()) == 32
        assert torch.equal(before.net[2].bias, after.net[2].bias)
        new, old = after.net[2].weight[:, rows], before.net[2].weight[:, rows]
        assert abs(float(new.std() / old.std()) - 1) < 0.15
        changed.append(tuple(rows.tolist()))
    assert len(set(changed)) == 4
    experts = ".experts."
    rest = {name: value for name, value in plain.state_dict().items() if experts not in name}
    assert all(torch.equal(dropped.state_dict()[name], value) for name, value in rest.items() if ".gate." not in name)
    with pytest.raises(ConfigError, match="The share of hidden units to drop is 2"):
        upcycle(dense, num_moe_blocks=1, drop=2)
