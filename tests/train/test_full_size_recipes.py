"""The recipes of the full size: their plans fit the card that their names and comments say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tagmoe.config import find_recipe, load_config, packaged_recipes
from tagmoe.errors import TrainingError
from tagmoe.pipeline.memory.plans import BUDGETS, PLANS, RESERVE
from tagmoe.pipeline.memory.room import Room
from tagmoe.train.engine import check_ranks
from tagmoe.train.plan import COPIES, check_fits, counts, objective, plan_training, sharded, transformer_config
from tagmoe.train.plan_shapes import shapes_of
from tagmoe.train.trace import meta_transformer

CARDS = {
    "qwen-image/moe-1gpu": ("80gb", (1024, 1024), (2048, 2048), 1),
    "qwen-image/lora-1gpu-24gb": ("24gb", (768, 768), (1024, 1024), 1),
    "qwen-image/full-8gpu": ("80gb", (1024, 1024), (3072, 3072), 8),
    "qwen-image/full-64gpu": ("80gb", (1024, 1024), (3072, 3072), 64),
}
"""Memory of a card, a size that fits, one that does not, and the number of cards."""


def test_every_recipe_of_the_full_size_has_its_card() -> None:
    assert {name for name in packaged_recipes() if name.startswith("qwen-image/")} == CARDS.keys()


@pytest.mark.parametrize("name", [name for name in CARDS if CARDS[name][3] > 1])
def test_weights_gradients_and_states_are_shared_by_the_cards_of_a_machine(name: str) -> None:
    config = load_config(find_recipe(Path(name)))
    described = transformer_config(config)
    transformer = meta_transformer(described)
    whole = counts(transformer, objective(config, described), config, "bf16")
    assert CARDS[name][3] // config.replicate == 8
    found = {part.what: part for part in sharded(whole, transformer, config, "bf16", 8).parts}
    for part in whole.parts:
        if part.what != COPIES:
            assert found[part.what].bytes == -(-part.bytes // 8)
    # Experts of 3072 x 12288, twice, in two blocks, in bf16.
    assert found["blocks gathered to be computed (estimate)"].bytes > 2 * 4 * 2 * 3072 * 12288 * 2
    assert sum(part.bytes for part in found.values() if part.place == "device") / 1e9 == pytest.approx(50.0, abs=0.5)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", CARDS)
def test_it_fits_its_card_at_the_size_that_it_says(name: str) -> None:
    card, fits, _, ranks = CARDS[name]
    path = find_recipe(Path(name))
    config = load_config(path)
    room = Room("cuda", BUDGETS[card] - RESERVE, math.inf, PLANS)
    command = f"tagmoe train {name} --plan --memory {card} --size {fits[0]}x{fits[1]}"
    command += f" --ranks {ranks}" if ranks > 1 else ""
    assert command in path.read_text(encoding="utf-8")
    check_ranks(config, ranks)
    plan = plan_training(config, room, shapes_of(config, fits, 1, ranks), ranks)
    check_fits(plan, room)
    assert plan.counts.parameters / 1e9 == pytest.approx(22.7, abs=0.1)
    assert any("no folder" in note for note in plan.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_a_larger_size_does_not_fit(name: str) -> None:
    card, _, too_large, ranks = CARDS[name]
    config = load_config(find_recipe(Path(name)))
    room = Room("cuda", BUDGETS[card] - RESERVE, math.inf, PLANS)
    with pytest.raises(TrainingError, match="activations"):
        check_fits(plan_training(config, room, shapes_of(config, too_large, 1, ranks), ranks), room)
