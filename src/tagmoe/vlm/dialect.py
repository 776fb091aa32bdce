"""The optional fields of a request, and which of them a server's refusal speaks of.

Servers refuse a field that they do not know in many wordings, with many status codes. The question is then sent again
without that field, and the field is left out for the rest of the run (`Endpoint.unsupported_fields`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

OPTIONAL = (
    "chat_template_kwargs",
    "seed",
    "top_logprobs",
    "logprobs",
    "temperature",
    "structured_outputs",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
)
"""Fields that a server may not support, those first that are missed least."""
_OTHER_NAMES = {
    "chat_template_kwargs": ("enable_thinking", "chat template"),
    "structured_outputs": ("structured output", "guided_choice", "guided decoding"),
    "response_format": ("json_schema", "structured output", "guided_json", "guided decoding"),
}
_OF_FIELDS = re.compile(
    r"support|recogni[sz]|unknown|unexpected|extra|permitted|allowed|additional|field|param|argument|propert|keyword"
    r"|not implemented|option|configur|default|schema|deprecated",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(r"too (large|long|many)|context|reduce|exceed", re.IGNORECASE)
"""A question with too many tokens: its limit of tokens is not to blame."""
_FIELD_KEYS = ("param", "params", "parameter", "loc", "field", "fields", "path")


def blamed_field(data: bytes, message: str, sent: Iterable[str]) -> str | None:
    """The optional field that an error reply names; None if it names none of those `sent`.

    data: body of the reply. message: its text. A field is named by itself (`param`, `loc`) or in the text. The words
    "seed" and "temperature" may be those of an instruction, so the text must speak of fields as well.
    """
    lengths = ("max_tokens", "max_completion_tokens") if _TOO_LONG.search(message) else ()
    given = [name for name in OPTIONAL if name in sent and name not in lengths]
    pointed = set(_pointed(data))
    for name in given:
        if name in pointed:
            return name
    for name in given:
        words = (name, *_OTHER_NAMES.get(name, ()))
        pattern = "|".join(re.escape(word).replace("_", "[_ -]?") for word in words)
        plain = "_" not in name and not _OF_FIELDS.search(message)
        if re.search(rf"(?<![A-Za-z_])(?:{pattern})(?![A-Za-z_])", message, re.IGNORECASE) and not plain:
            return name
    return None


def may_blame_fields(status: int, message: str) -> bool:
    """Whether a refusal that names no field may still be about one."""
    return status == 501 or (status in (400, 405, 406, 415, 422) and (not message or bool(_OF_FIELDS.search(message))))


def without(sent: Iterable[str]) -> Iterator[frozenset[str]]:
    """The fields to leave out, attempt by attempt: each alone, then more and more of them together."""
    given = [name for name in OPTIONAL if name in sent]
    yield from (frozenset([name]) for name in given)
    yield from (frozenset(given[:count]) for count in range(2, len(given) + 1))


def _pointed(data: bytes) -> Iterator[str]:
    """The names in the fields of an error reply that point at a part of the request."""
    try:
        waiting: list[Any] = [json.loads(data)]
    except (ValueError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if key in _FIELD_KEYS:
                    for text in inner if isinstance(inner, list) else [inner]:
                        yield from re.split(r"[^A-Za-z0-9_]+", str(text))
                elif key != "input":
                    waiting.append(inner)
