"""Videos of made clips with labels, and the pairs that are drawn from them: what each filter should have said.

A label is true, false, or None where it is a matter of taste: close to a limit, nobody can say what is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from support.made_videos import DIAGONAL, FPS, HEIGHT, WIDTH, CameraMove, Clip, SubjectMove, blurred
from tagmoe.factory.video.checks import Kind, figures_of, kind_of
from tagmoe.factory.video.looks import Known, Signature
from tagmoe.factory.video.pairs import Sampling, draw_pairs
from tagmoe.factory.video.reading import ReadLimits, open_video
from tagmoe.factory.video.shots import shots

SAMPLING = Sampling(every=1.5, longest=4.0)
Label = bool | None
FAULTS = ("scene", "blur", "blank", "overlap", "still", "chaos", "unexplained", "same", "size", "steady", "moving")
"""The labels of filters; a pair is good that has none of these faults."""


@dataclass
class Labelled:
    """A video. clips: with their first frames. blurs: frames that are blurred. light: factor of the brightness of each
    frame. slow: frames within a dissolve."""

    name: str
    frames: list[np.ndarray] = field(repr=False)
    clips: list[tuple[int, Clip]] = field(default_factory=list)
    blurs: set[int] = field(default_factory=set)
    blanks: set[int] = field(default_factory=set)
    light: np.ndarray | None = None
    slow: set[int] = field(default_factory=set)

    @property
    def begins(self) -> list[int]:
        """The first frames of its shots."""
        return [first for first, _ in self.clips]

    def clip_of(self, number: int) -> tuple[int, Clip]:
        """The clip of a frame, with its first frame."""
        return [one for one in self.clips if one[0] <= number][-1]

    def labels(self, first: int, second: int) -> dict[str, Label]:
        """For each filter, whether it should drop the pair; "kind" names are labels of what moved."""
        (start, clip), (other, _) = self.clip_of(first), self.clip_of(second)
        slow = bool(self.slow & set(range(first, second + 1)))
        blur = bool({first, second} & self.blurs)
        blank = bool({first, second} & self.blanks)
        found: dict[str, Label] = {"scene": (None if slow else start != other), "blur": blur, "blank": blank}
        if start != other or slow:
            return found | {"good": None if slow and not (blur or blank) else False}
        truth = clip.truth(first - start, second - start)
        far = max(truth.camera, truth.subject)
        light = 1.0 if self.light is None else float(self.light[second] / self.light[first])
        lit = _between(abs(np.log(light)), 0.03, 0.25)
        has_subject = _between(truth.subject, 0.006, 0.015) if truth.inside else None
        has_view = _between(truth.camera, 0.026, 0.034)
        shakes = _between(truth.camera, 0.008, 0.0125)
        length = truth.subject * DIAGONAL / max(1.0, np.sqrt(truth.area * WIDTH * HEIGHT))
        found |= {
            "overlap": _between(-truth.overlap, -0.55, -0.45),
            "still": _both(_not(has_view), _not(has_subject), None if truth.other else True),
            "chaos": _between(far, 0.26, 0.34),
            "unexplained": lit,
            "same": truth.other if truth.inside else None,
            "view": has_view,
            "subject": has_subject,
            "shakes": shakes,
            "away": _between(length, 0.45, 0.8) if truth.inside else None,
        }
        found["size"] = _both(_between(truth.subject, 0.006, 0.015), _between(truth.swept, 0.33, 0.47))
        # Which filter should see it depends on how far the camera went.
        found["steady"] = _both(shakes, has_subject, _not(has_view))
        found["moving"] = _both(has_view, has_subject)
        faults = [found[name] for name in FAULTS]
        found["good"] = _both(*map(_not, faults), _either(has_view, has_subject))
        return found


def _between(value: float, low: float, high: float) -> Label:
    return False if value <= low else True if value >= high else None


def _either(*labels: Label) -> Label:
    return _not(_both(*map(_not, labels)))


def _not(label: Label) -> Label:
    return None if label is None else not label


def _both(*labels: Label) -> Label:
    if any(label is False for label in labels):
        return False
    return None if any(label is None for label in labels) else True


@dataclass(frozen=True)
class Row:
    """A pair that was drawn. labels: of `Labelled.labels`, and "repeat"."""

    video: str
    first: int
    second: int
    kind: Kind
    figures: Mapping[str, float]
    labels: Mapping[str, Label]


CAMERAS: tuple[CameraMove, ...] = ("pan", "zoom", "turn", "all")


def videos(seed: int, grounds: Sequence[np.ndarray | None]) -> Iterator[Labelled]:
    """One video of every family, of this seed."""
    dice = np.random.default_rng([seed, 5])

    first = int(dice.integers(len(grounds)))

    def clip(number: int, camera: CameraMove, subject: SubjectMove, **more: float) -> Clip:
        # Neighbours in number, which may be shots of one video, have other grounds.
        ground = grounds[(first + number) % len(grounds)]
        return Clip(1000 * seed + number, camera, subject, ground=ground, **more)  # type: ignore[arg-type]

    def plain(name: str, one: Clip) -> Labelled:
        return Labelled(name, list(one.frames()), [(0, one)])

    moves: CameraMove = CAMERAS[int(dice.integers(4))]
    yield plain("camera", clip(1, moves, "none", speed=float(dice.uniform(0.5, 1.5))))
    yield plain("camera, thing", clip(2, CAMERAS[int(dice.integers(4))], "still"))
    yield plain("camera, fast", clip(3, "pan", "none", speed=4.0))
    yield plain("swing", clip(4, "still", "swing"))
    yield plain("away", clip(5, "still", "away", speed=float(dice.uniform(0.5, 1.2))))
    yield plain("swing, large", clip(6, "shake", "swing", size=float(dice.uniform(90, 130))))
    yield plain("away, shake", clip(7, "shake", "away"))
    yield plain("both", clip(8, CAMERAS[int(dice.integers(4))], "away"))
    yield plain("both, slow", clip(9, "pan", "swing", speed=0.4))
    yield plain("nothing", clip(10, "shake" if seed % 2 else "still", "still"))
    yield plain("replaced", clip(11, "still", "replaced"))
    yield plain("gone", clip(12, "still", "gone"))
    yield _lit(plain("light", clip(13, "still", "swing")), dice)
    yield _blurred(plain("blur", clip(14, "still", "swing")), dice)
    yield _blurred(plain("blur, camera", clip(15, "pan", "none")), dice)
    yield _cut("cuts", [clip(16 + number, move, "swing") for number, move in enumerate(("still", "pan", "still"))])
    yield _cut("cuts, short", [clip(20 + number, "pan", "away", seconds=1.2) for number in range(4)])
    yield _dissolved(clip(25, "still", "swing"), clip(26, "pan", "none"), 8)
    yield _flashes(plain("flash", clip(27, "pan", "away")), dice)
    yield plain("camera, very fast", clip(28, "pan", "none", speed=12.0))
    yield _faded(clip(29, "still", "swing"))
    yield plain("turn, fast", clip(30, "turn", "none", speed=5.0))
    yield plain("very large", clip(31, "still", "away", size=260.0, speed=0.6))


def _lit(made: Labelled, dice: np.random.Generator) -> Labelled:
    """The light grows or goes within a second, by a factor of 1.6 or more."""
    count = len(made.frames)
    factor = float(dice.uniform(1.6, 2.2)) ** (1 if dice.random() < 0.5 else -1)
    start = int(dice.integers(count // 4, count // 2))
    light = factor ** np.clip((np.arange(count) - start) / FPS, 0, 1)
    light /= light.max()
    made.frames = [(frame * share).astype(np.uint8) for frame, share in zip(made.frames, light, strict=True)]
    made.light = light
    return made


def _blurred(made: Labelled, dice: np.random.Generator) -> Labelled:
    """About half of the frames, in stretches, out of focus or smeared."""
    number = 0
    while number < len(made.frames):
        length = int(dice.integers(6, 14))
        if dice.random() < 0.5:
            angle = float(dice.uniform(0, np.pi)) if dice.random() < 0.5 else None
            width = float(dice.uniform(2.0, 4.0)) if angle is None else float(dice.uniform(3.5, 6.0))
            for place in range(number, min(number + length, len(made.frames))):
                made.frames[place] = blurred(made.frames[place], width, angle)
                made.blurs.add(place)
        number += length
    return made


def _cut(name: str, clips: Sequence[Clip]) -> Labelled:
    made = Labelled(name, [])
    for one in clips:
        made.clips.append((len(made.frames), one))
        made.frames += list(one.frames())
    return made


def _dissolved(first: Clip, second: Clip, length: int) -> Labelled:
    from support.made_videos import dissolved

    one, two = list(first.frames()), list(second.frames())
    start = len(one) - length
    made = Labelled("dissolve", dissolved(one, two, length), [(0, first), (start, second)])
    made.slow = set(range(start, start + length))
    return made


def _flashes(made: Labelled, dice: np.random.Generator) -> Labelled:
    """Two frames of a flash of light, twice."""
    for place in dice.choice(np.arange(10, len(made.frames) - 10), 2, replace=False):
        for number in (place, place + 1):
            made.frames[number] = np.clip(made.frames[number].astype(np.float32) * 1.4 + 70, 0, 255).astype(np.uint8)
            made.blurs.discard(int(number))
    return made


def _faded(clip: Clip) -> Labelled:
    """The picture pales away to one colour."""
    frames = list(clip.frames())
    shares = np.clip(np.linspace(-0.5, 1.6, len(frames)), 0, 1)
    pale = np.full_like(frames[0], 200)
    made = Labelled("pale", [], [(0, clip)])
    made.frames = [(f * (1 - s) + pale * s).astype(np.uint8) for f, s in zip(frames, shares, strict=True)]
    made.blanks = {number for number, share in enumerate(shares) if share > 0.92}
    made.slow = {number for number, share in enumerate(shares) if 0 < share <= 0.92}
    return made


def rows_of(made: Labelled, path: Path, known: Known | None = None, *, cuts: bool = True) -> Iterator[Row]:
    """The pairs of a video that was encoded at this path. known: pairs of other videos, to which its own are added.

    cuts: without it pairs may cross cuts.
    """
    before, own = Known() if known is None else known, []
    with open_video(path, ReadLimits()) as video:
        for pair in draw_pairs(shots(video.frames(), cuts=cuts), made.name, SAMPLING):
            figures = figures_of(pair)
            own.append(Signature.of(pair))
            figures["repeat"] = before.nearest(own[-1])
            labels = made.labels(pair.first.number, pair.second.number)
            yield Row(made.name, pair.first.number, pair.second.number, kind_of(figures), figures, labels)
    for signature in own:
        before.add(signature)


def begins_of(path: Path) -> list[int]:
    """The first frames of the shots that are found in a video."""
    with open_video(path, ReadLimits()) as video:
        return [frame.number for frame, begins in shots(video.frames()) if begins]
