"""The question for the instruction of an inverse edit: from the target of a record back to its source."""

from __future__ import annotations

from collections.abc import Sequence

from tagmoe.vlm.question import Attachment, Question, object_schema

INVERSE_VERSION = 1
"""Raise this when a change of the code gives another question for the same record."""
_SYSTEM = (
    "You write instructions for a picture editor. You look at both pictures closely and describe only what they show."
)
_WORDS = """\
An editor turned picture 2 into picture 1 by this instruction:
{instruction}

Write the instruction that turns picture 1 back into picture 2.
- Say what is changed, where it is, and how it looks in picture 2: kind, colour, place, written text letter by letter.
- One sentence, or two, in the language of the instruction above. Speak of "the picture", never of picture 1 or 2.
- Do not mention the earlier edit: no "undo", "again", "original" or "back".
- "certain" is false if the pictures do not show what the instruction must say.
Answer with JSON: {{"instruction": text, "certain": true or false}}."""
_AGAIN = "\nYour last answer could not be used: {problems}. It began: {before}\nAnswer again, without this fault."
_SCHEMA = object_schema(
    {"instruction": {"type": "string", "maxLength": 1200}, "certain": {"type": "boolean"}},
)


def inverse_question(
    instruction: str, shown: Sequence[Attachment], problems: Sequence[str] = (), before: str = "", attempt: int = 1
) -> Question:
    """The question. shown: the target and the source. problems, before, attempt: as in `rewrite_question`."""
    parts: list[str | Attachment] = []
    for number, picture in enumerate(shown, 1):
        parts += [f"Picture {number}:", picture]
    words = _WORDS.format(instruction=instruction)
    if problems:
        words += _AGAIN.format(problems="; ".join(problems), before=repr(before[:300]))
    return Question(
        (*parts, words),
        system=_SYSTEM,
        schema=_SCHEMA,
        temperature=0.0 if attempt == 1 else 0.5,
        seed=attempt,
        max_tokens=400,
    )
