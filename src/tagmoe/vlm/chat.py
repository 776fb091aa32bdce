"""The wire format of OpenAI's chat completions: a question as a request, a reply as an answer."""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tagmoe.errors import ImageError
from tagmoe.sentences import counted
from tagmoe.vlm.answers import answer_of
from tagmoe.vlm.question import Answer, Attachment, Question, object_schema

OPTIONAL = (
    "structured_outputs",
    "response_format",
    "top_logprobs",
    "logprobs",
    "chat_template_kwargs",
    "seed",
    "max_tokens",
)
"""Fields that a server may not support. If it refuses one by name, the question is sent again without that field."""
TOP_LOGPROBS = 20
"""The most that vLLM and OpenAI return."""


def messages_of(question: Question) -> list[bytes]:
    """The messages as pieces of JSON, so that megabytes of base64 skip the JSON encoder and are copied only once.

    Raises ImageError for a picture that is no PNG, JPEG or WebP file.
    """
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
                binascii.b2a_base64(part.data, newline=False),
                b'"}}',
            ]
        else:
            pieces.append(_text(part))
    pieces.append(b"]}]")
    return pieces


def _text(words: str) -> bytes:
    return b'{"type":"text","text":%s}' % json.dumps(words).encode()


def _kind(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"png"
    if data.startswith(b"\xff\xd8\xff"):
        return b"jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return b"webp"
    raise ImageError("A picture of the question is no PNG, JPEG or WebP file.")


def body_of(
    model: str, messages: Sequence[bytes], question: Question, unsupported_fields: Container[str] = ()
) -> bytes:
    """The body of a request, without the fields that the server does not support."""
    values: dict[str, Any] = {"model": model, "temperature": question.temperature, "seed": question.seed}
    # reasoning models would otherwise spend the tokens of the answer on their thoughts
    values["chat_template_kwargs"] = {"enable_thinking": False}
    values["max_completion_tokens" if "max_tokens" in unsupported_fields else "max_tokens"] = question.max_tokens
    if question.choices:
        # vLLM's own field yields the bare word, whose first token has the probabilities; other servers get a schema
        if "structured_outputs" not in unsupported_fields:
            values["structured_outputs"] = {"choice": list(question.choices)}
        else:
            values["response_format"] = _format("choice", choice_schema(question.choices))
        values |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if "logprobs" in unsupported_fields:
            del values["top_logprobs"]
    elif question.schema is not None:
        values["response_format"] = _format("answer", question.schema)
    wanted = choice_schema(question.choices) if question.choices else question.schema
    if wanted is not None and "response_format" in unsupported_fields and "structured_outputs" not in values:
        # a server without structured output is told the schema in words
        words = f"Answer with JSON alone, of this schema: {json.dumps(wanted)}"
        messages = [*messages[:-1], b",", _text(words), messages[-1]]
    head = json.dumps({name: value for name, value in values.items() if name not in unsupported_fields})
    return b"".join((head[:-1].encode(), b',"messages":', *messages, b"}"))


def choice_schema(choices: Sequence[str]) -> dict[str, Any]:
    """A schema for one of the choices. It is an object, because some servers allow nothing else at the top level."""
    return object_schema({"answer": {"type": "string", "enum": list(choices)}})


def _format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}


def has_pictures(question: Question) -> bool:
    """Whether a picture is among the parts of the question."""
    return any(isinstance(part, Attachment) for part in question.parts)


def read_reply(reply: Mapping[str, Any], question: Question) -> Answer:
    """The answer in a server's reply, given as parsed JSON."""
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
        return Answer("invalid", text, reason=f"The answer was cut off at {counted(question.max_tokens, 'token')}.")
    if answer.status == "ok" and question.choices:
        return replace(answer, probabilities=choice_probabilities(first.get("logprobs"), question.choices))
    return answer


def choice_probabilities(logprobs: Any, choices: Sequence[str]) -> dict[str, float] | None:
    """Probabilities of the choices, normalised, from the log-probabilities of the first token that tells them apart.

    logprobs: as in a chat completion, or None. Returns None where the server gives none, or where the token begins
    several choices.
    """
    try:
        tokens = [(str(entry["token"]), entry["top_logprobs"]) for entry in logprobs["content"]]
        written = ""
        for token, top in tokens:
            # under a schema, JSON syntax (a brace, the name, a quote) comes before the word
            if _bare(written + token):
                # one token alone tells no probability of the other choices
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
    """The letters of the word written so far, without the JSON syntax around them."""
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
