"""The recipes of the full size: their plans fit the card that their names and comments say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tagmoe.config import find_recipe, load_config, packaged_recipes
from tagmoe.errors import TrainingError
from tagmoe.pipeline.memory.plans import BUDGETS, PLANS, RESERVE
from tagmoe.pipeline.memory.room import Room
from tagmoe.train.plan import check_fits, plan_training
from tagmoe.train.plan_shapes import shapes_of

CARDS = {
    "qwen-image/moe-1gpu": ("80gb", (1024, 1024), (2048, 2048)),
    "qwen-image/lora-1gpu-24gb": ("24gb", (768, 768), (1024, 1024)),
}


def test_every_recipe_of_the_full_size_has_its_card() -> None:
    assert {name for name in packaged_recipes() if name.startswith("qwen-image/")} == CARDS.keys()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", CARDS)
def test_it_fits_its_card_at_the_size_that_it_says(name: str) -> None:
    card, fits, _ = CARDS[name]
    path = find_recipe(Path(name))
    config = load_config(path)
    room = Room("cuda", BUDGETS[card] - RESERVE, math.inf, PLANS)
    command = f"tagmoe train {name} --plan --memory {card} --size {fits[0]}x{fits[1]}"
    assert command in path.read_text(encoding="utf-8")
    plan = plan_training(config, room, shapes_of(config, fits, 1))
    check_fits(plan, room)
    assert plan.counts.parameters / 1e9 == pytest.approx(22.7, abs=0.1)
    assert any("no folder" in note for note in plan.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_a_larger_size_does_not_fit(name: str) -> None:
    card, _, too_large = CARDS[name]
    config = load_config(find_recipe(Path(name)))
    room = Room("cuda", BUDGETS[card] - RESERVE, math.inf, PLANS)
    with pytest.raises(TrainingError, match="activations"):
        check_fits(plan_training(config, room, shapes_of(config, too_large, 1)), room)
