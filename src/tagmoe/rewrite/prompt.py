"""The prompt that asks a model to rewrite an instruction, and the schema of its answer.

For each kind of task the prompt says what a good instruction states. Every change of its words needs a new
PROMPT_VERSION, because cached answers are looked up by it and the metadata of every picture names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tagmoe.tags import TAGS
from tagmoe.vlm.question import Attachment, Question, object_schema

PROMPT_VERSION = "1"
MAX_TOKENS = 1024

_COMMON = """\
You improve the words of a request to a picture model. Answer with one JSON object that fits the schema, nothing else.

For every request:
- Keep what the user wants: the same change, the same objects, nothing beyond it. You may make it clearer, never other.
- Copy text between quotation marks, numbers and names exactly. Never put other words between quotation marks, unless
  they are the words of the request that are to be drawn. Never translate: write in the language of the request.
- Be direct and concrete. One paragraph of plain words, at most 150 words, no list, no comment on your work.
- Where the request contradicts itself or the pictures, choose the reading that makes most sense.
- A request that is already clear stays as it is, but for its grammar: then "changed" is false.
"""
_EDIT = """\
The request changes the pictures given. Look at them first, and name an object as it looks there (kind, colour, place),
so that only one thing can be meant. Then, by the kind of change:
- Add: say what is added, how it looks, how large it is and where it goes; if no place is given choose a natural one.
- Remove: say which object goes, and nothing of what was never there.
- Replace: say which object becomes which, with the two or three features by which the new one is known.
- Text in the picture: say which text becomes which, letter by letter and in the same case, in quotation marks; speak of
  place, colour or letter form only where the request does.
- People: say which traits must stay (face, age, skin, hair, build, clothes that are not changed); keep a change of
  expression, hair or make-up small and natural.
- Style: name the style and a few visible traits of it (line, colour, light, material), after any other change.
- Colouring, restoring: say in one short sentence that the picture is coloured or repaired and all else stays.
- Filling or widening: say that the missing part is completed to fit what surrounds it, and what belongs there.
- Background, light, viewpoint: say what is new, and that the subject keeps its form, place and look.
- Several pictures: they are numbered in the order given; say from which picture each element comes ("picture 1").
Close with what must stay as it is, in a few words, where it is not plain from the change.
"""
_GENERATE = """\
The request describes a picture that is to be drawn from nothing.
- A short request becomes a full description: subject, its look, place and pose, surroundings, light, style, view.
- A request that says a style, a number of things, colours or a layout keeps all of them; choose only what is open.
- Text that is to stand in the picture stays between its quotation marks, with its place; where there is none, ask for
  none.
"""
_FIELDS = """\
The fields: "rewritten" the improved request; "task_guess" what kind of task it is, in the tags below;
"kept_constraints" what the request fixes and you kept (quoted text, numbers, names, what must stay), each in a few
words; "language" the language of the request; "changed" whether you changed any word.
The tags:
"""
_WORDS = "The picture model knows these words only; use no other: {known}.\n"
_AGAIN = (
    "Your last answer could not be used: {problems}. It began: {before}\nAnswer again, for the same request, without "
    "this fault."
)


def rewrite_question(
    instruction: str,
    pictures: Sequence[Attachment],
    *,
    known_words: Sequence[str] | None = None,
    problems: Sequence[str] = (),
    before: str = "",
    attempt: int = 1,
) -> Question:
    """The question for a rewritten instruction. `problems`, `before`: the faults of the last answer, and that answer.

    Without pictures the request is for a picture from text. The first attempt is greedy. A later one is sampled with a
    seed of its own, because a greedy model would repeat itself.
    """
    system = _COMMON + (_EDIT if pictures else _GENERATE)
    if known_words is not None:
        system += _WORDS.format(known=" ".join(known_words))
    system += _FIELDS + "".join(f"- {tag.name} ({tag.tier}): {tag.definition}\n" for tag in TAGS)
    parts: list[str | Attachment] = []
    for number, picture in enumerate(pictures, 1):
        parts += [f"Picture {number}:", picture]
    parts.append(f"The request:\n{instruction}")
    if problems:
        parts.append(_AGAIN.format(problems="; ".join(problems), before=repr(before[:300])))
    return Question(
        tuple(parts),
        system=system,
        schema=answer_schema(bool(pictures)),
        temperature=0.0 if attempt == 1 else 0.5,
        seed=attempt,
        max_tokens=MAX_TOKENS,
    )


def answer_schema(has_pictures: bool) -> Mapping[str, Any]:
    """The JSON schema of the answer; a picture from text has one possible scope."""
    scopes = _names("scope", "generation") if has_pictures else _names("generation")
    guess = {
        "scope": {"enum": scopes},
        "types": _some(_names("type"), 3),
        "preservation": _some(_names("preservation"), 5),
    }
    fields = {
        "rewritten": {"type": "string", "minLength": 1, "maxLength": 2400},
        "task_guess": object_schema(guess),
        "kept_constraints": {"type": "array", "items": {"type": "string", "maxLength": 200}, "maxItems": 12},
        "language": {"type": "string", "maxLength": 40},
        "changed": {"type": "boolean"},
    }
    return object_schema(fields)


def _some(names: Sequence[str], most: int) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": list(names)}, "maxItems": most}


def _names(*tiers: str) -> list[str]:
    return [tag.name for tag in TAGS if tag.tier in tiers]
