"""What the server's own OpenAPI document says about requests and answers that FastAPI cannot read from signatures."""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_COMMON: dict[str, Any] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 32_000},
    "model": TEXT | {"description": "Any name; the header X-Tagmoe-Model of the answer names the real one."},
    "n": _WHOLE | {"minimum": 1, "maximum": 10},
    "size": TEXT | {"pattern": r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$"},
    "quality": TEXT,
    "user": {},
    "safety_identifier": {},
    "background": {"enum": ["auto", "opaque"]},
    # What has no effect is accepted whatever it holds.
    "complexity": {},
    "moderation": {},
    "response_format": {"enum": ["b64_json"]},
    "output_format": {"enum": ["png", "jpeg", "webp"]},
    "output_compression": _WHOLE | {"minimum": 0, "maximum": 100},
    "stream": {"type": "boolean"},
    "partial_images": _WHOLE | {"minimum": 0, "maximum": 3},
    "seed": _WHOLE | {"minimum": 0, "maximum": 2**53},
    "steps": _WHOLE | {"minimum": 1, "maximum": 100},
    "cfg": {"type": "number", "minimum": 0, "maximum": 100},
    "negative_prompt": TEXT,
    "lora": {"oneOf": [TEXT, {"type": "object", "additionalProperties": {"type": "number"}}]},
    "routing": {"type": "boolean"},
    "metadata": {"type": "boolean"},
}
_REFERENCE = {
    "oneOf": [TEXT, {"type": "object", "properties": {"image_url": TEXT}, "required": ["image_url"]}],
    "description": "A data: address.",
}
_FILE = {"type": "string", "format": "binary"}


def _fields(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": properties, "required": required}}


GENERATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": _fields(_COMMON, ["prompt"])},
    }
}
EDIT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _fields(
                _COMMON | {"image": _FILE, "image[]": {"type": "array", "items": _FILE}, "mask": _FILE}, ["prompt"]
            ),
            "application/json": _fields(
                _COMMON | {"images": {"type": "array", "items": _REFERENCE, "minItems": 1}, "mask": _REFERENCE},
                ["prompt", "images"],
            ),
        },
    }
}
_OR_NULL = {"type": ["string", "null"]}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": TEXT, "type": TEXT, "param": _OR_NULL, "code": _OR_NULL},
        }
    },
}
IMAGES: dict[str, Any] = {
    "type": "object",
    "required": ["created", "data"],
    "properties": {
        "created": _WHOLE,
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["b64_json", "seed"],
                "properties": {"b64_json": TEXT, "seed": _WHOLE, "revised_prompt": TEXT, "routing": {"type": "object"}},
            },
        },
        "size": TEXT,
        "background": {"enum": ["opaque"]},
        "output_format": {"enum": ["png", "jpeg", "webp"]},
        "usage": {"type": "object"},
    },
}
MODELS: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
}
_SAID = {
    400: "The request cannot be carried out",
    401: "The API key is missing or wrong",
    403: "The request comes from elsewhere",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is of another type",
    429: "The queue is full",
    500: "The server failed",
    504: "The time limit of a request is over",
}


def answers_of(route: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a route by their status."""
    good: dict[str, Any] = {
        "images": {
            "application/json": {"schema": IMAGES},
            "text/event-stream": {"schema": {"type": "string"}},
        },
        "models": {"application/json": {"schema": MODELS}},
        "health": {"application/json": {"schema": {"type": "object", "properties": {"status": TEXT}}}},
        "metrics": {"text/plain": {"schema": TEXT}},
    }
    known = {"images": tuple(_SAID), "health": ()}.get(route, (401, 403))
    said: dict[int | str, dict[str, Any]] = {200: {"description": "As asked", "content": good[route]}}
    for status in known:
        said[status] = {"description": _SAID[status], "content": {"application/json": {"schema": ERROR}}}
    return said
