"""The renderer: pure, cell by cell, crisp and clear for an autoencoder."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tagmoe.world import Background, Face, Item, Scene, render
from tagmoe.world.render import silhouette
from tagmoe.world.scene import LIGHTS, STYLES, all_things

SCENE = Scene(
    (Item("star", "red"), Item("circle", "blue", "striped"), None, Face("tan", "black", True, "red", "sad")),
    Background("mint", "checked"),
)


def looks(style: str, light: str) -> np.ndarray:
    return render(Scene(SCENE.cells, SCENE.background, style, light)).astype(float)


def test_a_render_is_repeatable_and_its_own_copy() -> None:
    first = render(SCENE)
    first[:] = 0
    assert render(SCENE).any()
    assert render(SCENE).shape == (64, 64, 3)


def test_every_style_and_light_looks_different() -> None:
    settings = [("flat", light) for light in LIGHTS] + [(style, "day") for style in STYLES[1:]]
    for a, b in combinations(settings, 2):
        assert np.abs(looks(*a) - looks(*b)).mean() > 8, (a, b)


@pytest.mark.parametrize("style", STYLES)
def test_a_cell_depends_on_nothing_in_other_cells(style: str) -> None:
    changed = SCENE.put((0, Item("cross", "green")))
    before = render(Scene(SCENE.cells, SCENE.background, style))
    after = render(Scene(changed.cells, SCENE.background, style))
    assert not np.array_equal(before[:32, :32], after[:32, :32])
    before[:32, :32] = after[:32, :32]
    assert np.array_equal(before, after)


def test_moving_a_thing_copies_its_pixels() -> None:
    thing = Face("dark", "blond")
    one = render(Scene((thing, None, None, None), Background("sand", "lined")))
    other = render(Scene((None, None, None, thing), Background("sand", "lined")))
    assert np.array_equal(one[:32, :32], other[32:, 32:])


def test_things_keep_a_margin_of_background() -> None:
    for thing in all_things()[1:]:
        alone = silhouette(Scene((thing, None, None, None)))[:32, :32]
        assert (alone[:2] == 255).all()
        assert (alone[-2:] == 255).all()
        assert (alone[:, :2] == 255).all()
        assert (alone[:, -2:] == 255).all()
        margin = 4 if isinstance(thing, Item) else 2
        assert (alone[margin:-margin, margin:-margin] < 128).any()


def test_no_two_things_look_alike_by_day() -> None:
    cells = np.stack([render(Scene((thing, None, None, None)))[:32, :32].reshape(-1) for thing in all_things()])
    cells = cells.astype(np.float32)
    squares = (cells**2).mean(axis=1)
    apart = squares[:, None] + squares[None] - 2 * cells @ cells.T / cells.shape[1]
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 60  # the closest pair: two hair colours under a hat
