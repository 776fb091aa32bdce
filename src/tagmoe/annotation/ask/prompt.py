"""The question that asks a model for the tags of an edit, and the tags in its answer (paper 3.2).

The question has the source pictures, the instruction, the target and the definitions of the tags. The schema of the
answer (scope, types, preservation) allows only known tags. Each vote lists the tags in another order, so that the order
favours no tag.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tagmoe.annotation.rules.rule_set import TIERS, RuleSet, tier_of
from tagmoe.data.store.record import Record
from tagmoe.tags import TAG_NAMES, TAGS, tag
from tagmoe.vlm.question import Answer, Attachment, Question, object_schema

VERSION = 1
"""Raise this when a change of the code gives another question for the same record and rules."""
VOTE_TEMPERATURE = 0.7
MAX_INSTRUCTION = 2000
_SYSTEM = (
    "You label edits of pictures for the training of a picture editor. You look at the pictures closely, compare "
    "source and target, and answer with tags from a fixed list only."
)
_TITLES = {
    "source": "the picture to edit",
    "reference": "a reference picture",
    "garment": "a garment to be worn",
    "person": "the person to edit",
    "control": "a control map to follow",
}
_FIELDS = {"scope": "scope", "type": "types", "preservation": "preservation"}
_WHAT = {
    "scope": "SCOPE, how much of the picture changes",
    "type": "TYPE, what kind of change it is",
    "preservation": "PRESERVATION, what must stay unchanged",
}
YES, NO = "yes", "no"


def task_question(record: Record, rules: RuleSet, *, vote: int = 0, seed: int = 0) -> Question:
    """One question for all tags. Vote 0 is greedy and in the order of the vocabulary; others shuffle and sample."""
    order = _order(vote, seed)
    lines = ["Give the tags of this edit.", rules.notes]
    for tier in TIERS:
        lines += ["", f"{_WHAT[tier]}. {rules.tiers[tier]}".strip()]
        lines += [_defined(name, rules) for name in order if tier_of(name) == tier]
    if rules.examples:
        lines += ["", "Examples:"]
        lines += [f"- {item.instruction!r} -> {item.descriptor}" for item in rules.examples]
    lines += ["", 'Answer with JSON: {"scope": tag, "types": [tags], "preservation": [tags]}.']
    sampling: dict[str, Any] = {"temperature": VOTE_TEMPERATURE, "seed": seed * 1000 + vote} if vote else {"seed": seed}
    return Question(
        (*_shown(record), "\n".join(lines)), system=_SYSTEM, schema=_schema(order), max_tokens=300, **sampling
    )


def tag_questions(record: Record, rules: RuleSet, *, seed: int = 0) -> list[Question]:
    """One question for each tag, in the order of the vocabulary, with the answers yes and no."""
    shown = _shown(record)
    return [
        Question(
            (
                *shown,
                f"{rules.notes}\n{_WHAT[tier_of(name)]}. {rules.tiers[tier_of(name)]}\n"
                f"The tag in question:\n{_defined(name, rules)}\nDoes it apply to this edit? Answer {YES} or {NO}.",
            ),
            system=_SYSTEM,
            choices=(YES, NO),
            seed=seed,
            max_tokens=4,
        )
        for name in TAG_NAMES
    ]


def tags_of(value: Mapping[str, Any]) -> tuple[int, ...]:
    """Ascending indices of the tags in an answer that fits the schema; duplicates count once."""
    return tuple(sorted({tag(name).index for name in (value["scope"], *value["types"], *value["preservation"])}))


def votes_of(answers: Sequence[Answer]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Tags and probabilities of several ok answers; the probability of a tag is its share of the votes.

    The scope with most votes is taken, and any other tag with more than half of the votes.
    """
    given = [set(tags_of(answer.value)) for answer in answers]
    return chosen_tags(tuple(sum(item.index in tags for tags in given) / len(given) for item in TAGS))


def yes_of(answers: Sequence[Answer]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Tags and probabilities of the answers to `tag_questions`; 1 or 0 if the server gives no probabilities."""
    return chosen_tags(
        tuple(
            float(answer.value == YES) if answer.probabilities is None else float(answer.probabilities[YES])
            for answer in answers
        )
    )


def chosen_tags(probabilities: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(tags, probabilities): the scope with the highest probability, and the other tags with more than one half."""
    scopes = [item.index for item in TAGS if tier_of(item.name) == "scope"]
    scope = max(scopes, key=lambda index: (probabilities[index], -index))
    others = [index for index, value in enumerate(probabilities) if index not in scopes and value > 0.5]
    if TAGS[scope].tier == "generation":
        # Image generation has no types, so drop those that single questions gave.
        others = [index for index in others if TAGS[index].name == "structure preservation"]
    return tuple(sorted([scope, *others])), probabilities


def _order(vote: int, seed: int) -> list[str]:
    names = list(TAG_NAMES)
    if vote:
        random.Random(f"{seed}/{vote}").shuffle(names)
    return names


def _shown(record: Record) -> list[str | Attachment]:
    """The pictures in order, each after its number and role, then the instruction."""
    parts: list[str | Attachment] = []
    given = list(record.inputs)
    for number, picture in enumerate(given, 1):
        parts += [f"Picture {number}, {_TITLES[picture.role]}:", Attachment(picture.data)]
    parts += [f"Picture {len(given) + 1}, the target, that is the result of the edit:", Attachment(record.target.data)]
    said = " ".join(record.instruction.split())[:MAX_INSTRUCTION]
    task = f" The data set calls the task {record.native_task!r}." if record.native_task else ""
    parts.append(f"Instruction: {said!r}.{task}" + ("" if given else " There is no source picture."))
    return parts


def _defined(name: str, rules: RuleSet) -> str:
    return f"- {name}: {tag(name).definition} {rules.guidance[name]}".rstrip()


def _schema(order: Sequence[str]) -> dict[str, Any]:
    """The schema of the answer. It has no uniqueItems, which grammars of servers and OpenAI's strict mode reject."""
    names = {tier: [name for name in order if tier_of(name) == tier] for tier in TIERS}
    several = {
        _FIELDS[tier]: {"type": "array", "items": {"type": "string", "enum": names[tier]}, "maxItems": len(names[tier])}
        for tier in ("type", "preservation")
    }
    return object_schema({"scope": {"type": "string", "enum": names["scope"]}, **several})
