"""Training and test share no picture, no pair of pictures and no held-out wording, whatever the seeds."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tools import load_tool

from tagmoe.errors import UsageError
from tagmoe.world import TASKS, Content, Scene, content, sample
from tagmoe.world.divide import SEEN, is_ambiguous, is_kept_for_test
from tagmoe.world.render import silhouette
from tagmoe.world.templates import TEMPLATES

DOCS = Path(__file__).parents[2] / "docs"


@cache
def drawn(count: int, split: str, seed: int, divide: str = "content") -> tuple[Content, ...]:
    """`count` contents of every task."""
    return tuple(content(seed, i, split=split, task=task, divide=divide) for task in TASKS for i in range(count))  # type: ignore[arg-type]


def pairs(contents: Sequence[Content]) -> set[tuple[Scene | None, Scene]]:
    return {(c.edit.source, c.edit.target) for c in contents}


def scenes(contents: Sequence[Content]) -> set[Scene]:
    return {scene for pair in pairs(contents) for scene in pair if scene is not None}


def new_wordings(contents: Sequence[Content]) -> set[str]:
    return {c.instruction for c in contents if c.held_out}


def shared(train: Sequence[Content], test: Sequence[Content]) -> tuple[int, int, int]:
    """How many scenes, pairs and held-out wordings of the test cases occur in training."""
    said = {c.instruction for c in train}
    return len(scenes(train) & scenes(test)), len(pairs(train) & pairs(test)), len(said & new_wordings(test))


def common_draws(divide: str, count: int) -> tuple[int, int, int]:
    """Scenes, pairs and wordings in common, of `count` contents a task from two seeds and more of four tasks."""
    train = [*drawn(count, "train", 0, divide), *drawn(count, "train", 8, divide)]
    often = ("generate", "add", "remove", "subject")
    train += [content(1, i, task=often, divide=divide) for i in range(50 * count)]  # type: ignore[arg-type]
    return shared(train, [*drawn(count // 4, "test", 1000, divide), *drawn(count // 4, "test", 0, divide)])


@pytest.mark.parametrize("count", [24, pytest.param(120, marks=pytest.mark.slow)])
def test_nothing_of_a_test_case_is_in_training_at_any_seed(count: int) -> None:
    assert common_draws("content", count) == (0, 0, 0)


def test_in_the_old_stream_some_scenes_are() -> None:
    """The test above can fail."""
    assert common_draws("stream", 24)[0] > 0


@pytest.mark.slow
def test_in_the_old_stream_some_of_all_three_is() -> None:
    assert min(common_draws("stream", 120)) > 0


@pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_both_sides_are_drawn_from_every_task_and_wording(count: int) -> None:
    for split, held_out in (("train", False), ("test", False), ("test", True)):
        found = [c for c in drawn(count, split, 3) if c.held_out == held_out]
        assert {c.task for c in found} == set(TASKS), (split, held_out)
    share = np.mean([c.held_out for c in drawn(count, "test", 3)])
    assert 0.42 < share < 0.55
    share = np.mean([is_kept_for_test(str(i)) for i in range(5000)])
    assert 0.18 < share < 0.22


def test_wordings_that_two_tasks_share_are_known() -> None:
    for text in ("paint a red star at the top left", "put a small blue cross at the bottom right"):
        assert is_ambiguous(text), text
    for text in ("move the star to the top left", "redraw this in daylight", "take the star away", "make it day"):
        assert not is_ambiguous(text), text
    said = {c.instruction for c in drawn(40, "train", 1, "stream")}
    new = new_wordings(drawn(60, "test", 1, "stream"))
    assert all(is_ambiguous(text) for text in said & new)
    assert len(TEMPLATES) > 20


def packaged_stream() -> Iterator[Content]:
    return load_tool("list_seen").stream()


def test_the_packaged_model_saw_no_test_case() -> None:
    """On the first samples of its stream; the whole is the slow test below."""
    seen = list(islice(packaged_stream(), 400))
    seen += [content(0, i, task=tasks, divide="stream") for tasks in ("generate", tuple(TASKS)[1:]) for i in range(400)]  # type: ignore[arg-type]
    test = [*drawn(10, "test", 1000), *drawn(10, "test", 424242)]
    said = {c.instruction for c in seen}
    assert pairs(seen) & pairs(test) == set()
    assert said & new_wordings(test) == set()


@pytest.fixture(scope="module")
def seen() -> Any:
    """What the packaged model saw of the test side; takes three minutes."""
    return load_tool("list_seen").seen()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_list_of_what_the_packaged_model_saw_is_that_of_its_stream(seen: Any) -> None:
    with np.load(SEEN) as file:
        assert np.array_equal(file["keys"], seen.listed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_test_cases_with_a_single_picture_seen_in_another_pair_are_as_many_as_published(seen: Any) -> None:
    data = json.loads((DOCS / "results" / "packaged.json").read_text(encoding="utf-8"))
    per_task = data["tasks"]["add"]["success"]["n"] // len(data["seeds"])
    has_seen_picture = load_tool("list_seen").has_seen_picture
    for number, task in enumerate(TASKS):
        edits = [
            content(row["seed"], i * len(TASKS) + number, split="test", task=task).edit
            for row in data["seeds"]
            for i in range(per_task)
        ]
        found = sum(has_seen_picture(edit.source, edit.target, seen.scenes) for edit in edits)
        assert found == data["tasks"][task]["seen"], task


def test_structure_maps_are_the_one_picture_that_is_not_divided() -> None:
    """They show shapes alone, of which there are few, so a test map occurs in training above another target."""
    train, test = (
        {silhouette(content(seed, i, split=split, task="structure").edit.target).tobytes() for i in range(count)}  # type: ignore[arg-type]
        for seed, split, count in ((0, "train", 400), (1000, "test", 40))
    )
    assert train & test


@pytest.mark.parametrize(("split", "checksum"), [("train", 1078939924), ("test", 3350716622)])
def test_the_stream_of_the_packaged_model_stays_as_it_was(split: str, checksum: int) -> None:
    cases = [sample(5, i, split=split, divide="stream") for i in range(60)]  # type: ignore[arg-type]
    assert zlib.crc32(b"".join(c.target.tobytes() + c.instruction.encode() for c in cases)) == checksum


def test_an_unknown_divide_is_refused() -> None:
    with pytest.raises(UsageError, match=r'Unknown divide "hash"\. Allowed are content and stream'):
        sample(0, 0, divide="hash")  # type: ignore[arg-type]
