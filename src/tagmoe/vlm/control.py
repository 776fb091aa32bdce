"""The control question: a harmless one, which tells a refusal of one question from a refusal of all.

A server without credit, without the model or with another key than ours refuses every question, with any status code
and in any words. So a refusal says something of its question only if the control question is answered.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

from PIL import Image, ImageDraw

from tagmoe.vlm.question import Attachment, Question

MOST_PICTURES = 2
"""A control question has no more pictures than an edit: a source and a target."""
_WORDS = "The picture shows a red disc on white."


def control_question(like: Question) -> Question:
    """A harmless question that needs the same abilities of a server as `like`: pictures, schema, sampling."""
    shown = sum(isinstance(part, Attachment) for part in like.parts)
    pictures = (_picture(),) * min(shown, MOST_PICTURES)
    return replace(like, parts=(*pictures, f"{_WORDS} Answer in the form that is asked for."), system="")


@cache
def _picture() -> Attachment:
    """A red disc on white, 64x64 pixels."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 47, 47), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Attachment(buffer.getvalue())
