"""Ask a model for the words of a pair of frames: one question for both directions, and what it says must agree.

The answers are a column of the store, by the driver of `tagmoe data annotate`. `take_words` sets the instructions from
it: of the edit and of the edit back. A pair that the model calls another change than was measured keeps no words.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tagmoe.annotation.ask.texts import TextAnswer, TextAsker, TextPlan
from tagmoe.data.check.validate import QUARANTINE
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.factory.video.records import TASK
from tagmoe.rewrite import checks
from tagmoe.vlm.question import Attachment, Question, object_schema

COLUMN = "video_words"
VERSION = 1
"""Raise this when a change of the code gives another question for the same record."""
CHANGES = ("camera", "subject", "both", "other", "nothing")
OTHER_SCENE = "the model sees two scenes"
OTHER_SUBJECT = "the model sees two subjects"
OTHER_CHANGE = "the model sees another change than was measured"
UNCERTAIN = "the model is not certain what changed"
_SYSTEM = (
    "You write instructions for a picture editor. You look at both pictures closely and describe only what they show."
)
_WORDS = """\
Picture 1 and picture 2 are two frames of one video, in this order.
- "same_scene": whether both show one scene. "same_subject": whether the main subject is the same one in both.
- "change": "camera" if only the camera moved (place, direction, distance), "subject" if only the subject moved (pose, \
gesture, expression, place), "both", "other" if something else changed (a thing, light, text), or "nothing".
- "forward": the instruction that turns picture 1 into picture 2. "backward": that which turns picture 2 into picture 1.
  Each says what moves and how it looks after the edit. One sentence or two. Speak of "the picture", never of picture \
1 or 2, nor of a video, and never of the other instruction.
- "certain" is false if the pictures do not show what the instructions must say.
Answer with JSON: {"same_scene": true or false, "same_subject": true or false, "change": word, "forward": text, \
"backward": text, "certain": true or false}."""
_AGAIN = "\nYour last answer could not be used: {problems}. It began: {before}\nAnswer again, without this fault."
_TEXT = {"type": "string", "maxLength": 1200}
_SCHEMA = object_schema(
    {
        "same_scene": {"type": "boolean"},
        "same_subject": {"type": "boolean"},
        "change": {"enum": list(CHANGES)},
        "forward": _TEXT,
        "backward": _TEXT,
        "certain": {"type": "boolean"},
    }
)


class WordsAsker(TextAsker):
    """Asks for the words of a pair. Its text is JSON: {"forward": text, "backward": text}."""

    def _version(self) -> str:
        return f"video {VERSION}"

    def _unfit(self, record: Record) -> str:
        return "" if len(record.inputs) == 1 else "The row has not one picture before the edit."

    def _pictures(self, record: Record) -> list[bytes]:
        return [record.inputs[0].data, record.target.data]

    def _question(
        self, record: Record, shown: Sequence[Attachment], wrong: Sequence[str], before: str, attempt: int
    ) -> Question:
        again = _AGAIN.format(problems="; ".join(wrong), before=repr(before[:300])) if wrong else ""
        return Question(
            ("Picture 1:", shown[0], "Picture 2:", shown[1], _WORDS + again),
            system=_SYSTEM,
            schema=_SCHEMA,
            temperature=0.0 if attempt == 1 else 0.5,
            seed=attempt,
            max_tokens=700,
        )

    def _problems(self, record: Record, value: Any) -> list[str]:
        if _refusal(record, value):
            return []
        tried = (checks.is_a_text, checks.is_short, checks.is_plain, checks.is_no_talk)
        texts = [value[name].strip() for name in ("forward", "backward")]
        found = [
            f"{name}: {problem}"
            for name, text in zip(("forward", "backward"), texts, strict=True)
            for check in tried
            if (problem := check("", text)) is not None
        ]
        same = len({" ".join(text.split()).casefold() for text in texts}) == 1
        return [*found, "both instructions are the same"] if same else found

    def _of_value(self, record: Record, found: TextAnswer, value: Any) -> TextAnswer:
        reason = _refusal(record, value)
        if reason:
            return replace(found, status="refused", text=None, reason=reason, by_server=False)
        return replace(found, text=json.dumps({name: value[name].strip() for name in ("forward", "backward")}))


def _refusal(record: Record, value: Mapping[str, Any]) -> str:
    """Why a pair gets no words; empty if it gets some."""
    if not value["same_scene"]:
        return OTHER_SCENE
    if not value["same_subject"]:
        return OTHER_SUBJECT
    wanted = "camera" if record.native_task == TASK["view"] else "subject"
    if value["change"] != wanted:
        return OTHER_CHANGE
    return "" if value["certain"] else UNCERTAIN


@dataclass(frozen=True)
class WordsPlan(TextPlan):
    """Words of pairs, in the column COLUMN. The rows of `rows_to_ask` are asked."""

    @property
    def column(self) -> str:
        return COLUMN


def rows_to_ask(store: Store) -> np.ndarray:
    """(rows,) of bool: the pairs of frames, each in the direction of time."""
    chosen = np.zeros(len(store), dtype=bool)
    row = 0
    for batch in store.scan(["operation"], rows=8192):
        for operation in batch["operation"].to_pylist():
            chosen[row] = operation == "video"
            row += 1
    return chosen


def take_words(store: Store) -> Counter[str]:
    """Set the instructions of pairs and of their inverses from the answers; returns the pairs by what they have.

    "worded" have words; "waiting" have no answer yet; others are counted by why they get none. It may be called again.
    """
    counts: Counter[str] = Counter()
    asked = COLUMN in store.columns
    names = ["id", "parent", "operation", "instruction", QUARANTINE.name, *([COLUMN] if asked else [])]
    with store.writing():
        store.declare([QUARANTINE])
        for number in store.fragments():
            rows = [row for batch in store.fragment(number, names, rows=8192) for row in batch.to_pylist()]
            words: dict[str, dict[str, str]] = {}
            for row in rows:
                if row["operation"] != "video":
                    continue
                given = row.get(COLUMN)
                if given is None or given["status"] == "failed":
                    counts["waiting"] += 1
                elif given["status"] == "ok":
                    counts["worded"] += 1
                    words[row["id"]] = json.loads(given["text"])
                else:
                    counts[given["reason"] or given["status"]] += 1
            if not words:
                continue
            said = [_words_of(row, words) for row in rows]
            if said != [row["instruction"] for row in rows]:
                # A pair that has words waits no more; it is to be checked as a whole.
                held = [
                    row[QUARANTINE.name] if text == row["instruction"] else None
                    for row, text in zip(rows, said, strict=True)
                ]
                table = {"instruction": pa.array(said, pa.string()), QUARANTINE.name: pa.array(held, QUARANTINE.type)}
                store.fill(number, pa.table(table))
    return counts


def _words_of(row: Mapping[str, Any], words: Mapping[str, Mapping[str, str]]) -> str:
    """The instruction of a row, by the words of the pairs of its fragment."""
    if row["operation"] == "video":
        return str(words.get(row["id"], {}).get("forward", row["instruction"]))
    if row["operation"] == "inverse":
        return str(words.get(row["parent"] or "", {}).get("backward", row["instruction"]))
    return str(row["instruction"])
