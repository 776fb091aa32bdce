"""The descriptor: the paper's form, its round trip, tiers, and one good and one bad case for each rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.errors import VocabularyError
from tagmoe.tags import RULES, TAG_NAMES, TAGS, TaskDescriptor

PAPER = (
    "Scope: local editing; Type: object editing; "
    "Preservation: identity preservation, background preservation, style preservation"
)


def tags_of(*tiers: str) -> list[str]:
    return [item.name for item in TAGS if item.tier in tiers]


def some(*tiers: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(tags_of(*tiers)), unique=True).map(tuple)


descriptors = st.builds(TaskDescriptor, some("scope", "generation"), some("type"), some("preservation")).filter(
    lambda task: bool(task.tags)
)


def test_papers_example_reads_and_writes_itself() -> None:
    task = TaskDescriptor.parse(PAPER)
    assert str(task) == PAPER
    assert task.scope == ("local editing",)
    assert task.preservation == ("identity preservation", "background preservation", "style preservation")
    assert task.indices == (0, 6, 13, 14, 16)
    assert task.violations() == ()


@given(descriptors)
def test_round_trip_keeps_the_order_given(task: TaskDescriptor) -> None:
    assert TaskDescriptor.parse(task.format()) == task


@given(descriptors)
def test_multi_hot_marks_exactly_the_tags(task: TaskDescriptor) -> None:
    hot = task.multi_hot()
    assert len(hot) == 18
    assert tuple(name for name, on in zip(TAG_NAMES, hot, strict=True) if on) == task.tags
    assert set(task.tags) == {*task.scope, *task.types, *task.preservation}


@given(descriptors, st.randoms(use_true_random=False))
def test_from_tags_sorts_into_tiers_in_any_order(task: TaskDescriptor, rng: random.Random) -> None:
    names = list(task.tags)
    rng.shuffle(names)
    again = TaskDescriptor.from_tags(names)
    assert again.multi_hot() == task.multi_hot()
    assert set(again.types) == set(task.types)


def test_parse_accepts_case_spacing_lines_and_empty_tiers() -> None:
    text = "  scope :LOCAL  editing\nTypes: Object_Editing ,attribute-editing;\nPreservation: none;"
    assert TaskDescriptor.parse(text) == TaskDescriptor(("local editing",), ("object editing", "attribute editing"))
    assert TaskDescriptor.parse("Scope: image generation") == TaskDescriptor(("image generation",))
    assert TaskDescriptor.parse("Scope: viewpoint editing; Type:") == TaskDescriptor(("viewpoint editing",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Scope: style transfer", "'style transfer' is given under Scope but belongs to Type"),
        ("Type: image generation", "belongs to Scope"),
        ("Preservation: face", "'face' is not a tag"),
        ("Scope: local editing, Local Editing", "given twice"),
        ("Scope: local editing; Scope: global editing", "the tier Scope is given twice"),
        ("Colour: red", "'Colour: red' is no tier"),
        ("local editing", "'local editing' is no tier"),
        (" ; ", "the tags are empty"),
    ],
)
def test_parse_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        TaskDescriptor.parse(text)


def test_a_bare_string_is_not_taken_for_a_tuple() -> None:
    with pytest.raises(VocabularyError, match="give a tuple"):
        TaskDescriptor(scope="local editing")  # type: ignore[arg-type]


KEEP = "identity preservation"
BROKEN = {
    "one scope": ["local editing", "global editing", "object editing", KEEP],
    "generation excludes scopes": ["image generation", "local editing"],
    "generation edits nothing": ["image generation", "style transfer"],
    "a type": ["local editing", KEEP],
    "background": ["global editing", "background editing", "background preservation"],
    "style": ["global editing", "style transfer", "style preservation"],
    "viewpoint": ["viewpoint editing", "structure preservation"],
    "face": ["local editing", "object editing", "face preservation"],
    "pose": ["local editing", "pose editing", "structure preservation"],
    "something is kept": ["content customization", "background editing"],
}


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_each_rule_is_broken_alone_and_named(name: str) -> None:
    task = TaskDescriptor.from_tags(BROKEN[name])
    assert [rule.name for rule in task.broken_rules()] == [name]
    with pytest.raises(VocabularyError, match=f"\\({name}\\): "):
        task.validate()


@pytest.mark.parametrize(
    "names",
    [
        ["image generation"],
        ["image generation", "structure preservation"],  # a control map to a picture
        ["viewpoint editing", KEEP, "style preservation"],
        ["style customization", "style transfer", "style preservation"],  # the reference's style
        ["content customization", "background editing", KEEP],
        ["global editing", "style transfer"],
        ["global editing", "illumination editing", "structure preservation", KEEP],
        ["local editing", "pose editing", KEEP, "face preservation", "background preservation"],
        ["multi region editing", "attribute editing", "structure preservation"],
    ],
)
def test_tasks_of_the_source_table_are_valid(names: list[str]) -> None:
    task = TaskDescriptor.from_tags(names)
    task.validate()
    assert task.violations() == ()


def test_no_tags_at_all_break_the_rules() -> None:
    assert [rule.name for rule in TaskDescriptor().broken_rules()] == ["one scope", "a type"]


@given(descriptors)
def test_validate_raises_exactly_when_there_are_violations(task: TaskDescriptor) -> None:
    if task.violations():
        with pytest.raises(VocabularyError):
            task.validate()
    else:
        task.validate()
        assert len(task.scope) == 1
