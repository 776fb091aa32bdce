"""What gives the outputs of a run. An editor is asked; a ready folder and the anchors look the answer up."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from PIL import Image

from tagmoe.editor import Editor, Picture
from tagmoe.errors import TagMoEError
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.report.printable import printable
from tagmoe.sentences import reason_of

Status = Literal["ok", "black", "missing", "unreadable", "failed", "inapplicable"]
"""ok: a picture. black: a picture that is black all over, which safety filters give; it is scored as any other.
missing: a ready folder has none. unreadable: a file that is no picture. failed: the editor raised an error.
inapplicable: an anchor has nothing to give here, such as a copy where there is no source; this is no failure."""
FAILURES: tuple[Status, ...] = ("black", "missing", "unreadable", "failed")
"""The states that make a command exit with 1."""


@dataclass(frozen=True)
class NoPicture:
    """There is no output for a case, and why. There is never a placeholder picture."""

    status: Status
    reason: str


RAISED = (Exception, SystemExit, CancelledError)
"""What code of others may raise. The last two are no Exception: the first would end the command, often with exit code
0, and the second comes from a library that asks a server."""


class NoMoreAnswers(TagMoEError):
    """No further case can be answered, such as by a server that is gone. The run stops; what it has is kept."""


@dataclass(frozen=True)
class ReadyFile:
    """The bytes of an output that was made elsewhere. They are kept as they are."""

    data: bytes


Output = Picture | ReadyFile | NoPicture


def reason_raised(error: BaseException) -> str:
    """What an error of other code says, with its kind where it is none of tagmoe's sentences."""
    said = reason_of(error) if isinstance(error, TagMoEError) else f"{type(error).__name__}: {reason_of(error)}"
    return printable(said)


class Answers(Protocol):
    """Gives the outputs of cases, a batch at a time. All cases of a call have the same number of pictures."""

    def facts(self) -> Mapping[str, Any]:
        """All that the outputs depend on, as plain data: name, kind, digest of the weights, settings. It is the key."""
        ...

    @property
    def gives_black(self) -> bool:
        """Whether a black picture is what it should give, and no sign of a filter."""
        ...

    def pictures_of(self, case: Case) -> int:
        """How many pictures it is given with a case."""
        ...

    def __call__(self, cases: Sequence[tuple[int, Case]], seeds: Sequence[int]) -> Sequence[Output]:
        """One output for each (position among all cases, case) and its seed. An error fails the cases of the call, but
        for NoMoreAnswers, which stops the run."""
        ...


@dataclass(frozen=True)
class Asking:
    """How a case is put to an editor, where the benchmark leaves it open.

    marks: `<SOURCE>` and `<REF_1>` in an instruction become words, or are kept as they are. mask: a mask is left out,
    or is given as a further reference picture. [ours: no paper says how masks and marks were fed]
    """

    marks: Literal["words", "keep"] = "words"
    mask: Literal["leave-out", "reference"] = "leave-out"

    def instruction(self, case: Case) -> str:
        """The words that the editor gets."""
        if self.marks == "keep":
            return case.instruction
        text = case.instruction.replace("<SOURCE>", "the source image")
        for number in range(len(case.refs), 0, -1):
            name = "the reference image" if len(case.refs) == 1 else f"reference image {number}"
            text = text.replace(f"<REF_{number}>", name)
        return text

    def pictures(self, case: Case, prepared: Prepared) -> list[Image.Image]:
        """The pictures that the editor gets: source, references, and the mask if asked for. Raises ImageError."""
        return [prepared.picture(name) for name in self.names(case)]

    def names(self, case: Case) -> list[str]:
        """Paths of these pictures."""
        mask = [case.mask] if case.mask is not None and self.mask == "reference" else []
        return [*([case.source] if case.source is not None else []), *case.refs, *mask]

    def facts(self) -> dict[str, str]:
        """As plain data."""
        return {"marks": self.marks, "mask": self.mask}


@dataclass(frozen=True)
class AskedEditor:
    """Any editor as the source of answers. named: name, digest of the weights and settings of the editor."""

    editor: Editor
    prepared: Prepared
    named: Mapping[str, Any]
    asking: Asking = Asking()
    gives_black: bool = False

    def facts(self) -> Mapping[str, Any]:
        """The editor's facts and how it is asked."""
        return {"kind": "editor", **self.named, "asking": self.asking.facts()}

    def pictures_of(self, case: Case) -> int:
        """Source, references, and the mask where it is given."""
        return len(self.asking.names(case))

    def __call__(self, cases: Sequence[tuple[int, Case]], seeds: Sequence[int]) -> Sequence[Output]:
        """One call of the editor."""
        return self.editor(
            [self.asking.instruction(case) for _, case in cases],
            [self.asking.pictures(case, self.prepared) for _, case in cases],
            seeds,
        )
