"""From a model's text to an `Answer`: find the JSON in the text, parse it, mend it, and validate it by the schema.

Answers are validated here even if a server promises to: some ignore the schema, and some enforce only a part of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tagmoe.errors import UsageError
from tagmoe.extras import require
from tagmoe.vlm.mending import SPELLING, mended
from tagmoe.vlm.question import Answer, Question
from tagmoe.vlm.thoughts import without_thoughts

_FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
_COMMA = re.compile(r",(\s*[}\]])")
_OPENING = re.compile(r"[{\[]")
_BEGUN = re.compile(r"[{\[]\s*[\"{\[]")
"""The beginning of JSON, as against a bracket in a sentence."""


class _Twice(Exception):
    """An object gives a name twice, with different values. The message is the name."""


def answer_of(text: str, question: Question) -> Answer:
    """The answer that a model's whole text gives: its status, and its value if it fits the question.

    Raises UsageError for an invalid schema, MissingError without jsonschema.
    """
    if question.choices:
        word = chosen(text, question.choices)
        if word is None:
            return Answer("invalid", text, reason=f"The answer {_short(text)!r} is none of the choices.")
        return Answer("ok", text, word, notes=() if word in text else (SPELLING,))
    if question.schema is None:
        said = without_thoughts(text)
        return Answer("ok", text, said) if said.strip() else Answer("invalid", text, reason="The answer is empty.")
    try:
        found, value = _found(text)
    except _Twice as error:
        return Answer("invalid", text, reason=f"The answer gives {str(error)!r} twice, with different values.")
    if not found:
        return Answer("invalid", text, reason=f"The answer is no JSON: {_short(text)!r}.")
    return _checked(text, value, question.schema)


def of_reasoning(text: str, question: Question) -> Answer:
    """The answer in a text that a server calls reasoning. It must be the whole text or its end: JSON in the middle of
    thoughts is a draft."""
    if question.schema is None and not question.choices:
        return Answer("invalid", text, reason="The server sent thoughts, and no answer.")
    last = without_thoughts(text).rstrip().removesuffix("```").rstrip()
    if question.choices or last.endswith(("}", "]")):
        return answer_of(text, question)
    return Answer("invalid", text, reason=f"The thoughts do not end in an answer: {_short(text)!r}.")


def _checked(text: str, value: Any, schema: Mapping[str, Any]) -> Answer:
    """The answer of a parsed value. What does not fit is mended where its meaning is plain."""
    validator = validator_of(schema)
    notes: tuple[str, ...] = ()
    problem = next(validator.iter_errors(value), None)
    if problem is not None:
        better, notes = mended(value, schema)
        if notes:
            value, problem = better, next(validator.iter_errors(better), None)
    if problem is not None:
        place = "".join(f"[{step!r}]" for step in problem.absolute_path)
        reason = f"The answer does not fit the schema{' at ' + place if place else ''}: {_short(problem.message)}."
        return Answer("invalid", text, reason=reason)
    return Answer("ok", text, value, notes=notes)


def parsed(text: str) -> tuple[bool, Any]:
    """(whether there is one JSON value in the text, its value). A code fence, words and thoughts may surround it.

    The only repair removes commas before a closing bracket. A text that was cut off stays invalid: its end is unknown.
    An object that gives a name twice is no value, unless both times with the same value.
    """
    try:
        return _found(text)
    except _Twice:
        return False, None


def _found(text: str) -> tuple[bool, Any]:
    found, value = _loaded(text)
    if found:
        return True, value
    text = without_thoughts(text)
    fences = _FENCE.findall(text)
    inner = (fences[-1] if fences else text).strip()
    found, value = _loaded(inner)
    if found:
        return True, value
    values = list(_values(inner)) or list(_values(_COMMA.sub(r"\1", inner)))
    # a list in a sentence, as [1], is no answer where there is an object
    objects = [one for one in values if isinstance(one, dict)] or values
    return (True, objects[0]) if len(objects) == 1 else (False, None)


def _values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, one after another; none from a damaged one on."""
    place = 0
    while (opening := _OPENING.search(text, place)) is not None:
        place = opening.start()
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            if _BEGUN.match(text, place):
                return
            place += 1
        else:
            yield value


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a text names: verbatim, quoted, in another case, or as the only value of a JSON object."""
    if text in choices:
        return text
    found, value = parsed(text)
    if found and isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    said = value if found and isinstance(value, str) else without_thoughts(text)
    said = said.strip().strip("\"'`").rstrip(".").strip()
    if said in choices:
        return said
    alike = [choice for choice in choices if choice.casefold() == said.casefold()]
    return alike[0] if len(alike) == 1 else None


def validator_of(schema: Mapping[str, Any]) -> Any:
    """A jsonschema validator, made once for each schema. Raises UsageError for an invalid schema."""
    return _validator(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    require("vlm", "jsonschema", purpose="An answer by a JSON schema")
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    value = json.loads(schema)
    kind = validator_for(value, default=Draft202012Validator)
    try:
        kind.check_schema(value)
    except SchemaError as error:
        raise UsageError(
            f"The schema of the question is no JSON schema ({_short(error.message)}); correct it."
        ) from None
    return kind(value)


def _loaded(text: str) -> tuple[bool, Any]:
    try:
        return True, _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False, None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its names and values. Raises _Twice when a name comes with two values."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values and values[name] != value:
            raise _Twice(name)
        values[name] = value
    return values


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_once)


def _short(text: str, limit: int = 120) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= limit else line[: limit - 3] + "..."
