"""The rules give the tags of every case from its words and its picture alone, and nothing to other requests."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tagmoe.world import TASKS, Face, Item, Sample, Scene, render, rule_sets, rule_tags, sample

EMPTY = Scene((None, None, None, None))
PERSON = EMPTY.put((0, Face("tan", "blond")), (1, Item("star", "red")))


def differs(case: Sample) -> str | None:
    """What is wrong with the rules' answer to a case, or None."""
    given = rule_tags(case.instruction, case.sources)
    if given.descriptor is not None and given.task == case.task and given.descriptor.indices == case.tags.indices:
        return None
    return f"{case.split} {case.index} {case.task}: {case.instruction!r} gave {given}, not {case.tags}"


def wrong_cases(per_task: int, seed: int) -> list[str]:
    found = []
    for split in ("train", "test"):
        for number, task in enumerate(TASKS):
            for i in range(per_task):
                case = sample(seed, i * len(TASKS) + number, split=split, task=task)
                found += [wrong] if (wrong := differs(case)) else []
    return found


def test_the_rules_give_the_tags_of_every_case() -> None:
    assert wrong_cases(2, seed=41) == []


@pytest.mark.slow
def test_the_rules_give_the_tags_of_five_thousand_cases() -> None:
    assert wrong_cases(100, seed=42) == []


@pytest.mark.slow
def test_every_set_of_tags_that_cases_have_is_among_those_of_the_rules() -> None:
    known = {tags.indices for tags in rule_sets()}
    assert len(known) == len(rule_sets())
    for i in range(400):
        for split in ("train", "test"):
            assert sample(43, i, split=split).tags.indices in known
    for tags in rule_sets():
        tags.validate()


def test_a_picture_decides_between_words_of_two_tasks() -> None:
    words = "draw a red circle at the top left"
    assert rule_tags(words).task == "generate"
    assert rule_tags(words, [render(EMPTY)]).task == "add"


@pytest.mark.parametrize(
    ("words", "face_stays"),
    [
        ("remove the person", False),
        ("remove the thing at the top left", False),
        ("remove the thing at the top right", True),
        ("remove the star", True),
        ("replace the person with a circle", False),
        ("move the person to the bottom left", True),
        ("make the hair black", True),
    ],
)
def test_a_face_is_kept_unless_the_words_take_it_away(words: str, face_stays: bool) -> None:
    tags = rule_tags(words, [render(PERSON)]).descriptor
    assert tags is not None
    assert ("face preservation" in tags.preservation) == face_stays
    nobody = rule_tags(words, [render(EMPTY.put((1, Item("star", "red"))))]).descriptor
    assert nobody is not None
    assert "face preservation" not in nobody.preservation


def test_case_commas_and_a_full_stop_are_free() -> None:
    plain = rule_tags("at the top left, add a red circle", [render(EMPTY)])
    assert rule_tags("  At the top  left add a RED circle.", [render(EMPTY)]) == plain
    assert plain.task == "add"


@pytest.mark.parametrize("words", ["", "make a cake", "make the circle", "the circle is red", "red circle " * 2000])
def test_words_outside_the_grammar_have_no_rule(words: str) -> None:
    given = rule_tags(words, [render(PERSON)])
    assert (given.task, given.descriptor) == (None, None)
    assert "no rule" in given.reason


def test_a_request_that_does_not_fit_its_task_says_why() -> None:
    pictures = [render(PERSON)]
    assert "starts from a picture" in rule_tags("make the star red").reason
    assert "starts from no picture" in rule_tags("a red circle at the top left", pictures).reason
    assert "2 are given" in rule_tags("make the star red", pictures * 2).reason
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    given = rule_tags("make the star red", [noise])
    assert given.descriptor is None
    assert "none of TagWorld" in given.reason


def test_pil_pictures_of_another_size_are_read_too() -> None:
    picture = Image.fromarray(render(PERSON)).resize((256, 256), Image.Resampling.BICUBIC)
    assert rule_tags("make the star red", [picture]) == rule_tags("make the star red", [render(PERSON)])
