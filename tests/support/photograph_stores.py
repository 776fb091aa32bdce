"""Stores of pictures with the structure of photographs, as roots of specialists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.made_pictures import encoded, scene
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store

CAPTIONS = ("a red ball on the grass", "an old lamp", "two boats", "the moon", "a dog", "a cup of tea")


def photograph(number: int, height: int = 96, width: int = 120) -> np.ndarray:
    """(H, W, 3) uint8: dark, with a bright thing in the middle."""
    pixels = (scene(height, width, number) * 0.4).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    thing = np.hypot(rows - height / 2, columns - width / 2) < height / 5
    pixels[thing] = 200 + scene(height, width, 50 + number)[thing] // 8
    return pixels


def photographs(folder: Path, count: int = 4, *, with_masks: bool = False, captions: bool = True) -> Store:
    """A store of so many photographs, as records of text to image."""
    store = Store.create(folder)
    records = []
    for number in range(count):
        pixels = photograph(number)
        mask = Picture.of(encoded(np.where(pixels.min(axis=2) > 150, 255, 0).astype(np.uint8), "PNG"), "mask")
        records.append(
            Record(
                id=record_id("photographs", str(number)),
                dataset="photographs",
                target=Picture.of(encoded(pixels, "PNG")),
                instruction=CAPTIONS[number % len(CAPTIONS)] if captions else "",
                licence="CC0-1.0",
                images=(mask,) if with_masks else (),
                native_task="generate",
                origin=f"{number}.png",
            )
        )
    with store.writing():
        store.append(records)
    return store
