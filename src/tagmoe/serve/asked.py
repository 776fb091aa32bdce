"""The fields of a request: which are honoured, which are accepted, and which are refused because they change pixels.

Names and bounds are those of OpenAI's images API (openai 3.57.0, whose types are made from the published document).
Further ones are ours: seed, steps, cfg, negative_prompt, lora, routing, metadata. Unknown names are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tagmoe.sentences import cut
from tagmoe.serve.limits import Limits
from tagmoe.serve.refusal import Refusal

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MOST_PREVIEWS = 3
MOST_SEED = 2**63 - 1
MOST_LORA = 100.0
UNSUPPORTED = {
    "input_fidelity": "this model has one fidelity",
    "frame_count": "animations are not made",
    "frame_duration_ms": "animations are not made",
    "svg": "vector pictures are not made",
    "markup": "markup is not read; paint a mask",
    "style": "say the style in the prompt",
}
"""Known fields that would change the pixels, and why they cannot be honoured. null counts as left out."""


@dataclass(frozen=True)
class Asked:
    """A request, checked as far as that needs no model. size: (width, height), None: the model's choice.

    seed: None: a new one. quality: how hard a lossy format compresses, 0 to 100. lora: (name, strength).
    """

    prompt: str
    n: int = 1
    size: tuple[int, int] | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    negative: str | None = None
    lora: tuple[tuple[str, float], ...] = ()
    routing: bool = False
    metadata: bool = False
    stream: bool = False
    previews: int = 0
    format: str = "png"
    compression: int = 100
    model: str | None = None
    quality: str = "auto"


def read_fields(given: Mapping[str, Any], limits: Limits, *, edits: bool) -> Asked:
    """The fields of a request. Raises Refusal that names the field.

    given: of JSON as it is, of a form as texts; an empty text of a form counts as left out.
    """
    fields = {name: value for name, value in given.items() if value is not None and value != ""}
    for name, why in UNSUPPORTED.items():
        if any(key == name or key.startswith(f"{name}[") for key in fields):
            raise Refusal(f"{name} cannot be honoured: {why}.", name, code="unsupported_parameter")
    if not edits and (found := [name for name in ("image", "images", "mask", "image[]") if name in fields]):
        raise Refusal(f"{found[0]} belongs to /v1/images/edits; post it there.", found[0])
    if _choice(fields, "background", ("auto", "opaque", "transparent"), "auto") == "transparent":
        raise Refusal(
            "background cannot be transparent: results are opaque.", "background", code="unsupported_parameter"
        )
    if _choice(fields, "response_format", ("b64_json", "url"), "b64_json") == "url":
        raise Refusal(
            "response_format cannot be url: nothing is stored here; leave it out.",
            "response_format",
            code="unsupported_parameter",
        )
    kind = _choice(fields, "output_format", (*FORMATS, "gif", "svg"), "png")
    if kind not in FORMATS:
        raise Refusal(
            f"output_format cannot be {kind}; give {', '.join(FORMATS)}.", "output_format", code="unsupported_parameter"
        )
    asked = Asked(
        prompt=_prompt(fields, "prompt", limits),
        n=_whole(fields, "n", 1, limits.n, 1),
        size=_size(fields),
        seed=_whole(fields, "seed", 0, MOST_SEED, None),
        steps=_whole(fields, "steps", 1, limits.steps, None),
        cfg=_number(fields, "cfg", 0, 100),
        negative=_prompt(fields, "negative_prompt", limits) if "negative_prompt" in fields else None,
        lora=_lora(fields.get("lora")),
        routing=_flag(fields, "routing"),
        metadata=_flag(fields, "metadata"),
        stream=_flag(fields, "stream"),
        previews=_whole(fields, "partial_images", 0, MOST_PREVIEWS, 0),
        format=kind,
        compression=_whole(fields, "output_compression", 0, 100, 100),
        model=_text(fields, "model"),
        quality=_text(fields, "quality") or "auto",
    )
    if asked.metadata and kind != "png":
        raise Refusal("metadata is written into PNG alone; leave output_format out.", "metadata")
    if asked.previews and not asked.stream:
        raise Refusal("partial_images needs stream to be true.", "partial_images")
    if asked.seed is not None and asked.seed + asked.n - 1 > MOST_SEED:
        raise Refusal(f"seed is {asked.seed}; with n = {asked.n} it must leave room for the others.", "seed")
    return asked


def _shown(value: Any) -> str:
    return cut(repr(value))


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(f"{name} is {_shown(value)}; give a text.", name)
    return value


def _prompt(fields: Mapping[str, Any], name: str, limits: Limits) -> str:
    text = _text(fields, name)
    if text is None or not text.strip():
        raise Refusal(f"{name} is missing or empty; say what to draw or what to change.", name)
    if len(text) > limits.prompt:
        raise Refusal(
            f"{name} has {len(text):,} characters; at most {limits.prompt:,} are allowed.",
            name,
            code="string_above_max_length",
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Refusal(f"{name} holds half a character (a lone surrogate); send whole ones.", name)
    return text


def _choice(fields: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = fields.get(name, default)
    if value not in choices:
        raise Refusal(f"{name} is {_shown(value)}; give one of {', '.join(choices)}.", name)
    return str(value)


def _number(fields: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{0,20}(\.\d{0,20})?(e[+-]?\d{1,3})?", value.strip().lower()):
        value = _as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Refusal(f"{name} is {_shown(value)}; give a number from {least:g} to {most:g}.", name)
    return float(value)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int, default: Any) -> Any:
    if name not in fields:
        return default
    value = fields[name]
    is_text = isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip()) is not None
    if is_text or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refusal(f"{name} is {_shown(value)}; give a whole number from {least:,} to {most:,}.", name)
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, str):
        value = known.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise Refusal(f"{name} is {_shown(value)}; give true or false.", name)
    return value


def _size(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    value = fields.get("size", "auto")
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", value) if isinstance(value, str) else None
    if value == "auto":
        return None
    if found is None:
        raise Refusal(f"size is {_shown(value)}; give WIDTHxHEIGHT such as 64x64, or auto.", "size")
    return int(found[1]), int(found[2])


def _lora(value: Any) -> tuple[tuple[str, float], ...]:
    """Of a name, a list of names, or names with strengths; in a form as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Refusal("lora is no JSON; give a name, or an object of names and strengths.", "lora") from None
    named = {value: 1.0} if isinstance(value, str) else value
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        named = dict.fromkeys(named, 1.0)
    if named is None:
        return ()
    if not isinstance(named, dict):
        raise Refusal(f"lora is {_shown(value)}; give a name, or an object of names and strengths.", "lora")
    for name, strength in named.items():
        is_number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not is_number or not -MOST_LORA <= strength <= MOST_LORA:
            raise Refusal(f"lora gives {_shown(name)} the strength {_shown(strength)}; give -100 to 100.", "lora")
    return tuple(sorted((str(name), float(strength)) for name, strength in named.items()))
