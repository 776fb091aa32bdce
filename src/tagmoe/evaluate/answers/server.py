"""An images server that speaks OpenAI's protocol as an editor: vLLM-Omni, SGLang, hosted ones.

The client of the package openai retries what passes (no connection, a timeout, 408, 409, 429, a server error) and waits
as long as Retry-After says. What the server refuses is an error with the server's words, so that the case fails.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from tagmoe.editor import Picture
from tagmoe.errors import ImageError, TagMoEError, UsageError
from tagmoe.evaluate.answers.answer import NoMoreAnswers
from tagmoe.extras import require
from tagmoe.pictures import load_image, png_of
from tagmoe.sentences import cut, reason_of
from tagmoe.vlm.endpoints import base_url

SETTLED = (400, 403, 404, 413, 422)
"""Answers to one request that no retry mends; any other status was retried in vain."""

UNPAID = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of an account that gets no more answers, whatever is asked."""


class ImagesServer:
    """Edits at /images/edits, and at /images/generations without pictures. One request for each picture.

    address: such as http://127.0.0.1:8000/v1. model: its name there. key: bearer token, kept out of every message.
    fields: further fields of each request; one that is None is left out, `seed` as well, which is the case's own
    otherwise. attempts: requests for one picture. It may be called from several threads at the same time.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        key: str | None = None,
        fields: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        attempts: int = 6,
    ) -> None:
        """Raises UsageError for an address that is none, MissingError without the package openai."""
        require("eval", purpose="Asking an images server")
        from openai import OpenAI

        self._url, self._model, self._fields = base_url(address), model, dict(fields or {})
        self._client = OpenAI(
            base_url=self._url, api_key=key or "none", timeout=timeout, max_retries=attempts - 1, organization=""
        )

    def facts(self) -> dict[str, Any]:
        """Server and model by name: the weights behind them are not known."""
        return {"name": self._model, "weights": None, "server": self._url, "settings": self._fields}

    def check(self) -> None:
        """Raises UsageError for what would fail every case: no answer, a wrong key, another model. A server that lists
        no models passes."""
        from openai import APIConnectionError, APIStatusError, AuthenticationError, PermissionDeniedError

        try:
            names = [model.id for model in self._client.with_options(max_retries=0, timeout=30).models.list().data]
        except (AuthenticationError, PermissionDeniedError):
            raise UsageError(
                f"The server {self._url!r} does not accept the key; set TAGMOE_VLM_KEY or OPENAI_API_KEY."
            ) from None
        except APIConnectionError as error:
            raise UsageError(
                f"The server {self._url!r} does not answer ({reason_of(error)}); start it, or correct --endpoint."
            ) from None
        except (APIStatusError, TypeError, AttributeError):
            return
        if names and self._model not in names:
            raise UsageError(f"The server {self._url!r} has no model {self._model!r}; it has {', '.join(names[:10])}.")

    def __call__(
        self, instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        """One picture a request. Raises TagMoEError with the server's reason, NoMoreAnswers where it answers nobody."""
        return [self._picture(*request) for request in zip(instructions, images, seeds, strict=True)]

    def _picture(self, instruction: str, pictures: Sequence[Image.Image], seed: int) -> Picture:
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        fields = {name: value for name, value in {"seed": seed, **self._fields}.items() if value is not None}
        try:
            if pictures:
                files = [(f"{number}.png", png_of(picture), "image/png") for number, picture in enumerate(pictures, 1)]
                images: Any = files if len(files) > 1 else files[0]
                found = self._client.images.edit(model=self._model, prompt=instruction, image=images, extra_body=fields)
            else:
                found = self._client.images.generate(model=self._model, prompt=instruction, extra_body=fields)
        except APIStatusError as error:
            if error.status_code == 401 or error.code in UNPAID:
                raise NoMoreAnswers(f"The server answers no more ({cut(_words(error), 300)}).") from None
            kind = "refused it" if error.status_code in SETTLED else "failed"
            raise TagMoEError(f"The server {kind} (status {error.status_code}: {cut(_words(error), 300)}).") from None
        except APITimeoutError:
            raise TagMoEError("The server gave no answer in time.") from None
        except APIConnectionError as error:
            raise NoMoreAnswers(
                f"The server {self._url!r} is gone ({reason_of(error)}); start it, and run the command again."
            ) from None
        except (APIError, ValueError) as error:
            raise TagMoEError(f"The server's answer cannot be read ({reason_of(error)}).") from None
        return _decoded(found)


def _decoded(found: Any) -> Image.Image:
    """The picture of an answer. Raises TagMoEError where there is none that can be opened."""
    first = next(iter(getattr(found, "data", None) or ()), None)
    data = getattr(first, "b64_json", None)
    if not data:
        has_address = bool(getattr(first, "url", None))
        raise TagMoEError(
            "The server gave an address instead of the picture; add --set response_format=b64_json."
            if has_address
            else "The server's answer holds no picture."
        )
    try:
        return load_image(base64.b64decode(data, validate=True))
    except (binascii.Error, ImageError) as error:
        raise TagMoEError(f"The server's picture is damaged ({reason_of(error)}).") from None


def _words(error: Any) -> str:
    """What the server says about a request, on one line."""
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    said = inner.get("message") or inner.get("code") or _detail(inner) if isinstance(inner, dict) else inner
    return " ".join(str(said or error.message).split())


def _detail(body: dict[str, Any]) -> Any:
    """What FastAPI's own errors say, as SGLang answers them: a text, or one entry for each field that is wrong."""
    detail = body.get("detail")
    if not isinstance(detail, list):
        return detail
    wrong = [one for one in detail if isinstance(one, dict)]
    return "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" for one in wrong)
