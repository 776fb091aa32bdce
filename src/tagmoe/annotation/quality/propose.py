"""Ask a model for better guidance for the tags with the lowest gold F1, and show it the mistakes.

The new guidance goes into a new file, for a person to read. `refine` must try it before it is adopted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tagmoe.errors import DataError
from tagmoe.tags import tag
from tagmoe.vlm.question import VLM, Question, object_schema

MAX_GUIDANCE = 600
"""Longest guidance of one tag, in characters."""
MAX_MISTAKES = 6
"""Most mistakes of each kind that are shown for one tag."""
_SYSTEM = (
    "You maintain the guidelines by which annotators tag edits of pictures. You write short, general rules that decide "
    "when a tag applies and when it does not. You never mention single examples, names or numbers of rows."
)


@dataclass(frozen=True)
class Mistake:
    """An instruction that was tagged wrongly. missed: only gold has the tag; otherwise only the answer has it."""

    instruction: str
    missed: bool


def next_version(version: str) -> str:
    """The next version: the last number plus 1, or "-2" appended if there is no number."""
    before, digits, after = re.fullmatch(r"(.*?)(\d*)(\D*)", version, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{before}{int(digits) + 1}{after}" if digits else f"{version}-2"


def worst_tags(f1_by_tag: Mapping[str, float], count: int) -> list[str]:
    """The `count` tags with the lowest F1; tags with an F1 of 1 are left out."""
    return sorted((name for name, f1 in f1_by_tag.items() if f1 < 1), key=lambda name: (f1_by_tag[name], name))[:count]


def proposal_question(
    guidance: Mapping[str, str], f1_by_tag: Mapping[str, float], mistakes: Mapping[str, Sequence[Mistake]]
) -> Question:
    """The question for new guidance. guidance: present guidance of the tags to improve, '' for none."""
    parts = ["Rewrite the guidance of each tag below so that the mistakes listed under it would not happen again."]
    for name, words in guidance.items():
        parts.append(f"\nTag: {name}\nDefinition: {tag(name).definition}\nPresent guidance: {words or '(none)'}")
        parts.append(f"F1 against the gold set: {f1_by_tag[name]:.2f}")
        for missed, title in ((True, "Left out, though it applies"), (False, "Given, though it does not apply")):
            some = [item.instruction for item in mistakes.get(name, ()) if item.missed == missed][:MAX_MISTAKES]
            parts += [f"{title}:", *(f"- {text[:300]}" for text in some)] if some else []
    parts.append("\nAnswer with the new guidance of each of these tags, at most three sentences each.")
    text = {"type": "string", "minLength": 1, "maxLength": MAX_GUIDANCE}
    return Question(
        ("\n".join(parts),),
        system=_SYSTEM,
        schema=object_schema(dict.fromkeys(guidance, text)),
        max_tokens=256 * len(guidance),
    )


async def propose(vlm: VLM, question: Question) -> dict[str, str]:
    """The new guidance by tag. Raises DataError when the answer of the model cannot be used."""
    answer = await vlm.ask(question)
    wanted = set((question.schema or {}).get("required", ()))
    if answer.status != "ok":
        reason = answer.reason.rstrip(".")[:200]
        raise DataError(f"The model {vlm.model!r} proposed nothing that can be used ({answer.status}: {reason}).")
    found = {
        name: " ".join(str(words).split())[:MAX_GUIDANCE]
        for name, words in dict(answer.value).items()
        if name in wanted
    }
    if set(found) != wanted or not all(found.values()):
        raise DataError(f"The model {vlm.model!r} left out guidance for {', '.join(sorted(wanted - set(found)))!r}.")
    return found
