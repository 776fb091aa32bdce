"""A region that is edited against the same region that is not: the edit is told apart from what lies there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from support.made_recordings import TIMES, about, facts

from tagmoe.model.routing import RoutingTrace
from tagmoe.routing.reading import read_recording
from tagmoe.routing.recording import RecordingWriter, Shown
from tagmoe.routing.regions import Region, regions

LEFT, RIGHT = slice(0, 2), slice(2, 4)


def one_trace(hot: slice, grids: int = 2) -> RoutingTrace:
    """Expert 1 is preferred in the columns `hot` of a 4x4 picture, in target and reference alike."""
    scores = torch.full((1, 1, grids, 4, 4, 2), 0.5)
    scores[..., hot, :] = torch.tensor([0.2, 0.8])
    scores = scores.reshape(1, 1, grids * 16, 2)
    return RoutingTrace(scores, scores.topk(1).indices, ((1, 4, 4),) * grids)


def recorded(folder: Path, hot_of_edit: list[tuple[slice, slice]], *, seeds: tuple[int, int] = (0, 0)) -> Region | None:
    """One case for each (edited columns, columns that expert 1 prefers), all on one picture."""
    folder.mkdir()
    writer = RecordingWriter(folder, about())
    for number, (edited, hot) in enumerate(hot_of_edit):
        mask = np.zeros((16, 16), dtype=bool)
        mask[:, slice(4 * edited.start, 4 * edited.stop)] = True
        given = facts(number, "t", image="one", seed=seeds[number])
        writer.add(given, [one_trace(hot)] * 3, TIMES, Shown(np.zeros((16, 16, 3), dtype=np.uint8), mask=mask))
    writer.close()
    return regions(read_recording(folder))


def test_an_expert_that_follows_the_edit_is_seen(tmp_path: Path) -> None:
    found = recorded(tmp_path / "r", [(LEFT, LEFT), (RIGHT, RIGHT)])
    assert found is not None
    assert found.pairs == 2
    assert found.reference_difference is not None
    for difference in (found.difference, found.reference_difference):
        assert difference.n == 1
        assert difference.value[0, 1] > 0.3
        assert difference.value[0, 0] < -0.3


def test_an_expert_that_follows_the_place_is_not_taken_for_it(tmp_path: Path) -> None:
    found = recorded(tmp_path / "r", [(LEFT, LEFT), (RIGHT, LEFT)])
    assert found is not None
    assert np.allclose(found.difference.value, 0.0)


def test_other_noise_or_overlapping_edits_are_not_compared(tmp_path: Path) -> None:
    assert recorded(tmp_path / "noise", [(LEFT, LEFT), (RIGHT, RIGHT)], seeds=(0, 1)) is None
    assert recorded(tmp_path / "overlap", [(LEFT, LEFT), (slice(1, 4), RIGHT)]) is None
