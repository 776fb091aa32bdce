"""The word lists of the annotator `rules`: what their file must be, and when it is read."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from tagmoe.annotation.rules.patterns import packaged_patterns, sources_of
from tagmoe.annotation.rules.word_lists import NAMES, any_of, packaged_words, parse_words
from tagmoe.errors import ConfigError

PACKAGED = packaged_words()


def text_with(**changes: object) -> str:
    return yaml.safe_dump({**{name: list(words) for name, words in PACKAGED.items()}, **changes})


@pytest.mark.slow
def test_lists_are_read_back_as_they_were_written() -> None:
    assert parse_words(text_with(), "w.yaml") == PACKAGED
    assert parse_words(text_with(colours=["puce"]), "w.yaml")["colours"] == ("puce",)


@pytest.mark.parametrize("name", NAMES)
def test_every_list_is_used(name: str) -> None:
    changed = sources_of({**PACKAGED, name: ("zyzzyva",)})
    given = packaged_patterns()
    assert any(given[key].pattern != changed[key] for key in given)
    assert any("zyzzyva" in source for source in changed.values())


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colours: [", "'w.yaml' cannot be read as YAML"),
        ("- red", "'w.yaml' is no mapping; it has people, face_words"),
        ("people: [a]\npeople: [b]", "'people' is given twice"),
        (text_with(colour=["red"]), "'colour' is unknown"),
        (text_with(colours=[]), "'colours' is"),
        (text_with(colours=[1]), "'colours.0' is 1, which must be a text"),
        (text_with(colours=["red", "red"]), "'red' is given twice"),
        (text_with(colours=["Red"]), "'Red' is empty or not in lower case"),
        (text_with(colours=[""]), "'' is empty"),
        (text_with(colours=["gr[ey"]), r"'gr\[ey' is no regular expression"),
        (text_with(colours=["gr(a|e)y"]), r"'gr\(a\|e\)y' captures a group"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_words(text, "w.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_missing_list_is_named() -> None:
    lists = {name: list(words) for name, words in PACKAGED.items() if name != "places"}
    with pytest.raises(ConfigError, match="'places' is missing"):
        parse_words(yaml.safe_dump(lists), "w.yaml")


def test_any_of_several_words_is_one_group() -> None:
    assert any_of(["red", "gr[ae]y"]) == "(?:red|gr[ae]y)"


@pytest.mark.slow
def test_the_file_is_read_at_the_first_instruction_and_never_again() -> None:
    code = """
import yaml
calls = []
load = yaml.load
yaml.load = lambda *args: calls.append(1) or load(*args)
from tagmoe.annotation.rules.words import read
print(len(calls))
read("make the car red"), read("make it night")
print(len(calls))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
