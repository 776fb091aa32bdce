"""One question gives the words of a pair and of its inverse; what the model contradicts gets none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.made_videos import Clip, write_video
from support.scripted_vlm import ScriptedVLM

from tagmoe.annotation.ask.store import annotate_store
from tagmoe.data.check.validate import QUARANTINE, summarise, validate
from tagmoe.data.order.rows import rows_by_bucket
from tagmoe.data.store.store import Store
from tagmoe.factory.video import asking
from tagmoe.factory.video.asking import WordsAsker, WordsPlan, rows_to_ask, take_words
from tagmoe.factory.video.pairs import Sampling
from tagmoe.factory.video.run import Settings, read_videos

GOOD = {
    "same_scene": True,
    "same_subject": True,
    "change": "camera",
    "forward": "Move the camera to the left.",
    "backward": "Move the camera to the right.",
    "certain": True,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "a.mp4", Clip(2, "pan", "none", seconds=4.0).frames())


@pytest.fixture
def store(clip, tmp_path) -> Store:
    found = Store.create(tmp_path / "store")
    read_videos(found, [clip], Settings(Sampling(every=1.0, longest=1.0)), log=lambda text: None)
    assert len(found) >= 4
    return Store.open(tmp_path / "store")


def ask(store: Store, *replies: Any) -> ScriptedVLM:
    vlm = ScriptedVLM(*replies)
    annotate_store(store, lambda: WordsAsker(vlm), WordsPlan(only=rows_to_ask(store), in_flight=1))
    return vlm


def instructions(store: Store) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    store = Store.open(store.uri)
    for record in store.records(range(len(store))):
        found.setdefault(record.operation, set()).add(record.instruction)
    return found


def test_both_directions_get_their_words_from_one_question(store) -> None:
    vlm = ask(store, GOOD)
    assert len(vlm.questions) == len(store) // 2
    assert [type(part).__name__ for part in vlm.questions[0].parts] == ["str", "Attachment", "str", "Attachment", "str"]
    assert take_words(Store.open(store.uri)) == {"worded": len(store) // 2}
    assert instructions(store) == {"video": {GOOD["forward"]}, "inverse": {GOOD["backward"]}}
    assert take_words(Store.open(store.uri)) == {"worded": len(store) // 2}, "it may be called again"
    opened = Store.open(store.uri)
    assert sum(len(rows) for source in rows_by_bucket(opened).values() for rows in source.rows.values()) > 0
    assert validate(opened) == len(store), "with words a pair is checked as a whole"
    assert summarise(Store.open(store.uri)).unsound == 0
    assert ask(Store.open(store.uri), GOOD).questions == [], "nothing is asked twice"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"same_scene": False}, asking.OTHER_SCENE),
        ({"same_subject": False}, asking.OTHER_SUBJECT),
        ({"change": "subject"}, asking.OTHER_CHANGE),
        ({"change": "both"}, asking.OTHER_CHANGE),
        ({"change": "nothing"}, asking.OTHER_CHANGE),
        ({"certain": False}, asking.UNCERTAIN),
    ],
)
def test_a_pair_that_the_model_contradicts_keeps_no_words_and_waits_in_quarantine(store, change, reason) -> None:
    ask(store, GOOD | change)
    assert take_words(Store.open(store.uri)) == {reason: len(store) // 2}
    assert instructions(store) == {"video": {""}, "inverse": {""}}
    held = [row for batch in Store.open(store.uri).scan([QUARANTINE.name]) for row in batch.to_pylist()]
    assert all(row[QUARANTINE.name] == ["empty instruction"] for row in held)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"forward": ""}, "forward"),
        ({"backward": "Sure! Here is the instruction: move it."}, "backward"),
        ({"backward": GOOD["forward"].upper()}, "both instructions are the same"),
        ({"forward": "```move```"}, "forward"),
    ],
)
def test_bad_words_are_asked_for_again_with_what_was_wrong(store, change, problem) -> None:
    vlm = ask(store, GOOD | change, GOOD)
    assert problem in str(vlm.questions[1].parts[-1])
    assert take_words(Store.open(store.uri)) == {"worded": len(store) // 2}


def test_a_server_that_is_lost_leaves_pairs_waiting(store) -> None:
    from tagmoe.vlm.question import Answer

    ask(store, Answer("failed", reason="no connection"))
    assert take_words(Store.open(store.uri)) == {"waiting": len(store) // 2}
    ask(Store.open(store.uri), GOOD)
    assert take_words(Store.open(store.uri)) == {"worded": len(store) // 2}
