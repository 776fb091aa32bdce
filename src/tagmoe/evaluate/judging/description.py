"""A judge by a description: a YAML file that says what a model is shown and asked, and what its answers mean.

    name: my-judge
    about: whether the edit is right
    least: 0
    most: 10
    questions:
      - name: right
        shows: [source, output]
        words: "Instruction: {instruction}. How right is the edit?"
        scores: [success, rest]
        reduce: min

A question without `scores` is answered by a bare 0 or 1. With `mask` or `reference` it is for cases that have, or have
not, a mask or a reference. The value of the judge is the geometric or plain mean of its questions.

A judge that was trained on words of its own is worth its name with those alone. Where their licence lets nobody pass
them on, the description of whoever has them names a file beside it in place of `words`, and pins it:

        words_from: {file: success.txt, sha256: 5e88..., instruction: "<instruction>"}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import UsageError
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.files.yaml_text import read_yaml
from tagmoe.sentences import reason_of

Shown = Literal["source", "output", "other", "mask", "reference"]
INSTRUCTION = "{instruction}"
"""What stands in words for the instruction of the case."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_FOLDER = files("tagmoe.evaluate.judging") / "descriptions"
ENDINGS = (".yaml", ".yml")


class Asked(Part):
    """One question. shows: pictures in the order that the model sees them, before the words. other: the output of the
    editor that the judge compares with. scores: names of the numbers that the answer must give. reduce: how they become
    one. as_list: the numbers come as {"score": [...]}, as VIEScore's own wording has it."""

    name: str
    shows: tuple[Shown, ...] = Field(min_length=1)
    words: str
    mask: bool | None = None
    reference: bool | None = None
    scores: tuple[str, ...] = ()
    reduce: Literal["min", "mean"] = "min"
    as_list: bool = False

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        return _plain_name(value)

    @field_validator("words")
    @classmethod
    def _has_instruction(cls, value: str) -> str:
        unknown = sorted(set(re.findall(r"\{(\w+)\}", value)) - {"instruction"})
        if unknown:
            raise ValueError(f"the words name {{{unknown[0]}}}; {{instruction}} alone is known")
        return value

    def fits(self, case: Case) -> bool:
        """Whether the question is for a case."""
        has_mask, has_reference = case.mask is not None, bool(case.refs)
        return self.mask in (None, has_mask) and self.reference in (None, has_reference)


