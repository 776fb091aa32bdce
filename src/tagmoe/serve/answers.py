"""The answers of the images API: the JSON of finished pictures, and the events of a stream."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from tagmoe import __version__
from tagmoe.serve.asked import FORMATS, Asked
from tagmoe.serve.painter import Scene
from tagmoe.serve.work import Drawn

QUALITIES = ("low", "medium", "high", "xhigh", "max", "auto")


def encoded(image: Image, asked: Asked, facts: dict[str, str] | None = None) -> str:
    """A picture in the format that was asked for, in base64. facts: texts for a PNG."""
    buffer = io.BytesIO()
    if asked.format == "png":
        info = PngInfo()
        for name, value in (facts or {}).items():
            info.add_text(name, value)
        # At the default level a picture of a megapixel takes three times as long, and is a tenth smaller.
        image.save(buffer, format="PNG", compress_level=1, pnginfo=info)
    else:
        image.save(buffer, format=FORMATS[asked.format], quality=asked.compression)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def facts_of(asked: Asked, scene: Scene, seed: int, model: str) -> dict[str, str]:
    """How a picture was made, by the names that `tagmoe edit` uses. Its sources are not named: they have no names."""
    facts = {
        "Software": "tagmoe",
        "prompt": scene.prompt,
        "seed": str(seed),
        "steps": str(scene.steps),
        "cfg": f"{scene.cfg:g}",
        "model": model,
        "size": f"{scene.size[0]}x{scene.size[1]}",
        "version": __version__,
    }
    if scene.prompt != asked.prompt:
        facts["raw_prompt"] = asked.prompt
    if scene.negative is not None:
        facts["negative_prompt"] = scene.negative
    if scene.lora:
        facts["lora"] = ", ".join(name for name, _ in scene.lora)
        facts["lora_scale"] = ", ".join(f"{strength:g}" for _, strength in scene.lora)
    return facts


def usage(scene: Scene, pictures: int) -> dict[str, Any]:
    """The tokens that the model read and drew: of the text, of the references, of the results."""
    text, shown, drawn = scene.tokens
    return {
        "input_tokens": text + shown,
        "input_tokens_details": {"text_tokens": text, "image_tokens": shown},
        "output_tokens": drawn * pictures,
        "total_tokens": text + shown + drawn * pictures,
    }


def entry(asked: Asked, scene: Scene, drawn: Drawn, seed: int, model: str) -> dict[str, Any]:
    """One picture of an answer. seed: its own, to draw it again."""
    facts = facts_of(asked, scene, seed, model) if asked.metadata else None
    found: dict[str, Any] = {"b64_json": encoded(drawn.image, asked, facts), "seed": seed}
    if scene.prompt != asked.prompt:
        found["revised_prompt"] = scene.prompt
    if drawn.routing is not None:
        found["routing"] = drawn.routing
    return found


def settings(asked: Asked, size: tuple[int, int]) -> dict[str, Any]:
    """What an answer or an event says about its pictures. size: (width, height)."""
    return {"size": f"{size[0]}x{size[1]}", "background": "opaque", "output_format": asked.format}


def event(kind: str, fields: dict[str, Any]) -> bytes:
    """One server-sent event. kind: such as image_edit.completed; clients read it in the data."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
