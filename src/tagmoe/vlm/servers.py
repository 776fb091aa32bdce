"""Asking servers that speak OpenAI's chat completions with pictures: vLLM, SGLang, `transformers serve`, hosted ones.

What fails on the way (no connection, a hang, an error of the server, too many requests) is asked again; what the model
or the server says of one question is that question's answer; what can never work is an error, before others are asked.
"""

from __future__ import annotations

import asyncio
import base64
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

from tagmoe.errors import ImageError, MissingError, UsageError
from tagmoe.vlm.answers import answer_of
from tagmoe.vlm.endpoints import Endpoint, choose
from tagmoe.vlm.question import Answer, Attachment, Question

CONNECT_SECONDS = 10.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
"""Seconds before the second attempt, and the most before any: doubled each time, jittered, and a Retry-After kept."""
OPTIONAL = ("structured_outputs", "response_format", "top_logprobs", "logprobs", "seed", "max_tokens")
"""Fields that a server may not know: it is asked again without the one that it names in its refusal."""
TOP_LOGPROBS = 20
_NO_EYES = re.compile(
    r"not a multi-?modal|(does not|doesn't) support.{0,30}(image|vision|multi-?modal)|at most 0 image"
    r"|image(s|_url)?( inputs?| content)? (is|are) not supported|(text|language)[- ]only model",
    re.IGNORECASE,
)
_OTHER_MODEL = re.compile(r"pinned to|model.{0,80}(not exist|not found|unknown)", re.IGNORECASE)


@dataclass(frozen=True)
class _Failed(Exception):
    """No answer, but there may be one the next time. wait: seconds that the server asked for."""

    reason: str
    wait: float = 0.0


class _Refused(Exception):
    """The server will not answer this question, now or later."""


class _Unknown(Exception):
    """The server does not know a field of the request."""


