"""Parts of sentences: a value is cut wherever it stands, and a count has its noun."""

from __future__ import annotations

import pytest

from tagmoe.errors import MissingError, TagMoEError, UsageError
from tagmoe.sentences import LIMIT, LONGEST, counted, cut, cut_values, reason_of


@pytest.mark.slow_but_first
@pytest.mark.parametrize("value", [text * 10**5 for text in ("x", "a b ", "it's ", "\\", "\n", '"')])
def test_every_error_cuts_its_values(value: str) -> None:
    message = str(UsageError(f"The model's option 'first/' is {value!r}, but the user's 'other' is {value}; give one."))
    assert len(message) <= LONGEST
    assert message.startswith("The model's option 'first/' is ")
    assert len(str(UsageError(f"The option is {value!r}; give another."))) < LIMIT + 50


def test_what_is_short_stays() -> None:
    sentence = "The setting 'a/' is 'b', it's the model's own and was typed 'x y z' before " + "word " * 50 + "'end'."
    assert cut_values(sentence) == sentence
    assert str(TagMoEError("")) == ""
    assert str(MissingError(str(UsageError("y" * 999)))) == str(UsageError("y" * 999))


def test_the_end_of_a_path_is_kept() -> None:
    path = "/folder" * 50 + "/diffusion_pytorch_model-00002-of-00003.safetensors"
    assert cut(path).endswith("/diffusion_pytorch_model-00002-of-00003.safetensors")
    assert len(cut(path)) == LIMIT


def test_counts() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 2000)] == ["0 steps", "1 step", "2 steps", "2,000 steps"]
    assert counted([3], "entry", "entries") == "1 entry"
    assert counted([3, 4], "entry", "entries") == "2 entries"


def test_reasons_are_one_line() -> None:
    assert reason_of(OSError(28, "No space left on device")) == "No space left on device"
    assert reason_of(ValueError("a\nb.")) == "a b"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")) == "it is no text in UTF-8"
    assert len(reason_of(ValueError("x " * 10**6))) <= 2 * LIMIT
