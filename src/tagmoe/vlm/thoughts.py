"""What a model wrote, without its thoughts, which models mark in several ways and servers may leave in the text."""

from __future__ import annotations

import re

_NAME = r"(?:think|thinking|thoughts?|reasoning|analysis|reflection|scratchpad)"
_MARKS = (
    (rf"<(?:[a-z]+:)?{_NAME}\b[^<>]*>", rf"</(?:[a-z]+:)?{_NAME}\s*>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"\u25c1think\u25b7", r"\u25c1/think\u25b7"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
)
"""(beginning, end) of thoughts, as most models, Magistral, Kimi-VL and Sky-T1 mark them."""
_PATTERNS = [
    tuple(
        re.compile(pattern, re.DOTALL | re.IGNORECASE)
        for pattern in (rf"{begin}.*?{end}", rf"\A.*{end}", rf"{begin}.*\Z")
    )
    for begin, end in _MARKS
]
_FINAL = re.compile(r"\A.*<\|channel\|>\s*final\b[^<]*<\|message\|>", re.DOTALL)
_CHANNEL = re.compile(r"<\|channel\|>.*\Z", re.DOTALL)
_CONTROL = re.compile(r"<\|(?:start|end|return|message|im_end|eot_id)\|>")


def without_thoughts(text: str) -> str:
    """The text behind, before and between its thoughts; unchanged if it has none.

    Thoughts whose beginning or end is missing reach to the beginning or the end of the text. Of gpt-oss only the
    channel "final" is taken.
    """
    said = text
    if "<|channel|>" in said:
        said = _CONTROL.sub("", _CHANNEL.sub("", _FINAL.sub("", said)))
    for whole, end, beginning in _PATTERNS:
        said = beginning.sub("", end.sub("", whole.sub("", said)))
    return said