class ChatServers:
    """Asks one or several servers of one model, each question at the least loaded healthy one.

    endpoints: addresses as http://127.0.0.1:8000/v1. model: name as the servers have it. key: bearer token, kept out of
    every message. concurrency: requests in flight over all endpoints. timeout: seconds for one request. attempts:
    requests for one question, over all endpoints. Raises UsageError for settings that cannot be, MissingError without
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
            raise UsageError("The key has characters that no key has; set TAGMOE_VLM_KEY to the key and nothing else.")
        self._endpoints = list({endpoint.url: endpoint for endpoint in map(Endpoint, endpoints)}.values())
        self._model = model
        self._key = key
        self._concurrency = concurrency
        self._timeout = timeout
        self._attempts = attempts
        self._session: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = asyncio.Semaphore(concurrency)

    def __repr__(self) -> str:
        return f"ChatServers({[endpoint.url for endpoint in self._endpoints]}, {self._model!r})"

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    async def ask(self, question: Question) -> Answer:
        """The answer of one server, checked against the question's schema or choices.

        Raises UsageError when no question can be answered: the key or the model is wrong, the address is no chat
        completions, the model takes no pictures, the schema is none.
        """
        try:
            messages = _messages(question)
        except ImageError as error:
            return Answer("refused", reason=str(error), attempts=0)
        failure = _Failed("")
        for attempt in range(1, self._attempts + 1):
            try:
                async with self._slots():
                    reply = await self._reply(messages, question)
            except _Failed as error:
                failure = error
            except _Refused as error:
                return Answer("refused", reason=str(error), attempts=attempt)
            else:
                answer = _read(reply, question)
                return answer if attempt == 1 else replace(answer, attempts=attempt)
            if attempt < self._attempts:
                await asyncio.sleep(self._pause(attempt, failure.wait))
        return Answer("failed", reason=failure.reason, attempts=self._attempts)

    async def check(self) -> None:
        """Ask the servers for their models. Raises UsageError, one sentence, for what would fail each question.

        That is: no server answers, the key is wrong, or one that answers has another model. A server that lists no
        models passes, as does a model given as a path, which servers list under names of their own.
        """
        results = await asyncio.gather(*(self._models(endpoint) for endpoint in self._endpoints))
        failures = [result for result in results if isinstance(result, _Failed)]
        if len(failures) == len(results):
            raise UsageError(f"{failures[0].reason} Start the server, or correct --endpoint.")
        for endpoint, names in zip(self._endpoints, results, strict=True):
            if not isinstance(names, _Failed) and names and not self._is_among(names):
                raise UsageError(self._other_model(endpoint, names))

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    def _slots(self) -> asyncio.Semaphore:
        self._opened()
        return self._free

    def _opened(self) -> Any:
        """The session of the running loop, which keeps connections; a new loop gets a new one."""
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is loop:
            return self._session
        try:
            import aiohttp
        except ImportError:
            raise MissingError("Asking a server needs aiohttp; run: pip install 'tagmoe[vlm]'.") from None
        self._loop, self._free = loop, asyncio.Semaphore(self._concurrency)
        for endpoint in self._endpoints:
            endpoint.in_flight = 0
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the semaphore is the limit
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=min(CONNECT_SECONDS, self._timeout)),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session

    async def _reply(self, messages: bytes, question: Question) -> Mapping[str, Any]:
        """The server's reply to one attempt, of which each field that the server refuses makes one request more."""
        endpoint = choose(self._endpoints)
        while True:
            body = _body(self._model, messages, question, endpoint.lacks)
            try:
                return await self._post(endpoint, body, question)
            except _Unknown as error:
                endpoint.lacks.add(str(error))

    async def _post(self, endpoint: Endpoint, body: bytes, question: Question) -> Mapping[str, Any]:
        status, data, wait = await self._send(endpoint, "POST", "/chat/completions", body)
        if status == 200:
            try:
                reply = json.loads(data)
                reply["choices"][0]["message"]["content"]
            except (ValueError, LookupError, TypeError):
                raise _Failed(f"The server at {endpoint.url} sent something other than an answer.") from None
            endpoint.showed = endpoint.showed or _has_pictures(question)
            return dict(reply)
        message = self._message(data)
        if status in (408, 429) or status >= 500:
            raise _Failed(f"The server at {endpoint.url} answered {status}{message}.", wait)
        if status in (401, 403):
            raise UsageError(self._wrong_key(endpoint, status))
        if status in (404, 405) or (status == 400 and _OTHER_MODEL.search(message)):
            names = await self._models(endpoint)
            if not isinstance(names, _Failed) and names and not self._is_among(names):
                raise UsageError(self._other_model(endpoint, names))
            raise UsageError(
                f"The server at {endpoint.url} answered {status}{message} to chat completions for the model "
                f"{self._model!r}; correct --endpoint (it often ends with /v1) or the model."
            )
        if status in (400, 422):
            for name in OPTIONAL:
                if name in message and name not in endpoint.lacks and f'"{name}":'.encode() in body:
                    raise _Unknown(name)
            if _has_pictures(question) and not endpoint.showed and _NO_EYES.search(message):
                raise UsageError(
                    f"The model {self._model!r} at {endpoint.url} takes no pictures ({message.lstrip(': ')}); use a "
                    "vision-language model."
                )
        if status < 400:
            raise UsageError(
                f"The server at {endpoint.url} answered {status}, a redirection, which is not followed; give the "
                "address that it leads to."
            )
        raise _Refused(f"The server refused the question with {status}{message}.")

    async def _models(self, endpoint: Endpoint) -> list[str] | _Failed:
        """The names that a server lists, none where it has no such list; or why it cannot be asked."""
        for attempt in range(1, self._attempts + 1):
            try:
                status, data, wait = await self._send(endpoint, "GET", "/models")
            except _Failed as error:
                # nobody there is not cured by asking again, a server that stumbles may be
                return error
            if status in (401, 403):
                raise UsageError(self._wrong_key(endpoint, status))
            if status not in (408, 429) and status < 500:
                break
            if attempt == self._attempts:
                return _Failed(f"The server at {endpoint.url} answered {status}{self._message(data)}.")
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

        started = time.monotonic()
        endpoint.in_flight += 1
        try:
            async with session.request(method, endpoint.url + path, data=body, allow_redirects=False) as response:
                data = await response.read()
                status, wait = response.status, _retry_after(response.headers.get("Retry-After"))
        except TimeoutError as error:
            endpoint.failed(started, gone=True)
            what = "could not be reached" if "onnect" in str(error) else "did not answer"
            seconds = f"{min(CONNECT_SECONDS, self._timeout) if 'onnect' in str(error) else self._timeout:g}"
            raise _Failed(f"The server at {endpoint.url} {what} within {seconds} s.") from None
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
        """Seconds before the next attempt; others share the jitter, so that they do not all come back at once."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if wait > 0:
            return min(LONGEST_PAUSE, wait * random.uniform(1.0, 1.1))
        others = [endpoint for endpoint in self._endpoints if not endpoint.rests]
        # a healthy second server can be asked at once, if it is not always the same that fails
        return pause if len(self._endpoints) == 1 or not others else pause / 4

    def _is_among(self, names: Sequence[str]) -> bool:
        # `transformers serve` lists what its cache holds, and takes a folder or a revision beside that
        known = {*names, *(name.split("@")[0] for name in names)}
        return self._model in known or self._model.split("@")[0] in known or os.path.isdir(self._model)

    def _other_model(self, endpoint: Endpoint, names: Sequence[str]) -> str:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        return f"The server at {endpoint.url} has no model {self._clean(self._model)!r}; it has {self._clean(shown)}."

    def _wrong_key(self, endpoint: Endpoint, status: int) -> str:
        # what the server says is left out: some repeat the key
        sent = "no key" if self._key is None else "the key that was sent"
        return (
            f"The server at {endpoint.url} refused {sent} ({status}); set the environment variable TAGMOE_VLM_KEY to a "
            "key that it accepts."
        )

    def _message(self, data: bytes) -> str:
        """': ' and what an error reply says, in one line, or nothing."""
        text = data[:4000].decode("utf-8", "replace")
        try:
            value = json.loads(data)
            for name in ("error", "message", "detail"):
                if isinstance(value, Mapping) and value.get(name):
                    value = value[name]
            text = value if isinstance(value, str) else json.dumps(value)
        except ValueError:
            if text.lstrip().startswith("<"):
                return ""
        line = self._clean(" ".join(text.split()).rstrip("."))
        return f": {line[:300]}" if line else ""

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def server_key() -> str | None:
    """The key for servers from the environment: TAGMOE_VLM_KEY, else OPENAI_API_KEY, else None."""
    for name in ("TAGMOE_VLM_KEY", "OPENAI_API_KEY"):
        value = os.environ.get(name, "").strip()
        if value:
            return value
    return None


def _messages(question: Question) -> bytes:
    """The messages as JSON. Joined from bytes: base64 of megabytes never goes through a JSON encoder."""
    pieces = [b"["]
    if question.system:
        pieces += [b'{"role":"system","content":', json.dumps(question.system).encode(), b"},"]
    pieces.append(b'{"role":"user","content":[')
    for number, part in enumerate(question.parts):
        if number:
            pieces.append(b",")
        if isinstance(part, Attachment):
            pieces += [
                b'{"type":"image_url","image_url":{"url":"data:image/',
                _kind(part.data),
                b";base64,",
                base64.b64encode(part.data),
                b'"}}',
            ]
        else:
            pieces += [b'{"type":"text","text":', json.dumps(part).encode(), b"}"]
    pieces.append(b"]}]")
    return b"".join(pieces)


def _kind(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"png"
    if data.startswith(b"\xff\xd8\xff"):
        return b"jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return b"webp"
    raise ImageError("A picture of the question is no PNG, JPEG or WebP file.")


def _body(model: str, messages: bytes, question: Question, lacks: set[str]) -> bytes:
    """The request, without the fields that the server lacks."""
    values: dict[str, Any] = {"model": model, "temperature": question.temperature, "seed": question.seed}
    values["max_completion_tokens" if "max_tokens" in lacks else "max_tokens"] = question.max_tokens
    if question.choices:
        # vLLM's field gives the word alone, so that its first token has the probabilities; else a schema holds it
        if "structured_outputs" not in lacks:
            values["structured_outputs"] = {"choice": list(question.choices)}
        else:
            values["response_format"] = _format("choice", choice_schema(question.choices))
        values |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if "logprobs" in lacks:
            del values["top_logprobs"]
    elif question.schema is not None:
        values["response_format"] = _format("answer", question.schema)
    head = json.dumps({name: value for name, value in values.items() if name not in lacks})
    return b'%s,"messages":%s}' % (head[:-1].encode(), messages)


def choice_schema(choices: Sequence[str]) -> dict[str, Any]:
    """A schema of one choice; an object, as some servers allow nothing else at the top."""
    answer = {"type": "string", "enum": list(choices)}
    return {"type": "object", "properties": {"answer": answer}, "required": ["answer"], "additionalProperties": False}


def _format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}


def _has_pictures(question: Question) -> bool:
    return any(isinstance(part, Attachment) for part in question.parts)


def _read(reply: Mapping[str, Any], question: Question) -> Answer:
    """The answer in a whole reply."""
    first = reply["choices"][0]
    message, finish = first["message"], first.get("finish_reason")
    content = message["content"]
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    text = content if isinstance(content, str) else ""
    if message.get("refusal"):
        return Answer("refused", text, reason=f"The model refused: {str(message['refusal'])[:200]}")
    if finish == "content_filter":
        return Answer("refused", text, reason="The server's content filter stopped the answer.")
    answer = answer_of(text, question)
    if finish == "length" and not (question.choices and answer.status == "ok"):
        reason = f"The answer was cut off at {question.max_tokens} tokens."
        return Answer("invalid", text, reason=reason)
    if answer.status == "ok" and question.choices:
        return replace(answer, probabilities=choice_probabilities(first.get("logprobs"), question.choices))
    return answer


def choice_probabilities(logprobs: Any, choices: Sequence[str]) -> dict[str, float] | None:
    """Probabilities of the choices, normalised, from the log-probabilities of the first token that tells them apart.

    logprobs: as in a chat completion, or None. None where the server gives none, or where the token may be the begin
    of several choices.
    """
    try:
        tokens = [(str(entry["token"]), entry["top_logprobs"]) for entry in logprobs["content"]]
        written = ""
        for token, top in tokens:
            # JSON around the word (a brace, the name, a quote) comes first where a schema holds it
            if _bare(written + token):
                # a token alone says nothing of the others
                return (
                    None
                    if len(top) < 2
                    else _shares([(str(entry["token"]), float(entry["logprob"])) for entry in top], choices)
                )
            written += token
    except (TypeError, LookupError, ValueError, AttributeError):
        pass
    return None


def _bare(written: str) -> str:
    """The letters of the word that are written so far, without the JSON before them."""
    text = re.sub(r'^\s*\{\s*("?(answer?|answe|answ|ans|an|a)?"?\s*:?\s*)', "", written)
    return text.rstrip("} \n").strip('" \n')


def _shares(top: Sequence[tuple[str, float]], choices: Sequence[str]) -> dict[str, float] | None:
    sums = dict.fromkeys(choices, 0.0)
    for token, log in top:
        begin = _bare(token).casefold()
        fitting = [choice for choice in choices if begin and choice.casefold().startswith(begin)]
        if len(fitting) > 1:
            return None
        if fitting:
            sums[fitting[0]] += math.exp(log)
    whole = sum(sums.values())
    return {choice: value / whole for choice, value in sums.items()} if whole > 0 else None


def _retry_after(value: str | None) -> float:
    """Seconds to wait that a header asks for, as a number or as an HTTP date; 0 for none or nonsense."""
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