class JudgeDescription(Part):
    """A judge. origin: whose protocol and words it has. least, most: of the numbers that it is asked for. factor: what
    its values are multiplied by then. least_pixels, most_pixels: pictures of other sizes are scaled. cases: edits of a
    source, or all. compares: whether it prefers one of two outputs. passes: how often each question is asked, with a
    seed of its own, at this temperature; the values of the passes are averaged. answers: text that the model writes,
    or the number of a head on its last layer, which has no scale."""

    name: str
    about: str
    origin: str = ""
    least: float = 0.0
    most: float = 1.0
    factor: float = Field(1.0, gt=0)
    answers: Literal["text", "head"] = "text"
    passes: int = Field(1, ge=1, le=64)
    temperature: float = Field(0.0, ge=0, le=2)
    least_pixels: int = Field(1, ge=1, le=1 << 26)
    most_pixels: int = Field(1 << 20, ge=1, le=1 << 26)
    max_tokens: int = Field(512, ge=1, le=1 << 16)
    cases: Literal["editing", "all"] = "editing"
    overall: Literal["mean", "geometric-mean"] = "mean"
    compares: bool = False
    questions: tuple[Asked, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        return _plain_name(value)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.least < self.most:
            raise ValueError("the scale has no width: least is not below most")
        if self.least_pixels > self.most_pixels:
            raise ValueError("least_pixels is above most_pixels")
        shows_both = all({"output", "other"} <= set(one.shows) for one in self.questions)
        if self.compares and (not shows_both or any(one.scores for one in self.questions)):
            raise ValueError("a judge that compares shows output and other, and has no scores")
        if not self.compares and any("other" in one.shows for one in self.questions):
            raise ValueError("other is shown by a judge that compares alone")
        has_root = self.overall == "geometric-mean"
        if has_root and (self.least < 0 or self.answers == "head"):
            raise ValueError("a geometric mean needs a scale from 0 on")
        if self.answers == "head" and (self.compares or any(len(one.scores) != 1 for one in self.questions)):
            raise ValueError("a head gives one number: it does not compare, and each question has one score")
        if self.passes > 1 and (self.compares or self.temperature == 0):
            raise ValueError("several passes need a temperature, and are for a judge that does not compare")
        return self

    @property
    def width(self) -> float | None:
        """Of the scale of its values; None for a head, which has none."""
        return None if self.answers == "head" else (self.most - self.least) * self.factor

    @property
    def middle(self) -> float | None:
        """Of the scale of its values; None for a head."""
        return None if self.answers == "head" else (self.most + self.least) / 2 * self.factor

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its questions, each once: several of one name are for different cases."""
        return tuple(dict.fromkeys(one.name for one in self.questions))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Its own value, and that of each question where there are several."""
        is_outcome = not self.compares and all(not one.scores for one in self.questions) and len(self.parts) == 1
        kind: Literal["outcome", "number"] = "outcome" if is_outcome else "number"
        parts = self.parts if len(self.parts) > 1 else ()
        digits = 3 if self.width is not None and self.width <= 1 else 2
        return (
            Measure(self.name, "higher", self.about, digits, kind),
            *(Measure(f"{self.name}_{part}", "higher", f"{self.name}: {part}", digits) for part in parts),
        )


def read_judge(name: str) -> JudgeDescription:
    """A judge of this package by its name, or one of one's own by its YAML file. Raises UsageError."""
    if not name.endswith(ENDINGS):
        found = _FOLDER / f"{name}.yaml"
        if not _NAME.fullmatch(name) or not found.is_file():
            raise UsageError(
                f"There is no judge {name!r}; give one of {', '.join(judge_names())}, or a YAML file of your own."
            )
        return _parsed(found.read_text(encoding="utf-8"), name, None)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The judge {name!r} cannot be read ({reason_of(error)}).") from None
    return _parsed(text, name, Path(name).parent)


def judge_names() -> list[str]:
    """The judges of this package."""
    return sorted(Path(one.name).stem for one in _FOLDER.iterdir() if one.name.endswith(".yaml"))


def _parsed(text: str, name: str, folder: Path | None) -> JudgeDescription:
    data: Any = read_yaml(text, name)
    if folder is not None and isinstance(data, dict) and isinstance(data.get("questions"), list):
        data = {**data, "questions": [_with_words(one, name, folder) for one in data["questions"]]}
    try:
        return JudgeDescription.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"The judge {name!r} is not understood: {wrong_field(error, JudgeDescription)}.") from None


class WordsFrom(Part):
    """A file of words beside the description, and its SHA-256. instruction: what stands in it for the instruction."""

    file: str
    sha256: str
    instruction: str = Field("<instruction>", min_length=1)


def _with_words(question: Any, name: str, folder: Path) -> Any:
    """A question with the words of the file that it names. Raises UsageError for a file that is not that one."""
    if not isinstance(question, Mapping) or "words_from" not in question:
        return question
    if "words" in question:
        raise UsageError(f"The judge {name!r} gives a question words and words_from; leave one out.")
    try:
        source = WordsFrom.model_validate(question["words_from"])
        data = (folder / source.file).read_bytes()
        words = data.decode("utf-8")
    except ValidationError as error:
        raise UsageError(f"The judge {name!r} is not understood: {wrong_field(error, WordsFrom)}.") from None
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The words of the judge {name!r} cannot be read ({reason_of(error)}).") from None
    found = hashlib.sha256(data).hexdigest()
    if found != source.sha256:
        raise UsageError(f"The words {source.file!r} have the SHA-256 {found}; the judge {name!r} pins another.")
    if source.instruction not in words and "output" in question.get("shows", ()) and "source" in question["shows"]:
        raise UsageError(f"The words {source.file!r} have no place {source.instruction!r} for the instruction.")
    rest = {key: value for key, value in question.items() if key != "words_from"}
    return {**rest, "words": words.replace(source.instruction, INSTRUCTION)}


def _plain_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("small letters, digits and underscores make a name")
    return value
