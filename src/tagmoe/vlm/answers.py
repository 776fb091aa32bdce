"""From what a model wrote to an `Answer`: found in the text, parsed, and held against the question's schema.

Checked here however much a server promises: some ignore the schema, some hold the model only loosely to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tagmoe.errors import UsageError
from tagmoe.extras import require
from tagmoe.vlm.question import Answer, Question

_FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
_THOUGHTS = re.compile(r"\A.*</think>", re.DOTALL)
_COMMA = re.compile(r",(\s*[}\]])")


def answer_of(text: str, question: Question) -> Answer:
    """The status, and the value where it fits, of the whole text that a model wrote.

    Raises UsageError for a schema that is none, MissingError without jsonschema.
    """
    if question.choices:
        word = chosen(text, question.choices)
        if word is None:
            return Answer("invalid", text, reason=f"The answer {_short(text)!r} is none of the choices.")
        return Answer("ok", text, word)
    if question.schema is None:
        return Answer("ok", text, text) if text.strip() else Answer("invalid", text, reason="The answer is empty.")
    found, value = parsed(text)
    if not found:
        return Answer("invalid", text, reason=f"The answer is no JSON: {_short(text)!r}.")
    problem = next(validator_of(question.schema).iter_errors(value), None)
    if problem is not None:
        place = "".join(f"[{step!r}]" for step in problem.absolute_path)
        reason = f"The answer does not fit the schema{' at ' + place if place else ''}: {_short(problem.message)}."
        return Answer("invalid", text, reason=reason)
    return Answer("ok", text, value)


def parsed(text: str) -> tuple[bool, Any]:
    """(whether there is JSON in the text, its value); around it may be a code fence, words and a model's thoughts.

    One attempt at repair: commas before a closing bracket. What is cut off stays broken, as its end is not known.
    """
    found, value = _loaded(text)
    if found:
        return True, value
    text = _THOUGHTS.sub("", text)
    fence = _FENCE.search(text)
    inner = (fence[1] if fence else text).strip()
    start = min((place for place in (inner.find("{"), inner.find("[")) if place >= 0), default=-1)
    end = max(inner.rfind("}"), inner.rfind("]"))
    if start < 0 or end < start:
        return _loaded(inner)
    inner = inner[start : end + 1]
    found, value = _loaded(inner)
    return (True, value) if found else _loaded(_COMMA.sub(r"\1", inner))


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a text is: as it is, quoted, as the only value of a JSON object, in other case."""
    if text in choices:
        return text
    found, value = parsed(text)
    if found and isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    said = value if found and isinstance(value, str) else _THOUGHTS.sub("", text)
    said = said.strip().strip("\"'`").rstrip(".").strip()
    if said in choices:
        return said
    alike = [choice for choice in choices if choice.casefold() == said.casefold()]
    return alike[0] if len(alike) == 1 else None


def validator_of(schema: Mapping[str, Any]) -> Any:
    """A jsonschema validator, made once for each schema. Raises UsageError for what is no schema."""
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
        return True, json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _short(text: str, limit: int = 120) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= limit else line[: limit - 3] + "..."
