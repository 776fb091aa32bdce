"""List what the packaged model was trained on and a test case could hold: src/tagmoe/world/seen.npz.

    python tools/list_seen.py [--check]

Its stream is recomputed from the recipes tagworld/components and tagworld/release. Only contents of the test side are
listed, because training and test cases are divided by content (`tagmoe.world.divide`). Takes three minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagmoe.config import find_recipe, load_config
from tagmoe.train.stream import EDITING, TEXT_TO_IMAGE
from tagmoe.world import Content, Scene, content
from tagmoe.world.divide import SEEN, content_key, is_ambiguous, is_kept_for_test, pair_text, scene_text


def stream() -> Iterator[Content]:
    """Every case that the packaged model and its frozen parts were trained on."""
    parts, release = (load_config(find_recipe(Path(f"tagworld/{name}"))) for name in ("components", "release"))
    auto, text = parts.autoencoder, parts.text_encoder
    mixed = max((auto.steps + auto.decoder_steps) * auto.batch, text.steps * text.batch)
    generated = max(release.base.unique_samples, release.unified.unique_samples)
    for config, tasks, count in (
        (parts, None, mixed),
        (release, TEXT_TO_IMAGE, generated),
        (release, EDITING, release.unified.unique_samples),
    ):
        for index in range(count):
            yield content(config.seed, index, task=tasks, divide=config.divide)


class Seen(NamedTuple):
    """What of the stream lies on the test side, as keys of `content_key`.

    listed: (n,) uint64, sorted; pairs of pictures, generated pictures and ambiguous wordings, which no test case has.
    scenes: every single picture, of which a test case may have one in another pair.
    """

    listed: np.ndarray
    scenes: frozenset[int]


def seen() -> Seen:
    """What the packaged model and its frozen parts saw of the test side."""
    listed: set[int] = set()
    pictures: set[int] = set()
    for drawn in stream():
        edit = drawn.edit
        texts = [scene_text(scene) for scene in (edit.source, edit.target) if scene is not None]
        kept = [text for text in texts if is_kept_for_test(text)]
        pictures.update(map(content_key, kept))
        if kept == texts:
            listed.add(content_key(pair_text(edit.source, edit.target)))
        if is_kept_for_test(drawn.instruction) and is_ambiguous(drawn.instruction):
            listed.add(content_key(drawn.instruction))
    return Seen(np.array(sorted(listed), dtype=np.uint64), frozenset(pictures))


def has_seen_picture(source: Scene | None, target: Scene, scenes: Collection[int]) -> bool:
    """Whether a picture of a case, alone, is among `scenes` (keys)."""
    return any(content_key(scene_text(scene)) in scenes for scene in (source, target) if scene is not None)


def main() -> None:
    """Write the list, or compare it with the one that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 where the list differs")
    options = parser.parse_args()
    found = seen().listed
    if options.check:
        with np.load(SEEN) as file:
            same = np.array_equal(file["keys"], found)
        print(f"{len(found)} contents: {'as listed' if same else 'not as listed'}")
        raise SystemExit(not same)
    np.savez_compressed(SEEN, keys=found)
    print(f"{len(found)} contents, {SEEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
