"""What is asked of a maker: each root with each of its instructions, once for each seed.

A step that makes pictures turns roots into candidates. `tagmoe.factory.editing` does it with an editor; a specialist is
another maker of the same requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.factory.makers import Maker, licence_of
from tagmoe.factory.plan import Edit, Plan


@dataclass(frozen=True)
class Wish:
    """One instruction for a root. task: native task. tags: where they are known. given: it came with the root."""

    instruction: str
    task: str
    tags: tuple[int, ...] | None = None
    given: bool = False


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


def requests_of(plan: Plan, place: int, row: int, root: Record, wishes: Sequence[Wish]) -> Iterator[Request]:
    """The requests of the step at `place` for a root. Their seeds depend on nothing but the plan's seed and the words,
    so that neither units nor workers change a picture."""
    step = plan.steps[place]
    assert isinstance(step, Edit)
    for wish in wishes:
        words = hashlib.sha256(f"{root.id}/{wish.instruction}".encode()).digest()
        first = (plan.seed + int.from_bytes(words[:4], "big")) % 2**31
        for number in range(step.seeds):
            key = f"{root.id}/{wish.instruction}/{number}"
            name = record_id(plan.dataset or plan.name, key, f"{plan.name}/{place}/{step.step}")
            yield Request(name, row, root, wish, first + number)


def candidate(plan: Plan, request: Request, picture: Picture, makers: Sequence[Maker], place: int) -> Record:
    """The record of a picture that was made: the root's pictures, the words, and the picture as the target."""
    wish, root = request.wish, request.root
    masks = tuple(one for one in root.images if one.role == "mask") if wish.given else ()
    return Record(
        id=request.id,
        dataset=plan.dataset or plan.name,
        target=picture,
        instruction=wish.instruction,
        licence=licence_of(root.licence, makers),
        images=(*request.pictures, *masks),
        native_task=wish.task,
        origin=f"{plan.name} step {place + 1}, seed {request.seed}, of {root.origin}",
        root=root.root,
        parent=root.id,
        tags=wish.tags,
        tag_provenance=root.tag_provenance if wish.given and wish.tags is not None else None,
    )
