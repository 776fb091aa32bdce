"""Why a request is not answered with pictures, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

INVALID = "invalid_request_error"
"""The type of every error that the client can mend."""


class Refusal(Exception):
    """An answer that holds no picture: a status, one sentence, the field it is about, and a code for programs.

    param: the field that is wrong; None where it is none. headers: further headers of the answer.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        kind: str = INVALID,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.kind, self.code = status, param, kind, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON of the answer: all four keys are always there, as clients expect."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def busy(seconds: int) -> Refusal:
    """The answer of a full queue. seconds: when to ask again."""
    return Refusal(
        f"The queue is full; ask again in {seconds} s.",
        status=429,
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def late() -> Refusal:
    """The answer where the time limit of a request is over. Asking again at once would only add to the load."""
    return Refusal(
        "The request took longer than this server allows; ask for fewer pictures or steps.",
        status=504,
        kind="timeout_error",
        code="timeout",
        headers={"x-should-retry": "false"},
    )
