"""Measuring predicted tags: every case keeps its own signature, and the figures fit the folder they are kept in."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmoe.evaluate.tagworld import cases
from tagmoe.laboratory.routing.tag_scores import measure, signatures, tags_right
from tagmoe.losses import Objective
from tagmoe.routing.predicted_tags import Alignment
from tagmoe.world import rule_sets

TASKS = ("recolour", "generate", "wear", "structure")


@pytest.fixture(scope="module")
def decided(pipeline: Any) -> Any:
    """The random pipeline with gates that decide: fresh ones are so near-tied that all signatures look alike."""
    transformer = deepcopy(pipeline.transformer)
    generator = torch.Generator().manual_seed(0)
    gates = [value for name, value in transformer.named_parameters() if name.endswith("gate.proj_out.weight")]
    assert len(gates) == 2
    with torch.no_grad():
        for gate in gates:
            gate.copy_(torch.randn(gate.shape, generator=generator))
    settings = {name: pipeline.config[name] for name in ("prompt_template", "max_prompt_tokens", "default_size")}
    parts = pipeline.components | {"transformer": transformer}
    return type(pipeline)(**parts, **settings, default_steps=2, default_cfg=2.0)


@pytest.mark.slow
def test_a_signature_belongs_to_its_case_whatever_the_batch(decided: Any) -> None:
    samples = cases(2, 3, tasks=TASKS)
    together = signatures(decided, samples, seed=5)
    alone = signatures(decided, samples, seed=5, batch=1)
    assert together.shape == (8, 4)
    assert torch.allclose(together.sum(dim=1), torch.ones(8), atol=1e-5)
    assert torch.allclose(together, alone, atol=1e-5)
    # Cases must differ by more than that for a wrong order to be seen.
    gaps = torch.cdist(together, together) + torch.eye(8)
    assert gaps.min() > 10 * (together - alone).abs().max()


def test_the_score_is_of_sets_that_rules_can_give(decided: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    alignment = Alignment.from_tensors(Objective(4, 32).state_dict())
    samples = cases(2, 3, tasks=TASKS)
    told: list[int] = []
    found = measure(decided, alignment, samples, seed=5, on_batch=told.append)
    assert found.n == 8
    assert told[-1] == 8
    chosen = alignment.predict(signatures(decided, samples, seed=5), candidates=rule_sets())
    exact = sum(one.descriptor.indices == case.tags.indices for one, case in zip(chosen, samples, strict=True))
    assert found.exact == exact / 8
    kept = tags_right(found, decided, tmp_path, seed=5, command="a command")
    assert (kept.cases, kept.seed, kept.steps, kept.cfg) == (8, 5, 2, 2.0)
    assert kept.exact_low <= kept.exact <= kept.exact_high
