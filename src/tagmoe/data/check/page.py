"""What the checks found in a store, as one offline page: counts by data set, and the first records of each check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tagmoe.data.check import checks
from tagmoe.data.check.validate import Summary, policy_of
from tagmoe.data.store.store import Store
from tagmoe.errors import ImageError
from tagmoe.pictures import data_address, load_image, load_mask
from tagmoe.report.pages import page_environment

SIDE = 200
"""Longest side of a picture on the page, in pixels."""
SMALL = 128
"""Longest side up to which a picture is enlarged."""
MAX_TEXT = 300
"""Characters of an instruction that are shown."""


def render(store: Store, summary: Summary) -> str:
    """The HTML page. All text is escaped: instructions, ids and names come from outside."""
    rows = sorted({row for first in summary.first.values() for row, _ in first})
    read = store.take(rows, ["id", "dataset", "origin", *checks.COLUMNS]).to_pylist() if rows else []
    policy = policy_of(store)
    records = {row: _shown(values, policy) for row, values in zip(rows, read, strict=True)}
    return (
        page_environment("tagmoe.data.check")
        .get_template("page.html.j2")
        .render(
            store=store.uri.rsplit("/", 1)[-1],
            summary=summary,
            words=checks.CHECKS,
            found=summary.most_common(),
            records={name: [records[row] for row, _ in first] for name, first in summary.first.items()},
        )
    )


def _shown(row: Mapping[str, Any], policy: checks.Policy) -> dict[str, Any]:
    pictures = [*(row["images"] or ()), {**row["target"], "role": "target"}]
    details: dict[str, list[str]] = {}
    for finding in checks.examine(row, policy):
        details.setdefault(finding.check, []).append(finding.detail)
    return {
        "id": row["id"],
        "dataset": row["dataset"],
        "origin": row["origin"],
        "instruction": row["instruction"][:MAX_TEXT],
        "details": details,
        "pictures": [shown_picture(item) for item in pictures],
    }


def shown_picture(item: Mapping[str, Any]) -> dict[str, Any]:
    """A picture of a row as macros.j2 shows it; `small` ones are enlarged pixel by pixel."""
    width, height = item["width"], item["height"]
    return {
        "role": item["role"],
        "size": f"{width} x {height}",
        "small": max(width, height) <= SMALL,
        "address": picture_address(item["data"], is_mask=item["role"] == "mask"),
    }


def picture_address(data: bytes, *, is_mask: bool = False) -> str | None:
    """A small copy to be put into the page; None for what cannot be decoded or is too large to be."""
    try:
        small = load_mask(data) if is_mask else load_image(data, draft=(SIDE, SIDE))
    except ImageError:
        return None
    small.thumbnail((SIDE, SIDE))
    return data_address(small, kind="JPEG")
