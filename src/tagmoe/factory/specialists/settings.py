"""The settings of each specialist, as a plan gives them: `{step: make, by: restore, damage: [noise, blur]}`.

A specialist has one or more variants of a root ("noise", "canny to image"). Each gives one pair for each seed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tagmoe.config.part import Part
from tagmoe.factory.step import Share, Step
from tagmoe.photoworld import TASKS
from tagmoe.photoworld.looks import STYLES

Triple = tuple[float, float, float]
Damage = Literal["grey", "blur", "noise", "small", "jpeg"]
Direction = Literal["to", "from"]
BUILT_IN = ("canny", "line", "colour", "blur")
"""Maps that need no network."""
OF_NETWORKS = ("hed", "depth", "pose", "mask")
"""Maps that need one: edges, depth, poses, and masks of the main thing."""
COMPOSED = tuple(name for name in TASKS if name != "background")
"""Tasks of PhotoWorld that one ground is enough for."""
BOTH: tuple[Direction, ...] = ("to", "from")


class Network(Part):
    """A trained network in an ONNX file, from a picture to a map of it: edges, depth, a mask.

    side: of the square that it sees; null: the picture's own size, rounded to 32 pixels. mean, std: by which colours of
    0 to 1 are normalised, in the order of `channels`. output: which of its outputs. stretch: the least value of the
    map becomes black and the greatest white; else values are 0 to 1. licence: of the weights (SPDX). may_train: whether
    their terms allow training on what they make; null: as the licence says. name: of the model; by default the file's.
    """

    file: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    may_train: bool | None = None
    name: str | None = None
    side: int | None = Field(None, ge=32, le=2048)
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    channels: Literal["rgb", "bgr"] = "rgb"
    output: int = Field(0, ge=0, le=64)
    stretch: bool = False

    @field_validator("std")
    @classmethod
    def _above_zero(cls, value: Triple) -> Triple:
        if min(value) <= 0:
            raise ValueError("no std may be 0 or below")
        return value


class Pipeline(Part):
    """A pipeline of diffusers in a folder. steps, cfg: by default the class's own. licence, may_train, name: as of a
    `Network`."""

    model: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    may_train: bool | None = None
    name: str | None = None
    steps: int | None = Field(None, ge=1, le=1000)
    cfg: float | None = Field(None, ge=0, le=100)


class Make(Step):
    """A specialist. side: longest side of its pictures in pixels; larger photographs are made smaller."""

    step: Literal["make"] = "make"
    by: str
    seeds: int = Field(1, ge=1, le=64)
    side: int = Field(1024, ge=64, le=8192)

    @model_validator(mode="after")
    def _once(self) -> Self:
        twice = next((name for name in self.variants if self.variants.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands twice")
        return self

    @property
    @abstractmethod
    def variants(self) -> tuple[str, ...]:
        """What it makes of each root."""

    @property
    def pairs(self) -> int:
        """How many pairs of a root."""
        return len(self.variants) * self.seeds


class Restore(Make):
    """A damaged photograph; the target is the photograph itself.

    The strength of a damage is drawn from a range by the seed. blur: standard deviation as a share of the shorter side.
    noise: standard deviation in grey levels. small: how many times smaller each side was. jpeg: quality.
    """

    by: Literal["restore"] = "restore"
    damage: tuple[Damage, ...] = Field(("grey", "blur", "noise", "small"), min_length=1)
    blur: tuple[float, float] = (0.006, 0.025)
    noise: tuple[float, float] = (12.0, 45.0)
    small: tuple[float, float] = (3.0, 8.0)
    jpeg: tuple[float, float] = (4.0, 20.0)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        bounds = {"blur": (0.001, 0.2), "noise": (1, 128), "small": (1.5, 32), "jpeg": (1, 60)}
        for name, (low, high) in bounds.items():
            first, last = getattr(self, name)
            if not low <= first <= last <= high:
                raise ValueError(f"{name} is [{first:g}, {last:g}]; give a range within {low:g} to {high:g}")
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        return self.damage


class Control(Make):
    """Maps of a photograph, by annotators. to: from the map to the photograph; from: from the photograph to its map.

    networks: of the maps that need one. controlnet: pipelines by map; such a map also gets a picture that is drawn anew
    from it and the caption. colour: squares of one colour along the shorter side. blur: standard deviation as a share
    of the shorter side.
    """

    by: Literal["control"] = "control"
    maps: tuple[str, ...] = Field(BUILT_IN, min_length=1)
    directions: tuple[Direction, ...] = Field(BOTH, min_length=1)
    networks: dict[str, Network] = Field(default_factory=dict)
    controlnet: dict[str, Pipeline] = Field(default_factory=dict)
    colour: int = Field(12, ge=2, le=256)
    blur: float = Field(0.03, ge=0.002, le=0.3)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.maps, *self.networks):
            if name not in (*BUILT_IN, *OF_NETWORKS):
                raise ValueError(f"there is no map {name!r}; choose among {', '.join((*BUILT_IN, *OF_NETWORKS))}")
        for name in self.maps:
            if name not in BUILT_IN and name not in self.networks:
                raise ValueError(f"the map {name} needs a network; name its file and licence in networks: {name}")
        for name in self.controlnet:
            if name not in self.maps:
                raise ValueError(f"controlnet names the map {name!r}, which is not among maps")
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        both = [
            f"{name} to image" if way == "to" else f"image to {name}" for name in self.maps for way in self.directions
        ]
        return (*both, *(f"{name} to new image" for name in self.controlnet))


class Remove(Make):
    """The main thing of a photograph is found and painted over. add: from the painted picture to the photograph, which
    is real; remove: the other way, whose target is painted.

    mask: the network that finds the thing; null: the mask that a root brings. grow: by how much of the shorter side the
    mask is widened before. least, most: share of the picture that it may cover. unsure: the most pixels of values of
    0.1 to 0.9 in the network's map, as a share of the thing. paint: OpenCV's Telea or Navier-Stokes, or a pipeline of
    diffusers that is drawn by `words`; the photograph around the hole stays as it is.
    """

    by: Literal["remove"] = "remove"
    directions: tuple[Literal["add", "remove"], ...] = Field(("add",), min_length=1)
    mask: Network | None = None
    grow: float = Field(0.015, ge=0, le=0.2)
    least: Share = 0.01
    most: Share = 0.5
    unsure: float = Field(0.5, ge=0, le=100)
    paint: Literal["telea", "ns"] | Pipeline = "telea"
    words: str = "empty background"

    @property
    def variants(self) -> tuple[str, ...]:
        return self.directions


class StyleNetwork(Part):
    """A network that draws a picture in one of several styles, in an ONNX file with two inputs: a picture of 0 to 1,
    and the weight of each style. styles: the words for a style, and its place among the weights."""

    file: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    may_train: bool | None = None
    name: str | None = None
    side: int = Field(256, ge=32, le=2048)
    styles: dict[str, Annotated[int, Field(ge=0, le=4095)]] = Field(min_length=1)


class Style(Make):
    """A photograph in a style. to: to the style, which is made; from: from it to the photograph, which is real.

    styles: those of PhotoWorld, which need no network. draws: how many of all styles a root gets.
    """

    by: Literal["style"] = "style"
    styles: tuple[str, ...] = tuple(STYLES)
    network: StyleNetwork | None = None
    directions: tuple[Direction, ...] = Field(BOTH, min_length=1)
    draws: int = Field(2, ge=1, le=4096)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.styles:
            if name not in STYLES:
                raise ValueError(f"there is no style {name!r}; choose among {', '.join(STYLES)}")
        if not self.styles and self.network is None:
            raise ValueError("there are no styles; name some, or a network")
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(f"{way} {name}" for name in self.names for way in self.directions)

    @property
    def names(self) -> tuple[str, ...]:
        """All styles; one that a network and PhotoWorld both have is the network's."""
        return tuple(dict.fromkeys((*(self.network.styles if self.network else ()), *self.styles)))

    @property
    def pairs(self) -> int:
        return min(self.draws, len(self.names)) * len(self.directions) * self.seeds


class Compose(Make):
    """Cut-outs on a photograph, as `tagmoe data compose` makes them: with its light, a shadow and an exact mask.

    cutouts: folder of pictures with alpha, and their captions. tasks: of PhotoWorld. size: side of the pictures.
    licence: of the cut-outs (SPDX).
    """

    by: Literal["compose"] = "compose"
    cutouts: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    may_train: bool | None = None
    tasks: tuple[str, ...] = Field(("add", "remove", "replace", "move"), min_length=1)
    size: int = Field(256, ge=32, le=1024, multiple_of=8)

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for task in value:
            if task not in COMPOSED:
                raise ValueError(f"there is no task {task!r}; choose among {', '.join(COMPOSED)}")
        return value

    @property
    def variants(self) -> tuple[str, ...]:
        return self.tasks


SPECIALISTS: dict[str, type[Make]] = {
    kind.model_fields["by"].default: kind for kind in (Restore, Control, Remove, Style, Compose)
}
