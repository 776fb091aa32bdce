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
from tagmoe.vlm.answers import answer_of, of_reasoning
from tagmoe.vlm.question import Answer, Attachment, Question, object_schema

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


def fields_of(model: str, question: Question, unsupported_fields: Container[str] = ()) -> dict[str, Any]:
    """All fields of a request but its messages, without those that the server does not support."""
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
    return {name: value for name, value in values.items() if name not in unsupported_fields}


def body_of(fields: Mapping[str, Any], messages: Sequence[bytes], question: Question) -> bytes:
    """The body of a request with these fields. A schema that none of them holds is told in words."""
    wanted = choice_schema(question.choices) if question.choices else question.schema
    if wanted is not None and "response_format" not in fields and "structured_outputs" not in fields:
        words = f"Answer with JSON alone, of this schema: {json.dumps(wanted)}"
        messages = [*messages[:-1], b",", _text(words), messages[-1]]
    head = json.dumps(dict(fields))
    return b"".join((head[:-1].encode(), b',"messages":', *messages, b"}"))


def choice_schema(choices: Sequence[str]) -> dict[str, Any]:
    """A schema for one of the choices. It is an object, because some servers allow nothing else at the top level."""
    return object_schema({"answer": {"type": "string", "enum": list(choices)}})


def _format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}


def has_pictures(question: Question) -> bool:
    """Whether a picture is among the parts of the question."""
    return any(isinstance(part, Attachment) for part in question.parts)


def completion_of(data: bytes) -> dict[str, Any] | None:
    """The chat completion in the body of a reply; None if there is none with a message."""
    try:
        reply = json.loads(data)
        message = reply["choices"][0]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return reply if isinstance(message, Mapping) else None


def status_inside(data: bytes) -> int:
    """The status of an error that came with the status 200: its code, 502 if it has none; 200 if it is no error."""
    try:
        error = json.loads(data)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return 200
    codes = [error.get("code"), error.get("status")] if isinstance(error, Mapping) else []
    return next((code for code in codes if isinstance(code, int) and 400 <= code < 600), 502)


def read_reply(reply: Mapping[str, Any], question: Question) -> Answer:
    """The answer in a server's reply, given as parsed JSON.

    Servers put an answer into the content, into a tool call or, with a parser of another model, into the reasoning.
    """
    first = reply["choices"][0]
    message, finish = first["message"], first.get("finish_reason")
    content = _words(message.get("content"))
    if message.get("refusal"):
        return Answer(
            "refused",
            content or str(message["refusal"]),
            reason=f"The model refused: {str(message['refusal'])[:200]}",
        )
    if finish == "content_filter":
        return Answer("refused", content, reason="The server's content filter stopped the answer.")
    answer = replace(_first_answer(content, message, question), tokens=_tokens(reply.get("usage")))
    if finish == "length" and not (question.choices and answer.status == "ok"):
        limit = counted(question.max_tokens, "token")
        reason = f"The answer was cut off at {limit}."
        return Answer("invalid", answer.text, reason=reason, tokens=answer.tokens)
    if answer.status == "ok" and question.choices:
        return replace(answer, probabilities=choice_probabilities(first.get("logprobs"), question.choices))
    return answer


def _tokens(usage: Any) -> tuple[int, int] | None:
    """Tokens of the question and of the answer, as a server counts them."""
    if not isinstance(usage, Mapping):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    whole = [count for count in counts if isinstance(count, int) and 0 <= count < 1 << 40]
    return (whole[0], whole[1]) if len(whole) == 2 else None


def _first_answer(content: str, message: Mapping[str, Any], question: Question) -> Answer:
    """The first answer that fits: of the content, of a tool call, of the reasoning where nothing else was said."""
    answers = [answer_of(content, question)] if content.strip() else []
    if question.schema is not None or question.choices:
        answers += [answer_of(text, question) for text in _tool_arguments(message)]
    reasoning = _words(message.get("reasoning_content")) or _words(message.get("reasoning"))
    if not answers and reasoning:
        answers = [of_reasoning(reasoning, question)]
    fitting = (answer for answer in answers if answer.status == "ok")
    return next(fitting, answers[0] if answers else answer_of("", question))


def _words(content: Any) -> str:
    """The text of a message's content: a text, parts of which some are text, or an answer as a JSON object."""
    if isinstance(content, list):
        parts = (part for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str))
        return "".join(part["text"] for part in parts if part.get("type") not in ("thinking", "reasoning"))
    if isinstance(content, Mapping):
        return json.dumps(content)
    return content if isinstance(content, str) else ""


def _tool_arguments(message: Mapping[str, Any]) -> list[str]:
    """The arguments of the functions that a message calls, as JSON text."""
    calls = [message.get("function_call")]
    for call in message.get("tool_calls") or ():
        calls.append(call.get("function") if isinstance(call, Mapping) else None)
    given = [call.get("arguments") for call in calls if isinstance(call, Mapping)]
    return [text for text in map(_words, given) if text.strip()]


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
