"""Asking servers that speak OpenAI's chat completions with pictures: vLLM, SGLang, `transformers serve`, hosted ones.

A passing failure (no connection, a timeout, a server error, too many requests) is retried. What the model or the server
says about one question becomes the answer to that question. A setting that can never work raises an error at once. A
refusal may be that of an account: whoever keeps refusals asks the control question first (`tagmoe.vlm.control`).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from tagmoe.errors import DataError, ImageError, TagMoEError, UsageError
from tagmoe.extras import require
from tagmoe.vlm.chat import body_of, completion_of, fields_of, has_pictures, messages_of, read_reply, status_inside
from tagmoe.vlm.dialect import blamed_field, may_blame_fields, without
from tagmoe.vlm.endpoints import Endpoint, choose
from tagmoe.vlm.question import Answer, Question

SHORTEST_SECRET = 8
"""Characters of a key that is worth hiding in answers; shorter ones are placeholders such as EMPTY."""
CONNECT_SECONDS = 10.0
LIST_SECONDS = 30.0
"""The most seconds to wait for a connection, and for the list of models."""
MOST_WORDS = 2000
"""Characters of a refusal that are kept."""
MOST_TRIALS = 3
"""Refusals of one server after which all optional fields are tried in vain; then it is believed."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
"""Seconds before the second attempt, and the most before any. Pauses double and are jittered; Retry-After wins."""
_TEXT_ONLY = re.compile(
    r"not a multi-?modal|(does not|doesn't) support.{0,30}(image|vision|multi-?modal)|at most 0 image"
    r"|image(s|_url)?( inputs?| content)? (is|are) not supported|(text|language)[- ]only model",
    re.IGNORECASE,
)
_OTHER_MODEL = re.compile(r"pinned to|model.{0,80}(not exist|not found)", re.IGNORECASE)


_PAID = re.compile(r"insufficient|billing|credit|balance|payment|hard limit", re.IGNORECASE)
"""Reasons of a 429 that no wait mends."""


@dataclass(eq=False)
class _Failed(Exception):
    """No answer came, but a retry may help. wait: seconds that the server asked for. field: the optional field that the
    server blames, if any."""

    reason: str
    wait: float = 0.0
    field: str | None = None


@dataclass(eq=False)
class _Refused(Exception):
    """The server will not answer this question. text: its words. field: the optional field that it blames. of_fields:
    whether it may blame a field without naming it."""

    reason: str
    text: str
    field: str | None = None
    of_fields: bool = False


