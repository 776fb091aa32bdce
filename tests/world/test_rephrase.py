"""The grammar's rewriter: sloppy words and a picture in, TagWorld's words out, or nothing."""

from __future__ import annotations

import inspect
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmoe.errors import ImageError
from tagmoe.pipeline.arguments import check_words
from tagmoe.world import TASKS, Background, Face, Item, Scene, render, rule_tags, sample, words
from tagmoe.world.lexicon import MEANING, normal_words
from tagmoe.world.rephrase import rephrase

PERSON = Face("tan", "black", hat="red", expression="sad")
SCENE = Scene((Item("star", "red"), PERSON, Item("circle", "blue", "striped"), None))
PICTURE = render(SCENE)
TWO = render(Scene((Item("star", "red"), Item("star", "blue"), Item("circle", "blue"), None)))


@pytest.mark.parametrize(
    ("sloppy", "full"),
    [
        ("sunglasses", "make the person wear sunglasses"),
        ("shades on him plz", "make the person wear sunglasses"),
        ("star blue", "make the star blue"),
        ("blue star", "make the star blue"),
        ("make it nite", None),
        ("make it nigth", "show this at night"),
        ("Night!", "show this at night"),
        ("no hat", "take off the hat"),
        ("happy", "make the person smiling"),
        ("hair blonde", "make the hair blond"),
        ("del star", None),
        ("delete disc", "remove the circle"),
        ("circle gone away", "remove the circle"),
        ("star tiny", "make the star small"),
        ("spotted ball", "make the circle dotted"),
        ("star bottom right", "move the star to the bottom right"),
        ("star <-> circle swap", "swap the star and the circle"),
        ("star -> green square", "replace the star with a green square"),
        ("green square bottom right", "add a green square at the bottom right"),
        ("pink backdrop", "make the background pink"),
        ("everything purple", "make everything purple"),
        ("sketch", "turn this into a pencil sketch"),
        ("view from the back", "show this from behind"),
        ("do something nice", None),
        ("", None),
        ("hat", None),
        ("star", None),
    ],
)
def test_what_terse_words_mean_on_a_picture(sloppy: str, full: str | None) -> None:
    assert rephrase(sloppy, [PICTURE]).text == full


def test_the_picture_says_which_thing_is_meant() -> None:
    assert rephrase("star green", [PICTURE]).text == "make the star green"
    assert rephrase("star green", [TWO]).text is None, "two stars: the words do not say which"
    assert rephrase("red star green", [TWO]).text == "make the star at the top left green"
    assert rephrase("star top right green", [TWO]).text == "make the star at the top right green"
    assert rephrase("drop stars", [TWO]).text == "remove all the stars"


def test_without_a_picture_the_words_must_say_all() -> None:
    assert rephrase("red star top left pink backdrop").text == "draw a red star at the top left on a pink background"
    assert rephrase("red star").text == "draw a red star at the top left", "any free place will do"
    assert rephrase("star top left").text is None, "no colour is invented"


@pytest.mark.parametrize("task", TASKS)
def test_an_instruction_of_the_grammar_stays_as_it_is(task: str) -> None:
    for index in range(3):
        case = sample(3, index, split="test", task=task)
        found = rephrase(case.instruction, case.sources)
        assert (found.text, found.task) == (case.instruction, task)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([*sorted(words()), *sorted(MEANING), "banana"]), max_size=7), st.booleans())
def test_any_words_give_words_of_the_grammar_or_none(said: list[str], has_picture: bool) -> None:
    pictures = [PICTURE] if has_picture else []
    found = rephrase(" ".join(said), pictures)
    if found.text is None:
        assert found.task is None
        assert found.reason
    else:
        check_words(found.text, sorted(words()))
        assert rule_tags(found.text, pictures).task == found.task
        assert rephrase(found.text, pictures).text == found.text


@given(st.text(max_size=60))
@settings(max_examples=30, deadline=None)
def test_any_text_is_read(text: str) -> None:
    assert all(word == word.lower() and " " not in word for word in normal_words(text))
    found = rephrase(text, [PICTURE])
    assert (found.text is None) == (found.task is None)
    assert found.reason


def test_a_word_with_one_wrong_letter_is_the_known_one() -> None:
    dice = Random(0)
    right = 0
    known = sorted(word for word in words() if len(word) >= 6)
    for word in known:
        k = dice.randrange(1, len(word) - 1)
        right += normal_words(word[:k] + word[k + 1 :]) == normal_words(word)
    assert right > 0.9 * len(known)


def test_every_word_of_the_world_means_itself_or_another_of_it() -> None:
    for word in MEANING.values():
        assert normal_words(word) == [word]


def test_other_pictures() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert rephrase("star blue", [noise]).text is None
    assert "one picture" in rephrase("star blue", [PICTURE, PICTURE]).reason
    with pytest.raises(ImageError):
        rephrase("star blue", [PICTURE.astype(float)])


def test_light_and_background_are_read_too() -> None:
    lit = render(Scene(SCENE.cells, Background("pink", "checked"), light="night"))
    assert rephrase("daylite", [lit]).text == "show this in daylight"
    assert rephrase("solid background", [lit]).text == "make the background plain"


def test_no_truth_of_a_case_can_come_in() -> None:
    assert list(inspect.signature(rephrase).parameters) == ["instruction", "pictures"]
