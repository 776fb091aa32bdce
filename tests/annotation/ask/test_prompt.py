"""The question of an edit's tags: what it shows, what it allows, and how answers become tags."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.annotation.ask.prompt import (
    chosen_tags,
    tag_questions,
    tags_of,
    task_question,
    votes_of,
    yes_of,
)
from tagmoe.annotation.quality.agreement import as_bits
from tagmoe.annotation.quality.consistency import descriptor_of
from tagmoe.annotation.rules.rule_set import packaged_rules
from tagmoe.data.store.record import Picture, Record
from tagmoe.tags import TAG_NAMES, TAGS
from tagmoe.vlm.question import Answer, Attachment

RULES = packaged_rules()
RECORD = Record(
    id="a",
    dataset="d",
    target=Picture(b"target", 8, 8),
    instruction="put the coat\non 'her'",
    licence="MIT",
    images=(Picture(b"one", 8, 8, "person"), Picture(b"m", 8, 8, "mask"), Picture(b"two", 8, 8, "garment")),
    native_task="try-on",
)


def test_pictures_are_shown_in_order_with_their_parts_and_the_target_last():
    parts = task_question(RECORD, RULES).parts
    assert [part.data for part in parts if isinstance(part, Attachment)] == [b"one", b"two", b"target"]
    assert parts[0] == "Picture 1, the person to edit:"
    assert "Picture 3, the target" in parts[4]
    assert "'try-on'" in parts[6]
    assert "put the coat on" in parts[6]


def test_every_tag_is_defined_once_with_its_guidance():
    text = task_question(RECORD, RULES).parts[-1]
    for item in TAGS:
        assert text.count(f"- {item.name}: {item.definition} {RULES.guidance[item.name]}") == 1


@given(vote=st.integers(0, 9), seed=st.integers(0, 9))
def test_votes_differ_in_order_only(vote, seed):
    question = task_question(RECORD, RULES, vote=vote, seed=seed)
    assert question == task_question(RECORD, RULES, vote=vote, seed=seed)
    assert sorted(question.parts[-1].splitlines()) == sorted(task_question(RECORD, RULES).parts[-1].splitlines())
    assert (question.temperature > 0) == (vote > 0)


def test_another_vote_has_another_order_and_another_key():
    questions = [task_question(RECORD, RULES, vote=vote) for vote in range(5)]
    assert len({question.key for question in questions}) == 5
    assert len({question.parts[-1] for question in questions}) == 5


@pytest.mark.slow
@given(
    scope=st.sampled_from([item.name for item in TAGS if item.tier in ("scope", "generation")]),
    types=st.lists(st.sampled_from([item.name for item in TAGS if item.tier == "type"]), max_size=6),
    kept=st.lists(st.sampled_from([item.name for item in TAGS if item.tier == "preservation"]), max_size=5),
)
def test_the_schema_takes_every_answer_of_known_tags(scope, types, kept):
    value = {"scope": scope, "types": types, "preservation": kept}
    jsonschema.validate(value, task_question(RECORD, RULES).schema)
    assert {TAG_NAMES[index] for index in tags_of(value)} == {scope, *types, *kept}


@pytest.mark.parametrize(
    "value",
    [
        {"scope": "object editing", "types": [], "preservation": []},
        {"scope": "local editing", "types": ["local editing"], "preservation": []},
        {"scope": ["local editing"], "types": [], "preservation": []},
        {"scope": "local editing", "types": []},
        {"scope": "local editing", "types": [], "preservation": [], "why": "so"},
    ],
)
def test_the_schema_takes_no_other(value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, task_question(RECORD, RULES).schema)


def vote(scope, *types):
    return Answer("ok", value={"scope": scope, "types": list(types), "preservation": ["background preservation"]})


def test_votes_are_shares_and_the_majority_wins():
    answers = [vote("local editing", "object editing"), vote("local editing"), vote("global editing", "pose editing")]
    tags, probabilities = votes_of(answers)
    assert descriptor_of(as_bits(tags)).format() == "Scope: local editing; Preservation: background preservation"
    assert probabilities[0] == pytest.approx(2 / 3)
    assert probabilities[6] == pytest.approx(1 / 3)
    assert probabilities[13] == 1


def test_one_question_a_tag():
    questions = tag_questions(RECORD, RULES)
    assert len(questions) == 18
    for item, question in zip(TAGS, questions, strict=True):
        assert question.choices == ("yes", "no")
        assert item.definition in question.parts[-1]
    yes = {"attribute editing", "local editing"}
    answers = [Answer("ok", value="yes" if item.name in yes else "no") for item in TAGS]
    tags, probabilities = yes_of(answers)
    assert {TAG_NAMES[index] for index in tags} == yes
    assert set(probabilities) == {0.0, 1.0}
    known = [Answer("ok", value="no", probabilities={"yes": 0.3 + 0.01 * item.index, "no": 0.5}) for item in TAGS]
    assert yes_of(known)[1] == pytest.approx([0.3 + 0.01 * item.index for item in TAGS])


@given(st.lists(st.floats(0, 1), min_size=18, max_size=18))
def test_there_is_always_exactly_one_scope(values):
    descriptor = descriptor_of(as_bits(chosen_tags(tuple(values))[0]))
    assert len(descriptor.scope) == 1
    assert "generation edits nothing" not in [rule.name for rule in descriptor.broken_rules()]
