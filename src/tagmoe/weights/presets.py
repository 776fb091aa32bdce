"""Named settings for drawing. `release` holds those of the authors' inference code, for their weights.

From Python: `pipeline(prompt, picture, **RELEASE.arguments(picture.size))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tagmoe.errors import UsageError

# (width, height) of the release's upright pictures, about one megapixel; the wide ones are their transposes.
_UPRIGHT = (
    (512, 2048),
    (512, 1984),
    (512, 1920),
    (512, 1856),
    (512, 1792),
    (512, 1728),
    (512, 1664),
    (512, 1600),
    (512, 1536),
    (576, 1472),
    (640, 1408),
    (704, 1344),
    (768, 1280),
    (832, 1216),
    (896, 1152),
    (960, 1088),
)
_SQUARE = (1024, 1024)


@dataclass(frozen=True)
class Preset:
    """Denoising steps, guidance scale and the (width, height) of outputs; `square`: without a reference."""

    name: str
    steps: int
    cfg: float
    sizes: tuple[tuple[int, int], ...]
    square: tuple[int, int]

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) of `sizes` whose width / height is nearest to that of a picture of this size.

        As in the release, the distance is the difference of the quotients. Of two equally near sizes the narrower wins.
        Raises UsageError for a side below 1.
        """
        if width < 1 or height < 1:
            raise UsageError(f"A picture of {width}x{height} has no aspect; give sides of 1 or more.")
        return min(self.sizes, key=lambda size: (abs(width / height - size[0] / size[1]), size))

    def size(self, reference: tuple[int, int] | None = None, largest_side: int | None = None) -> tuple[int, int]:
        """The (width, height) of an output beside a reference of (width, height), or without one.

        largest_side: what the model allows (`pipeline.largest_side`). Raises UsageError when the size is larger.
        """
        width, height = self.square if reference is None else self.nearest(*reference)
        if largest_side is not None and max(width, height) > largest_side:
            raise UsageError(
                f"The preset {self.name!r} draws {width}x{height} here, but this model draws sides of {largest_side} "
                "at most; give a size, or leave the preset out."
            )
        return width, height

    def arguments(self, reference: tuple[int, int] | None = None) -> dict[str, Any]:
        """Keyword arguments of a pipeline call: steps, guidance and output size; `reference` as in `size`."""
        width, height = self.size(reference)
        return {"num_inference_steps": self.steps, "true_cfg_scale": self.cfg, "width": width, "height": height}


RELEASE = Preset(
    name="release",
    steps=30,
    cfg=4.0,
    sizes=(*_UPRIGHT, _SQUARE, *((height, width) for width, height in reversed(_UPRIGHT))),
    square=_SQUARE,
)
PRESETS = {preset.name: preset for preset in (RELEASE,)}


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises UsageError for an unknown one."""
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
