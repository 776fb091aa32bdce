"""Judge an editor on PhotoWorld pairs of held-out objects and grounds, and write a gallery.

    python tools/measure_photoworld.py GROUNDS CUTOUTS runs/photoworld-editor -o runs/photoworld-scores

The editor is a model folder or the folder of a finished run; or `checkpoint:RUN`, the averaged weights of the newest
checkpoint of a run that still trains; or one of the anchors `copy` (the first picture unchanged), `black`, and
`autoencoder:FOLDER` (the true target, encoded and decoded: what no editor on these components can surpass).
The folder gets scores.json and gallery.png (input, other input, result, target; green: success).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from tagmoe.editor import run_cases
from tagmoe.evaluate.photoworld import PhotoWorldScores, cases, score
from tagmoe.photoworld import PhotoWorld, Sample
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.pipeline.model_folder import model_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.report.colours import LIGHT

GAP, CAPTION, COLUMNS = 6, 28, 3


def gallery(
    samples: Sequence[Sample], images: Sequence[np.ndarray], found: PhotoWorldScores, file: Path, side: int
) -> None:
    """Write a PNG of cases: first input, second input, result, target; the instruction and the verdict below."""
    width, height = 4 * side + 3 * GAP, side + CAPTION
    rows = -(-len(samples) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 3 * GAP), rows * (height + GAP) + GAP), LIGHT["card"])
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for number, (case, image, verdict) in enumerate(zip(samples, images, found.verdicts, strict=True)):
        left, top = GAP + number % COLUMNS * (width + 3 * GAP), GAP + number // COLUMNS * (height + GAP)
        second = case.sources[1] if len(case.sources) > 1 else None
        for place, picture in enumerate((case.sources[0], second, image, case.target)):
            if picture is not None:
                tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + place * (side + GAP), top))
        said = f"{case.task}: {'ok' if verdict.success else '; '.join(verdict.reasons)}"
        for line, (text, colour) in enumerate(
            ((said, "good" if verdict.success else "bad"), (case.instruction, "ink"))
        ):
            draw.text((left, top + side + 1 + 13 * line), text[: width // 6], fill=LIGHT[colour], font=font)
    sheet.save(file)


def editor_of(name: str, weights: str) -> Any:
    """The pipeline that a name stands for."""
    if not name.startswith("checkpoint:"):
        return TagMoEPipeline.from_pretrained(model_folder(Path(name)), dtype=torch.float32)
    from tagmoe.config import load_config
    from tagmoe.train.checkpoint import list_checkpoints, load_state, load_tensors, of_module
    from tagmoe.train.components_folder import read_components
    from tagmoe.train.recipe import assemble, dense_transformer, unified_transformer

    run = Path(name.removeprefix("checkpoint:"))
    config = load_config(run / "config.resolved.yaml").model_copy(update={"compile": False})
    parts = read_components(str(config.components))
    transformer = unified_transformer(dense_transformer(config, parts), config)
    newest = list_checkpoints(run / "checkpoints" / "unified")[-1]
    found = load_tensors(newest, load_state(newest)[1])[weights]
    transformer.load_state_dict(of_module(found, "transformer"))
    print(f"checkpoint {newest.name}", file=sys.stderr)
    return assemble(transformer.eval(), parts)


def main() -> None:
    """Draw the cases, run the editor, write scores and gallery, and print one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grounds", type=Path)
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("editor")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--per-task", type=int, default=30)
    parser.add_argument("--shown", type=int, default=3, help="cases of each task in the gallery")
    parser.add_argument("--weights", default="ema", choices=("ema", "modules"), help="of a checkpoint; early: modules")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg", type=float)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--split", default="test", choices=("train", "test"))
    given = parser.parse_args()
    world = PhotoWorld(given.grounds, given.cutouts, size=given.size)
    samples = cases(world, given.per_task, given.seed, split=given.split)
    if given.editor in ("copy", "black"):
        images = [case.sources[0] if given.editor == "copy" else np.zeros_like(case.target) for case in samples]
    elif given.editor.startswith("autoencoder:"):
        pipeline = TagMoEPipeline.from_pretrained(given.editor.split(":", 1)[1], dtype=torch.float32)
        images = []
        for case in samples:
            pixels = torch.from_numpy(case.target.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
            back = pipeline.decode(pipeline.encode_images(pixels))[0].clamp(-1, 1)
            images.append(((back.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
    else:
        editor = pipeline_editor(editor_of(given.editor, given.weights), steps=given.steps, cfg=given.cfg)
        images = run_cases(editor, samples, batch=16)
    found = score(samples, images)
    given.out.mkdir(parents=True, exist_ok=True)
    shown = [place for place in range(len(samples)) if place % given.per_task < given.shown]
    part = PhotoWorldScores(found.success, found.tasks, tuple(found.verdicts[place] for place in shown))
    gallery(
        [samples[i] for i in shown], [images[i] for i in shown], part, given.out / "gallery.png", max(64, given.size)
    )
    data = {
        "editor": given.editor,
        "split": given.split,
        "n": len(samples),
        "success": found.success.as_data(),
        "tasks": [task.as_data() for task in found.tasks],
    }
    (given.out / "scores.json").write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data))


if __name__ == "__main__":
    main()
