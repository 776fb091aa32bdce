"""The body of a request within limits: JSON, or a form with files. Nothing of it touches the disk.

A form's file names and content types are not looked at. Pictures come as files, or as data: addresses in JSON.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from tagmoe.sentences import counted
from tagmoe.serve.limits import Limits
from tagmoe.serve.refusal import Refusal

MOST_FIELDS = 200
PICTURES = ("image", "image[]", "images", "images[]")


@dataclass
class Body:
    """fields: all but the pictures. pictures, mask: encoded bytes, or the text of an address."""

    fields: dict[str, Any] = field(default_factory=dict)
    pictures: list[bytes | str] = field(default_factory=list)
    mask: bytes | str | None = None


class _InMemory(MultiPartParser):
    """Starlette's parser, but a large file stays in memory: the whole body is there already, and is bounded."""

    spool_max_size = 1 << 40


async def read_body(request: Request, limits: Limits, *, edits: bool) -> Body:
    """Read and take apart the body of a request. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = edits and kind == "multipart/form-data"
    if not is_form and kind not in ("application/json", ""):
        forms = "application/json" + (" or multipart/form-data" if edits else "")
        raise Refusal(f"The Content-Type is {kind[:100]!r}; send {forms}.", status=415)
    data = await _read(request, limits)
    return await _from_form(request, data, limits) if is_form else _from_json(data, limits, edits=edits)


async def _read(request: Request, limits: Limits) -> bytes:
    too_large = Refusal(f"The body is larger than {limits.body:,} bytes; send less.", status=413, code="too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refusal(
            f"The body did not arrive within {limits.body_seconds:g} s; send it faster.",
            status=408,
            headers={"Connection": "close"},
        ) from None
    return b"".join(parts)


def _from_json(data: bytes, limits: Limits, *, edits: bool) -> Body:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal("The body is no JSON that can be read; send a JSON object.", code="invalid_json") from None
    if not isinstance(given, dict):
        raise Refusal("The body is no JSON object; send one.", code="invalid_json")
    if not edits:
        return Body(given)
    body = Body({name: value for name, value in given.items() if name not in (*PICTURES, "mask")})
    for name in PICTURES:
        value = given.get(name)
        if value is not None:
            body.pictures += [_address(one, name) for one in (value if isinstance(value, list) else [value])]
    if given.get("mask") is not None:
        body.mask = _address(given["mask"], "mask")
    _check_number(body, limits)
    return body


def _address(value: Any, name: str) -> str:
    """The address in a reference to a picture: a text, or an object with image_url."""
    if isinstance(value, dict):
        if value.get("file_id") is not None:
            raise Refusal(f"{name} names a file_id, but no files are kept here; send a data: address.", name)
        value = value.get("image_url")
        if isinstance(value, dict):
            value = value.get("url")
    if not isinstance(value, str) or not value:
        raise Refusal(f"{name} holds no picture; give a data: address, or an object with image_url.", name)
    return value


async def read_files(request: Request, limits: Limits) -> list[bytes]:
    """The files of a form, whatever its fields are called. Raises Refusal."""
    form = await _form(request, await _read(request, limits), limits)
    try:
        return [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    finally:
        await form.close()


async def _form(request: Request, data: bytes, limits: Limits) -> FormData:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    try:
        return await _InMemory(
            request.headers,
            stream(),
            max_files=limits.images + 8,
            max_fields=MOST_FIELDS,
            max_part_size=limits.body,
        ).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        said = getattr(error, "message", "") or "it is no multipart form"
        raise Refusal(f"The form cannot be read ({said.rstrip('.')}); send a whole one.", code="invalid_form") from None


async def _from_form(request: Request, data: bytes, limits: Limits) -> Body:
    body, form = Body(), await _form(request, data, limits)
    try:
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if name in PICTURES:
                # Clients send an empty field for what is left out.
                body.pictures += [content] if content else []
            elif name == "mask":
                if body.mask is not None:
                    raise Refusal("mask is given twice; give it once.", "mask")
                body.mask = content or None
            elif isinstance(content, bytes):
                body.fields[name] = _as_text(content, name)
            else:
                body.fields[name] = content
    finally:
        await form.close()
    _check_number(body, limits)
    return body


def _as_text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(f"The field {name[:100]!r} is no text in UTF-8; send it as text.", name[:100]) from None


def _check_number(body: Body, limits: Limits) -> None:
    if not body.pictures:
        raise Refusal("There is no image to edit; send image, or image[] several times.", "image")
    if len(body.pictures) > limits.images:
        raise Refusal(f"There are {counted(body.pictures, 'image')}; at most {limits.images} are allowed.", "image")


def from_data_address(address: str, name: str) -> bytes:
    """The bytes in a data: address. Raises Refusal."""
    head, comma, text = address.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Refusal(f"{name} is a data: address without base64; send data:image/png;base64,...", name)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(f"{name} is a data: address that cannot be decoded; send whole base64.", name) from None
