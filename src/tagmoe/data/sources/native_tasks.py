"""Map the task names that sources publish to one set of editing operations.

A name that is not listed gives None; nothing is guessed. UltraEdit and InstructPix2Pix publish no task names.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

Edit = Literal[
    "add",
    "remove",
    "replace",
    "attribute",
    "background",
    "light",
    "style",
    "pose",
    "viewpoint",
    "move",
    "text",
    "control map",
    "subject",
    "style reference",
    "try-on",
    "generate",
    "restore",
    "several",
]
"""control map: a picture from a depth map, edges, a pose; several: more than one operation in one edit."""
EDITS: tuple[Edit, ...] = get_args(Edit)

_ANY: dict[str, Edit] = {
    **{name: name for name in EDITS},
    # OmniEdit, and GPT-Image-Edit after it
    "addition": "add",
    "removal": "remove",
    "swap": "replace",
    "attribute modification": "attribute",
    "env": "light",
    # UltraEdit's table of instructions
    "change local": "attribute",
    "change color": "attribute",
    "change colour": "attribute",
    # ImgEdit
    "alter": "attribute",
    "adjust": "attribute",
    "action": "pose",
    "motion change": "pose",
    "compose": "several",
    "hybrid": "several",
    # HQ-Edit, Step1X-Edit, GEdit and the like
    "object addition": "add",
    "object removal": "remove",
    "object replacement": "replace",
    "subject add": "add",
    "subject addition": "add",
    "subject remove": "remove",
    "subject removal": "remove",
    "subject replace": "replace",
    "subject replacement": "replace",
    "insert": "add",
    "delete": "remove",
    "color alter": "attribute",
    "color change": "attribute",
    "colour change": "attribute",
    "material alter": "attribute",
    "material change": "attribute",
    "background change": "background",
    "background replacement": "background",
    "background swap": "background",
    "style change": "style",
    "style transfer": "style",
    "stylization": "style",
    "weather": "light",
    "lighting": "light",
    "relighting": "light",
    "tone transfer": "light",
    "text change": "text",
    "text edit": "text",
    "view change": "viewpoint",
    "camera movement": "viewpoint",
    "virtual try on": "try-on",
    "tryon": "try-on",
    "try on": "try-on",
    "subject driven": "subject",
    "text to image": "generate",
    "t2i": "generate",
    "restoration": "restore",
    "deblur": "restore",
    "denoise": "restore",
    "colorization": "restore",
    "old photo restore": "restore",
    "enlarge": "restore",
    "super resolution": "restore",
    "artifact removal": "restore",
    **{
        f"{kind}{joint}image": "control map"
        for kind in (
            "depth",
            "canny",
            "edge",
            "edges",
            "pose",
            "segmentation",
            "scribble",
            "hed",
            "sketch",
            "line",
            "colour",
            "blur",
            "mask",
        )
        for joint in (" to ", "2")
    },
}

_TAGWORLD: dict[str, Edit] = {
    "generate": "generate",
    "add": "add",
    "remove": "remove",
    "replace": "replace",
    "recolour": "attribute",
    "retexture": "attribute",
    "resize": "attribute",
    "move": "move",
    "swap": "move",
    "expression": "pose",
    "wear": "add",
    "take_off": "remove",
    "hair": "attribute",
    "background": "background",
    "pattern": "background",
    "style": "style",
    "destyle": "style",
    "light": "light",
    "relight": "light",
    "viewpoint": "viewpoint",
    "multi_recolour": "attribute",
    "multi_remove": "remove",
    "subject": "subject",
    "style_ref": "style reference",
    "structure": "control map",
}


def edit_of(dataset: str, native_task: str) -> Edit | None:
    """The operation of a record's native task; None if the name is unknown or empty.

    Case, hyphens and underscores do not matter. TagWorld has a table of its own, as its names have other meanings.
    """
    if dataset == "tagworld":
        return _TAGWORLD.get(native_task)
    name = re.sub(r"[\s_-]+", " ", native_task).strip().lower()
    return _ANY.get(name) or _ANY.get(name.replace(" ", "-"))
