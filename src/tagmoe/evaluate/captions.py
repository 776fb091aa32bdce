"""Captions of right answers, which a model writes for the cases that have none; CLIP-cap compares with them.

BENCH/captioned.jsonl  `Captioned`: the raw answers, a line for each case that was asked
BENCH/captions.json    `tagmoe.evaluate.benchmarks.cases.Captions`: what `read_prepared` gives to the cases
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tagmoe.errors import ImageError
from tagmoe.evaluate.asking import CaseAsker, counting
from tagmoe.evaluate.benchmarks.cases import CAPTIONS, Captions, Case, Prepared, digest_of, read_prepared
from tagmoe.evaluate.run_folder import Kept, Lines, by_case, in_order, read_rows
from tagmoe.files.atomic import write_whole
from tagmoe.vlm.pictures import encoded, fitting_size
from tagmoe.vlm.question import VLM, Attachment, Question, Status, object_schema

CAPTIONED = "captioned"
PIXELS = 1024 * 1024
MOST_CHARACTERS = 400
SCHEMA = object_schema({"caption": {"type": "string", "maxLength": MOST_CHARACTERS}})
# CLIP reads 77 tokens, which 30 words nearly always fit in. [ours]
_FORM = (
    "one sentence of at most 30 words that says what can be seen: the things, their number, their colours, where they "
    "are, and the style. Do not say that it is a picture, and say nothing of an edit."
)
WORDS = {
    "target": f"Write a caption of this picture: {_FORM}",
    "edit": "This picture is edited by the following instruction.\n{instruction}\n"
    f"Write a caption of the picture after the edit, as if you saw it: {_FORM}",
}
"""What is asked with the target of a case, and with the source of a case without one."""
AGAIN: tuple[Status, ...] = ("failed",)
"""Cases of such an answer are asked again by the next command."""


class Captioned(Kept):
    """The answer for a case, as it came. case: its key without a caption. basis: of model, words and pixels."""

    basis: str
    status: Status
    caption: str = ""
    text: str
    reason: str = ""
    attempts: int = 1
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """An answer counts more than none."""
        return int(self.status not in AGAIN)


@dataclass(frozen=True)
class Captioning:
    """What a command did. asked: cases that were asked now, by status. known: answers of before. captions: how many
    cases have a generated caption now. failed: (id, status, reason) of cases that should have one and do not."""

    asked: Mapping[str, int]
    known: int
    captions: int
    had: int
    not_applicable: int
    failed: tuple[tuple[str, str, str], ...]
    digest: str


def why_not(case: Case) -> str | None:
    """Why a case is not asked about; None where it is."""
    if case.target_caption is not None:
        return "it has a caption"
    return "it has neither a target nor a source" if case.target is None and case.source is None else None


def question_of(case: Case, prepared: Prepared, pixels: int) -> Question:
    """The question about a case. pixels: the most of the picture that is shown. Raises ImageError."""
    kind = "edit" if case.target is None else "target"
    name = case.source if case.target is None else case.target
    assert name is not None
    picture = prepared.picture(name)
    shown = encoded(picture, fitting_size(*picture.size, pixels), Image.Resampling.LANCZOS)
    words = WORDS[kind].replace("{instruction}", case.instruction)
    return Question((Attachment(shown), words), schema=SCHEMA, max_tokens=256)


def caption_targets(
    folder: Path,
    vlm: VLM,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    pixels: int = PIXELS,
    in_flight: int = 64,
    on_cases: Callable[[int], None] | None = None,
) -> Captioning:
    """Ask the model for captions of these cases of a prepared benchmark, and put them into its folder.

    What is known is not asked again, and captions of the data set stay. Cases that have a new caption have new keys:
    runs of before belong to the cases as they were. Raises UsageError for unknown tasks, and DataError when the server
    takes no more questions; the answers so far are kept.
    """
    prepared = read_prepared(folder, captions=False)
    chosen = [case for _, case in prepared.chosen(tasks, limit)]
    return asyncio.run(_Work(prepared, vlm, pixels).run(chosen, in_flight, on_cases or (lambda done: None)))


class _Work:
    """The captions of one benchmark by one model."""

    def __init__(self, prepared: Prepared, vlm: VLM, pixels: int) -> None:
        self._prepared, self._vlm, self._pixels = prepared, vlm, pixels
        about = {"model": vlm.model, "words": WORDS, "schema": SCHEMA, "pixels": pixels}
        self._basis = digest_of(about)[:16]
        self._asker = CaseAsker(vlm)
        self._broken: list[tuple[str, str, str]] = []

    async def run(self, chosen: Sequence[Case], in_flight: int, on_cases: Callable[[int], None]) -> Captioning:
        """All of it."""
        folder = self._prepared.folder
        file = Lines(folder / f"{CAPTIONED}.jsonl")
        try:
            rows = by_case(row for row in read_rows(folder, CAPTIONED, Captioned) if row.basis == self._basis)
            asked_for = [case for case in chosen if why_not(case) is None]
            waiting = [case for case in asked_for if case.key not in rows or rows[case.key].status in AGAIN]
            progress = counting(len(chosen) - len(waiting), on_cases)
            asked = await self._asker.keep_each(waiting, in_flight, self._ask, file, rows, progress)
        except BaseException:
            file.close()
            raise
        file.finish(in_order(rows, self._prepared))
        self._write(rows)
        bad = [(case.id, rows[case.key]) for case in asked_for if case.key in rows and rows[case.key].status != "ok"]
        return Captioning(
            asked=asked,
            known=len(asked_for) - len(waiting),
            captions=sum(row.status == "ok" for row in rows.values()),
            had=sum(case.target_caption is not None for case in chosen),
            not_applicable=sum(case.target_caption is None and why_not(case) is not None for case in chosen),
            failed=(*self._broken, *((name, row.status, row.reason) for name, row in bad)),
            digest=read_prepared(folder).manifest.digest,
        )

    async def _ask(self, case: Case, keep: Callable[[Captioned, Status], None]) -> None:
        try:
            question = await asyncio.to_thread(question_of, case, self._prepared, self._pixels)
        except ImageError as error:
            self._broken.append((case.id, "unreadable", str(error)))
            return
        begun = self._asker.begin(lambda: question)
        answer = await self._vlm.ask(question)
        status, reason = answer.status, answer.reason
        caption = " ".join(answer.value["caption"].split()) if status == "ok" else ""
        if status == "ok" and not caption:
            status, reason = "invalid", "The caption is empty."
        row = Captioned(
            id=case.id,
            case=case.key,
            basis=self._basis,
            status=status,
            caption=caption,
            text=answer.text,
            reason=reason,
            attempts=answer.attempts,
            notes=answer.notes,
        )
        await self._asker.weigh(status, reason, begun, lambda: keep(row, status))

    def _write(self, rows: Mapping[str, Captioned]) -> None:
        """Give the captions to the benchmark, all at once."""
        kept = in_order(rows, self._prepared)
        captions = Captions(
            cases=self._prepared.manifest.digest,
            model=self._vlm.model,
            basis=self._basis,
            captions={row.id: row.caption for row in kept if row.status == "ok"},
        )
        write_whole(self._prepared.folder / CAPTIONS, captions.model_dump_json(indent=1) + "\n")
