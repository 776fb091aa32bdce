"""What is asked of a maker: each root with each of its wishes, once for each seed; and what a maker gives.

A step that makes pictures turns roots into candidates. An editor makes the target of an instruction
(`tagmoe.factory.editing`); a specialist makes a whole pair of a root, with its words (`tagmoe.factory.specialists`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tagmoe.data.store.record import Picture, Record, TagProvenance, record_id
from tagmoe.factory.makers import Maker, licence_of
from tagmoe.factory.plan import Edit, Plan
from tagmoe.factory.specialists.settings import Make


@dataclass(frozen=True)
class Wish:
    """What is wanted of a root. instruction: for an editor. task: native task. tags: where they are known. given: it
    came with the root. variant: for a specialist, which finds the words itself."""

    instruction: str
    task: str
    tags: tuple[int, ...] | None = None
    given: bool = False
    variant: str = ""

    @property
    def name(self) -> str:
        """What tells it from other wishes for a root."""
        return self.variant or self.instruction


@dataclass(frozen=True)
class Request:
    """One picture to be made. row: of the root in its store. id: of the candidate that it becomes."""

    id: str
    row: int
    root: Record
    wish: Wish
    seed: int

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures that the maker gets. A photograph that is a target elsewhere is a source here."""
        if self.root.inputs or self.wish.given:
            return self.root.inputs
        return (replace(self.root.target, role="source"),)


@dataclass(frozen=True)
class Pair:
    """What a specialist made of a request. fault: what it finds wrong with it; then it goes to the negatives.

    drawn: what it drew by the seed, such as a strength, for the lineage.
    """

    instruction: str
    images: tuple[Picture, ...]
    target: Picture
    fault: str = ""
    drawn: Mapping[str, Any] = field(default_factory=dict)


def requests_of(plan: Plan, place: int, row: int, root: Record, wishes: Sequence[Wish]) -> Iterator[Request]:
    """The requests of the step at `place` for a root. Their seeds depend on nothing but the plan's seed and the wish,
    so that neither units nor workers change a picture."""
    step = plan.steps[place]
    assert isinstance(step, Edit | Make)
    for wish in wishes:
        words = hashlib.sha256(f"{root.id}/{wish.name}".encode()).digest()
        first = (plan.seed + int.from_bytes(words[:4], "big")) % 2**31
        for number in range(step.seeds):
            key = f"{root.id}/{wish.name}/{number}"
            name = record_id(plan.dataset or plan.name, key, f"{plan.name}/{place}/{step.step}")
            yield Request(name, row, root, wish, first + number)


def candidate(plan: Plan, request: Request, made: Picture | Pair, makers: Sequence[Maker], place: int) -> Record:
    """The record of what was made: of an editor's picture as the target of the root's pictures and words, or of a
    specialist's pair."""
    wish, root = request.wish, request.root
    given = None
    if isinstance(made, Pair):
        target, instruction, images = made.target, made.instruction, made.images
        if wish.tags is not None:
            given = TagProvenance(annotator="specialist", model=makers[-1].model)
    else:
        masks = tuple(one for one in root.images if one.role == "mask") if wish.given else ()
        target, instruction, images = made, wish.instruction, (*request.pictures, *masks)
        given = root.tag_provenance if wish.given and wish.tags is not None else None
    return Record(
        id=request.id,
        dataset=plan.dataset or plan.name,
        target=target,
        instruction=instruction,
        licence=licence_of(root.licence, makers),
        images=images,
        native_task=wish.task,
        origin=f"{plan.name} step {place + 1}, seed {request.seed}, of {root.origin}",
        root=root.root,
        parent=root.id,
        tags=wish.tags,
        tag_provenance=given,
    )
