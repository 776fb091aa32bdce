"""A real `transformers serve` process on loopback with a tiny Qwen2.5-VL: the true protocol, pictures included.

Of transformers 5.23: `response_format` and `logprobs` are taken and ignored, unknown fields are refused with 422, and
the folder of a Qwen-VL needs torchvision for videos, even to answer a text. So the tiny folder names a processor
without videos, and a test shows what comes of a stock one.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_vlm import plain_picture, png, save_tiny_vlm, teach, tiny_vlm

from tagmoe.errors import UsageError
from tagmoe.recipes.full_path.serve_model import start
from tagmoe.vlm.local import LocalVLM
from tagmoe.vlm.question import Answer, Attachment, Question
from tagmoe.vlm.servers import ChatServers

pytestmark = pytest.mark.slow

COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["white", "black"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
WHITE, BLACK = (
    Question(("What colour?", Attachment(plain_picture(colour))), schema=COLOUR) for colour in ("white", "black")
)
DAY = Question(("Is it day?",), choices=("yes", "no"))
LESSONS = [(WHITE, '{"colour": "white"}'), (BLACK, '{"colour": "black"}'), (DAY, "yes")]
# near enough to uniform that the random part of the model writes anything at all
GARBAGE = Question(("Describe it.", Attachment(png(60, 40))), schema=COLOUR, temperature=50.0, seed=1)


class Serving:
    """The process, and the folders that it serves."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url

    def ask(self, *questions: Question, model: str | None = None, attempts: int = 2) -> list[Answer]:
        """Answers of the server, asked for together."""

        async def main() -> list[Answer]:
            servers = ChatServers(
                [self.url], model or str(self.root / "tiny"), key=None, concurrency=4, timeout=120, attempts=attempts
            )
            try:
                await servers.check()
                return list(await asyncio.gather(*map(servers.ask, questions)))
            finally:
                await servers.close()

        return asyncio.run(main())


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("serving")
    vlm = tiny_vlm()
    teach(vlm, LESSONS)
    # what Qwen2.5-VL's own folder says: draw, at the temperature that is asked for
    vlm._model.generation_config.update(do_sample=True, top_k=0)
    save_tiny_vlm(root / "tiny", vlm=vlm, without_videos=True)
    save_tiny_vlm(root / "stock", vlm=vlm)
    with (root / "log").open("w") as output:
        process, url = start(root, output)
    try:
        yield Serving(root, url)
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_text_and_pictures_are_answered(serving: Serving) -> None:
    white, black, day = serving.ask(WHITE, BLACK, DAY)
    assert white == Answer("ok", '{"colour": "white"}', {"colour": "white"}, tokens=white.tokens)
    assert black == Answer("ok", '{"colour": "black"}', {"colour": "black"}, tokens=black.tokens)
    # there are no log-probabilities to be had from this server
    refused = ("asked without structured_outputs, which the server refuses",)
    assert day == Answer("ok", "yes", "yes", tokens=day.tokens, notes=refused)
    # it counts tokens: pictures take some of the question, and a word takes fewer than an object
    assert white.tokens is not None
    assert day.tokens is not None
    assert white.tokens[0] > day.tokens[0] > 0
    assert white.tokens[1] > day.tokens[1] > 0


def test_the_local_backend_of_the_same_folder_says_the_same(serving: Serving) -> None:
    local = LocalVLM.load(serving.root / "tiny")
    answers = [asyncio.run(local.ask(question)) for question in (WHITE, BLACK, DAY)]
    assert [answer.value for answer in answers] == [answer.value for answer in serving.ask(WHITE, BLACK, DAY)]
    # and with free text of a picture that it was not taught, word for word: the same pixels at the same places
    unknown = Question((Attachment(png(90, 60)), "Is it day?"), schema=COLOUR, max_tokens=8)
    loose = Question(unknown.parts, max_tokens=8)
    assert asyncio.run(local.ask(loose)).text == serving.ask(unknown)[0].text != ""
    asyncio.run(local.close())


def test_a_server_that_ignores_the_schema_gives_invalid_answers(serving: Serving) -> None:
    # where the local backend is held to the schema, and so answers
    assert asyncio.run(LocalVLM.load(serving.root / "tiny").ask(GARBAGE)).status == "ok"
    (answer,) = serving.ask(GARBAGE)
    assert answer.status == "invalid"
    assert answer.value is None
    assert answer.text
    assert "JSON" in answer.reason or "schema" in answer.reason


def test_an_answer_that_is_cut_off_is_invalid(serving: Serving) -> None:
    (answer,) = serving.ask(Question(WHITE.parts, schema=COLOUR, max_tokens=3))
    assert (answer.status, answer.reason) == ("invalid", "The answer was cut off at 3 tokens.")


def test_many_at_once(serving: Serving) -> None:
    answers = serving.ask(*([WHITE, BLACK] * 6))
    assert [answer.value["colour"] for answer in answers] == ["white", "black"] * 6


def test_a_picture_that_it_cannot_open_fails_and_the_others_go_on(serving: Serving) -> None:
    whole = plain_picture("white")
    broken = Question(("What colour?", Attachment(whole[: len(whole) // 2])), schema=COLOUR)
    first, second, third = serving.ask(WHITE, broken, BLACK)
    assert (first.status, third.status) == ("ok", "ok")
    assert second.status == "failed"
    assert second.attempts == 2
    assert second.reason.count("\n") == 0
    assert second.reason.startswith(f"The server at {serving.url} answered 500")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="with torchvision it answers")
def test_a_stock_folder_without_torchvision_is_one_sentence(serving: Serving) -> None:
    for question in (DAY, WHITE):
        (answer,) = serving.ask(question, model=str(serving.root / "stock"), attempts=1)
        assert answer == Answer(
            "failed", reason=f"The server at {serving.url} answered 500: Internal Server Error.", attempts=1
        )
    assert "Qwen2VLVideoProcessor requires the Torchvision library" in (serving.root / "log").read_text()


def test_no_server_and_no_model(serving: Serving) -> None:
    (answer,) = serving.ask(DAY, model=str(serving.root), attempts=1)
    assert answer.status == "failed"

    async def nobody() -> Any:
        servers = ChatServers(["http://127.0.0.1:9/v1"], "tiny", key=None, concurrency=1, timeout=5, attempts=1)
        try:
            return await servers.check()
        finally:
            await servers.close()

    with pytest.raises(UsageError, match="No server answers at"):
        asyncio.run(nobody())
