"""The same words in another spelling are the same prompt, for a model of a small vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tagmoe.pipeline.arguments import normal_spelling
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.world import TASKS, sample

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "capitals": str.upper,
    "title case": str.title,
    "a sentence": lambda text: text.capitalize() + ".",
    "shouted": lambda text: text.upper() + " !!",
    "double blanks": lambda text: text.replace(" ", "  "),
    "newlines": lambda text: text.replace(" ", "\n", 2) + "\n",
    "tabs around": lambda text: f"\t {text}\r\n",
    "no-break blanks": lambda text: text.replace(" ", "\xa0"),
    "wide letters": lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in text),
}


@pytest.fixture(scope="module")
def pipe() -> TagMoEPipeline:
    return TagMoEPipeline.from_pretrained(packaged_folder())


@pytest.mark.parametrize(
    ("spelling", "every"),
    [("shouted", 6), ("no-break blanks", 12), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in SPELLINGS)],
)
def test_every_spelling_of_an_instruction_is_encoded_alike(pipe: TagMoEPipeline, spelling: str, every: int) -> None:
    for number, task in list(enumerate(TASKS))[::every]:
        instruction = sample(424_242, number, task=task).instruction
        wanted, found = (pipe.encode_prompt(text) for text in (instruction, SPELLINGS[spelling](instruction)))
        assert torch.equal(wanted[0], found[0])
        assert torch.equal(wanted[1], found[1])


@pytest.mark.slow
def test_training_texts_are_spelled_so_already() -> None:
    """So that nothing changes for them, and models from before the normalisation stay what they are."""
    for index in range(2000):
        instruction = sample(7, index).instruction
        assert normal_spelling(instruction) == instruction
    assert normal_spelling(" ") == " "


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('Write "Hello,  World!" on it.', 'write "Hello,  World!" on it'),
        ("Write \u201cFlat WHITE\u201d Here", "write \u201cFlat WHITE\u201d here"),
        ("MAKE IT RED?!", "make it red"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_quoted_text_stays(text: str, wanted: str) -> None:
    assert normal_spelling(text) == wanted
    assert normal_spelling(wanted) == wanted
