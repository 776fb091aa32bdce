"""The survival table as one offline page, with kept pairs and dropped ones by reason; and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tagmoe.data.check.page import shown_picture
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError
from tagmoe.factory.folder import PAGE, SURVIVAL, Folder
from tagmoe.factory.gathering import NEGATIVES, STORE
from tagmoe.factory.plan import Plan
from tagmoe.factory.survival import StepRows, Survival
from tagmoe.files.atomic import write_whole
from tagmoe.report.numbers import seconds as seconds_text
from tagmoe.report.pages import Tile, page_environment
from tagmoe.sentences import reason_of

KEPT_SHOWN = 12
DROPPED_SHOWN = 4
"""Most pairs of a reason."""
MAX_TEXT = 300


def write_survival(folder: Folder, plan: Plan, found: Survival) -> None:
    """Write both files. Raises DataError where nothing can be written."""
    folder.write(SURVIVAL, found.as_data())
    try:
        write_whole(folder.path / PAGE, render(folder, plan, found))
    except OSError as error:
        raise DataError(f"Nothing can be written in {str(folder.path)!r} ({reason_of(error)}).") from None


def render(folder: Folder, plan: Plan, found: Survival) -> str:
    """The HTML page. All text is escaped: words and reasons come from models."""
    each = found.seconds_a_sample
    tiles = [
        Tile(f"{found.kept:,}", "samples kept", f"{found.salvaged:,} with words written after the picture"),
        Tile(f"{found.preference_pairs:,}", "preference pairs"),
        Tile(f"{found.inverses:,}", "inverse samples"),
        Tile("-" if each is None else f"{each:.2f} s", "a kept sample", f"{seconds_text(found.seconds)} in all"),
    ]
    if found.cost and found.cost_a_sample is not None:
        tiles.append(Tile(f"{found.cost_a_sample:.4f}", "cost of a kept sample", f"{found.cost:,.2f} in all"))
    return (
        page_environment("tagmoe.factory")
        .get_template("survival.html.j2")
        .render(
            name=plan.name,
            found=found,
            tiles=tiles,
            filters=[step for step in found.steps if step.by_task],
            found_names=_names,
            kept=_kept(folder),
            dropped=_dropped(folder),
        )
    )


def _names(steps: Sequence[StepRows], table: str) -> list[str]:
    """The names in a table of the steps, by_task or by_tag."""
    return sorted({name for step in steps for name in getattr(step, table)})


def _kept(folder: Folder) -> list[dict[str, Any]]:
    if not folder.has(STORE):
        return []
    store = folder.store(STORE)
    rows = list(range(min(KEPT_SHOWN, len(store))))
    return [_shown(record, "") for record in store.records(rows)]


def _dropped(folder: Folder) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """(reason, how many, the first pairs) of what was dropped, the most frequent reason first."""
    if not folder.has(NEGATIVES):
        return []
    store: Store = folder.store(NEGATIVES)
    places: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    row = 0
    for batch in store.scan(["quarantine"], rows=8192):
        for values in batch.to_pylist():
            (reason,) = values["quarantine"]
            counts[reason] = counts.get(reason, 0) + 1
            if counts[reason] <= DROPPED_SHOWN:
                places.setdefault(reason, []).append(row)
            row += 1
    order = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [
        (reason, counts[reason], [_shown(record, reason) for record in store.records(places[reason])])
        for reason in order
    ]


def _shown(record: Record, reason: str) -> dict[str, Any]:
    pictures = [picture for picture in (*record.images, record.target) if picture.role != "mask"]
    roles = [*(picture.role for picture in record.images if picture.role != "mask"), "made"]
    return {
        "id": record.id,
        "origin": record.origin,
        "task": record.native_task,
        "instruction": record.instruction[:MAX_TEXT],
        "further": [text[:MAX_TEXT] for text in record.instructions],
        "reason": reason,
        "pictures": [
            shown_picture({"role": role, "data": one.data, "width": one.width, "height": one.height})
            for role, one in zip(roles, pictures, strict=True)
        ],
    }
