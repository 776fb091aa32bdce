"""The conflict dial: rotations that are exact, undone exactly, and further apart at a larger alpha."""

from __future__ import annotations

import numpy as np
import pytest

from tagmoe.errors import UsageError
from tagmoe.world import TASKS
from tagmoe.world.families import FAMILIES, SIDES, rotation, side_of


def test_every_editing_task_is_of_one_family_and_every_family_on_one_side() -> None:
    members = [task for tasks in FAMILIES.values() for task in tasks]
    assert sorted(members) == sorted(set(TASKS) - {"generate"})
    assert sorted(family for parts in SIDES.values() for family in parts) == sorted(FAMILIES)
    assert {side_of(task) for task in members} == {0, 1, 2, 3}
    with pytest.raises(UsageError, match="'generate' has no family"):
        side_of("generate")


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_a_rotation_is_undone_by_its_transpose(alpha: float) -> None:
    for side in range(4):
        turned = rotation(side, 64, alpha)
        np.testing.assert_allclose(turned @ turned.T, np.eye(64), atol=1e-12)
        assert np.linalg.det(turned) == pytest.approx(1.0)


@pytest.mark.parametrize(("alpha", "own"), [(0.0, 1.0), (0.25, 0.9003), (0.5, 0.6366), (1.0, 0.0)])
def test_alpha_sets_how_far_families_are_apart(alpha: float, own: float) -> None:
    turned = [rotation(side, 64, alpha) for side in range(4)]
    assert np.trace(turned[0]) / 64 == pytest.approx(own, abs=2e-3)
    between = [np.trace(turned[i].T @ turned[j]) / 64 for i in range(4) for j in range(i)]
    assert np.mean(between) == pytest.approx(own**2, abs=0.05)


def test_alphas_of_a_family_lie_on_one_path() -> None:
    half = rotation(1, 16, 0.5)
    np.testing.assert_allclose(half @ half, rotation(1, 16, 1.0), atol=1e-12)


@pytest.mark.parametrize(("channels", "alpha"), [(15, 0.5), (16, 1.5), (16, -0.1)])
def test_what_is_no_rotation_is_refused(channels: int, alpha: float) -> None:
    with pytest.raises(UsageError, match="The dial got"):
        rotation(0, channels, alpha)