class ChatServers:
    """Asks one or several servers of one model, each question at the least loaded healthy one.

    endpoints: such as http://127.0.0.1:8000/v1. model: its name on the servers. key: bearer token, kept out of
    every message. concurrency: requests in flight over all endpoints. timeout: seconds for one request. attempts:
    requests for one question, over all endpoints. Raises UsageError for impossible settings, MissingError without
    aiohttp.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        model: str,
        *,
        key: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        attempts: int = 5,
    ) -> None:
        if not endpoints:
            raise UsageError("No endpoint is given; give one as http://127.0.0.1:8000/v1.")
        if not model:
            raise UsageError("No model is given; name one that the server has.")
        if concurrency < 1 or attempts < 1 or not (timeout > 0 and math.isfinite(timeout)):
            raise UsageError(
                f"The concurrency is {concurrency}, the attempts are {attempts}, the timeout is {timeout:g} s; "
                "give at least 1, at least 1 and more than 0."
            )
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise UsageError("The key has invalid characters; set TAGMOE_VLM_KEY to the key and nothing else.")
        self._endpoints = list({endpoint.url: endpoint for endpoint in map(Endpoint, endpoints)}.values())
        self._model = model
        self._key = key
        self._concurrency = concurrency
        self._timeout = timeout
        self._attempts = attempts
        self._session: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = asyncio.Semaphore(concurrency)
        self._checked = False

    def __repr__(self) -> str:
        return f"ChatServers({[endpoint.url for endpoint in self._endpoints]}, {self._model!r})"

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    async def ask(self, question: Question) -> Answer:
        """The answer of one server, checked against the question's schema or choices.

        Raises UsageError when no question can be answered: the key or the model is wrong, the address serves no chat
        completions, the model takes no pictures, the schema is invalid. Raises DataError when key and model passed
        `check` and the server takes them no more.
        """
        try:
            messages = messages_of(question)
        except ImageError as error:
            return Answer("refused", reason=str(error), attempts=0)
        failure = _Failed("")
        refusals: dict[Endpoint, _Refused] = {}
        attempt = 0
        while attempt < self._attempts:
            attempt += 1
            self._opened()
            try:
                async with self._free:
                    endpoint = choose([one for one in self._endpoints if one not in refusals])
                    reply, left_out = await self._reply(endpoint, messages, question)
            except _Failed as error:
                failure = error
            except _Refused as error:
                # another server may answer: the account of this one may be empty
                refusals[endpoint] = error
                if len(refusals) == len(self._endpoints):
                    break
                continue
            else:
                for other in refusals:
                    other.failed(time.monotonic(), gone=True)
                answer = read_reply(reply, question)
                notes = (*answer.notes, *(f"asked without {name}, which the server refuses" for name in left_out))
                return replace(answer, attempts=attempt, notes=notes)
            if attempt < self._attempts:
                await asyncio.sleep(self._pause(attempt, failure.wait))
        for refusal in refusals.values():
            return Answer("refused", refusal.text, reason=refusal.reason, attempts=attempt)
        return Answer("failed", reason=failure.reason, attempts=attempt)

    async def check(self) -> None:
        """Ask the servers for their models. Raises UsageError for a problem that would fail every question.

        Such problems are: no server answers, the key is wrong, or a server has another model. A server that lists no
        models passes. So does a model given as a path, because servers list paths under names of their own.
        """
        results = await asyncio.gather(*(self._models(endpoint) for endpoint in self._endpoints))
        failures = [result for result in results if isinstance(result, _Failed)]
        if len(failures) == len(results):
            raise UsageError(f"{failures[0].reason} Start the server, or correct --endpoint.")
        for endpoint, names in zip(self._endpoints, results, strict=True):
            if not isinstance(names, _Failed) and names and not self._is_among(names):
                raise UsageError(self._other_model(endpoint, names))
        self._checked = True

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    def _opened(self) -> Any:
        """The session of the running event loop, which keeps connections. A new loop gets a new session."""
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is loop:
            return self._session
        require("vlm", "aiohttp", purpose="Asking a server")
        import aiohttp

        self._loop, self._free = loop, asyncio.Semaphore(self._concurrency)
        for endpoint in self._endpoints:
            endpoint.in_flight = 0
            endpoint.learning = asyncio.Lock()
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the semaphore is the limit
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session

    async def _reply(
        self, endpoint: Endpoint, messages: Sequence[bytes], question: Question
    ) -> tuple[Mapping[str, Any], list[str]]:
        """The server's reply to one attempt, and the optional fields that the question had to do without.

        A field that the server blames is left out, and the question is sent again. Once such a question is answered,
        the field is left out of all later ones.
        """
        left_out: frozenset[str] = frozenset()
        while True:
            known = frozenset(endpoint.unsupported_fields)
            try:
                return await self._without(endpoint, left_out, messages, question)
            except _Failed as error:
                if error.field is None:
                    raise
                left_out |= {error.field}
            except _Refused as error:
                if error.field is not None:
                    left_out |= {error.field}
                elif error.of_fields and not left_out:
                    return await self._without_some(endpoint, known, messages, question, error)
                else:
                    raise

    async def _without_some(
        self,
        endpoint: Endpoint,
        known: frozenset[str],
        messages: Sequence[bytes],
        question: Question,
        refusal: _Refused,
    ) -> tuple[Mapping[str, Any], list[str]]:
        """The reply without the fields that a refusal blames and does not name.

        known: the unsupported fields that were known before. Raises the refusal if no field helps, and at once where
        the server has answered such fields or was tried with these words before.
        """
        async with endpoint.learning:
            if endpoint.unsupported_fields != known:
                # another question has found out meanwhile
                return await self._without(endpoint, frozenset(), messages, question)
            sent = frozenset(fields_of(self._model, question, known))
            words = re.sub(r"[0-9]+", "0", refusal.reason)
            if endpoint.accepts(sent) or words in endpoint.tried or len(endpoint.tried) >= MOST_TRIALS:
                raise refusal
            endpoint.tried.add(words)
            for left_out in without(sent):
                try:
                    return await self._without(endpoint, left_out, messages, question)
                except _Refused:
                    continue
        raise refusal

    async def _without(
        self, endpoint: Endpoint, left_out: frozenset[str], messages: Sequence[bytes], question: Question
    ) -> tuple[Mapping[str, Any], list[str]]:
        """The reply to a question without these fields, which are remembered as unsupported if it is an answer."""
        unsupported = endpoint.unsupported_fields | left_out
        fields = fields_of(self._model, question, unsupported)
        reply = await self._post(endpoint, body_of(fields, messages, question), question, fields)
        endpoint.unsupported_fields |= left_out
        endpoint.accepted.add(frozenset(fields))
        return reply, sorted(frozenset(fields_of(self._model, question)) - frozenset(fields))

    async def _post(
        self, endpoint: Endpoint, body: bytes, question: Question, fields: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        status, data, wait = await self._send(endpoint, "POST", "/chat/completions", body)
        if status == 200:
            reply = completion_of(data)
            if reply is not None:
                endpoint.saw_pictures = endpoint.saw_pictures or has_pictures(question)
                return reply
            status = status_inside(data)
            if status == 200:
                raise _Failed(f"The server at {endpoint.url} sent something other than an answer.")
        message = self._message(data)
        field = None if status in (401, 408, 429) else blamed_field(data, message, fields)
        text = data.decode("utf-8", "replace")[:MOST_WORDS]
        if status == 408 or (status == 429 and not _PAID.search(text)) or (status >= 500 and status != 501):
            raise _Failed(f"The server at {endpoint.url} answered {status}{message}.", wait, field)
        if status == 401:
            raise self._unusable(self._wrong_key(endpoint, status))
        reason = f"The server refused the question with {status}{message}."
        if field is not None:
            raise _Refused(reason, text, field)
        blind = has_pictures(question) and not endpoint.saw_pictures and _TEXT_ONLY.search(message)
        if blind and status in (400, 415, 422):
            raise UsageError(
                f"The model {self._model!r} at {endpoint.url} takes no pictures ({message.lstrip(': ')}); use a "
                "vision-language model."
            )
        if status in (404, 405) or _OTHER_MODEL.search(message):
            names = await self._models(endpoint)
            if not isinstance(names, _Failed) and names and not self._is_among(names):
                raise self._unusable(self._other_model(endpoint, names))
        if status in (404, 405) or "pinned to" in message:
            raise self._unusable(
                f"The server at {endpoint.url} answered {status}{message} to chat completions for the model "
                f"{self._model!r}; correct --endpoint (it often ends with /v1) or the model."
            )
        if status < 400:
            raise self._unusable(
                f"The server at {endpoint.url} answered {status}, a redirection, which is not followed; give the "
                "address that it leads to."
            )
        raise _Refused(reason, text, of_fields=may_blame_fields(status, message))

    def _unusable(self, sentence: str) -> TagMoEError:
        """The error of a server that answers no question. The settings are not at fault if they passed the check."""
        return DataError(sentence) if self._checked else UsageError(sentence)

    async def _models(self, endpoint: Endpoint) -> list[str] | _Failed:
        """The names of models that a server lists, empty if it has no list; or the failure to reach it."""
        for attempt in range(1, self._attempts + 1):
            try:
                status, data, wait = await self._send(endpoint, "GET", "/models")
            except _Failed as error:
                # a retry does not help where no server is; it may help against an error of the server
                return error
            if status in (401, 403):
                raise self._unusable(self._wrong_key(endpoint, status))
            if status not in (408, 429) and status < 500:
                break
            if attempt == self._attempts:
                # some servers answer questions although their list fails
                return []
            await asyncio.sleep(self._pause(attempt, wait))
        try:
            return [str(entry["id"]) for entry in json.loads(data)["data"]]
        except (ValueError, LookupError, TypeError):
            return []

    async def _send(
        self, endpoint: Endpoint, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, bytes, float]:
        """(status, body, seconds of Retry-After) of a reply that came whole. Raises _Failed when none did."""
        session = self._opened()
        import aiohttp

        # a list of models comes at once, so `check` waits less long than for an answer
        seconds = self._timeout if body is not None else min(LIST_SECONDS, self._timeout)
        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds))
        started = time.monotonic()
        endpoint.in_flight += 1
        try:
            async with session.request(
                method, endpoint.url + path, data=body, allow_redirects=False, timeout=limits
            ) as response:
                data = self._without_key(await response.read())
                status, wait = response.status, _retry_after(response.headers.get("Retry-After"))
        except TimeoutError as error:
            endpoint.failed(started, gone=True)
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise _Failed(f"No server answers at {endpoint.url} (no connection in time).") from None
            raise _Failed(f"The server at {endpoint.url} did not answer within {seconds:g} s.") from None
        except aiohttp.ClientConnectorError as error:
            endpoint.failed(started, gone=True)
            what = self._clean(error.strerror or type(error.os_error).__name__)
            raise _Failed(f"No server answers at {endpoint.url} ({what}).") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            endpoint.failed(started, gone=False)
            raise _Failed(f"The connection to {endpoint.url} was lost ({type(error).__name__}).") from None
        finally:
            endpoint.in_flight -= 1
        if status >= 500:
            endpoint.failed(started, gone=False)
        else:
            endpoint.worked()
        return status, data, wait

    def _pause(self, attempt: int, wait: float) -> float:
        """Seconds before the next attempt, jittered so that concurrent questions do not all come back at once."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if wait > 0:
            return min(LONGEST_PAUSE, wait * random.uniform(1.0, 1.1))
        others = [endpoint for endpoint in self._endpoints if not endpoint.rests]
        # with another healthy server the next attempt may come sooner, because that one may answer
        return pause if len(self._endpoints) == 1 or not others else pause / 4

    def _is_among(self, names: Sequence[str]) -> bool:
        # `transformers serve` lists the models of its cache, but also takes a folder or a revision
        known = {*names, *(name.split("@")[0] for name in names)}
        return self._model in known or self._model.split("@")[0] in known or os.path.isdir(self._model)

    def _other_model(self, endpoint: Endpoint, names: Sequence[str]) -> str:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        return f"The server at {endpoint.url} has no model {self._clean(self._model)!r}; it has {self._clean(shown)}."

    def _wrong_key(self, endpoint: Endpoint, status: int) -> str:
        # the server's message is left out, because some repeat the key
        sent = "no key" if self._key is None else "the key that was sent"
        return (
            f"The server at {endpoint.url} refused {sent} ({status}); set the environment variable TAGMOE_VLM_KEY to a "
            "key that it accepts."
        )

    def _message(self, data: bytes) -> str:
        """The message of an error reply in one line, after ': '; empty if there is none."""
        text = data[:4000].decode("utf-8", "replace")
        try:
            value = json.loads(data)
            for name in ("error", "message", "detail"):
                if isinstance(value, Mapping) and value.get(name):
                    value = value[name]
            text = value if isinstance(value, str) else json.dumps(value) if value else ""
        except ValueError:
            if text.lstrip().startswith("<"):
                return ""
        line = self._clean(" ".join(text.split()).rstrip("."))
        return f": {line[:300]}" if line else ""

    def _without_key(self, data: bytes) -> bytes:
        """Mask the key: some servers and models repeat it, and it must not reach an answer or a ledger."""
        if self._key is None or len(self._key) < SHORTEST_SECRET:
            return data
        return data.replace(self._key.encode(), b"***")

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def server_key() -> str | None:
    """The key for servers from the environment: TAGMOE_VLM_KEY, else OPENAI_API_KEY, else None."""
    for name in ("TAGMOE_VLM_KEY", "OPENAI_API_KEY"):
        value = os.environ.get(name, "").strip()
        if value:
            return value
    return None


def _retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or as an HTTP date; 0 if it is missing or invalid."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return seconds if seconds > 0 and math.isfinite(seconds) else 0.0
