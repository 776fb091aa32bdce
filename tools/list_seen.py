"""List what the packaged model was trained on and a test case could hold: src/tagmoe/world/seen.npz.

    python tools/list_seen.py [--check]

Its stream is recomputed from the recipes tagworld/components and tagworld/release. Only contents of the test side are
listed, because training and test cases are divided by content (`tagmoe.world.divide`). Takes three minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagmoe.config import find_recipe, load_config
from tagmoe.train.stream import EDITING, TEXT_TO_IMAGE
from tagmoe.world import Content, content
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


def keys() -> np.ndarray:
    """The sorted keys of pairs of pictures, generated pictures and ambiguous wordings of the test side; (n,) uint64."""
    found: set[int] = set()
    for drawn in stream():
        edit = drawn.edit
        scenes = [scene for scene in (edit.source, edit.target) if scene is not None]
        if all(is_kept_for_test(scene_text(scene)) for scene in scenes):
            found.add(content_key(pair_text(edit.source, edit.target)))
        if is_kept_for_test(drawn.instruction) and is_ambiguous(drawn.instruction):
            found.add(content_key(drawn.instruction))
    return np.array(sorted(found), dtype=np.uint64)


def main() -> None:
    """Write the list, or compare it with the one that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 where the list differs")
    options = parser.parse_args()
    found = keys()
    if options.check:
        with np.load(SEEN) as file:
            same = np.array_equal(file["keys"], found)
        print(f"{len(found)} contents: {'as listed' if same else 'not as listed'}")
        raise SystemExit(not same)
    np.savez_compressed(SEEN, keys=found)
    print(f"{len(found)} contents, {SEEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
