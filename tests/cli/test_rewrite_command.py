"""`tagmoe rewrite` and --rewrite: better words where they can be had, the user's own in all other cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.fault_server import Server, fault_server
from support.scripted_vlm import reply

from tagmoe.cli import rewriting
from tagmoe.recipes.full_path.tiny_vlm import TEMPLATE
from tagmoe.rewrite import prompt as rewrite_prompt
from tagmoe.rewrite.rewriter import InstructionRewriter
from tagmoe.vlm.local import LocalVLM
from tagmoe.world import Face, Item, Scene, render

RAW = "make the circle blue"
GOOD = "change the colour of the circle to blue"
NOBODY = "http://127.0.0.1:9/v1"
KEY = "sk-not-to-be-seen-anywhere"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("TAGMOE_VLM_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A star, a person and a circle."""
    path = tmp_path / "scene.png"
    cells = (Item("star", "red"), Face("tan", "black"), Item("circle", "blue"), None)
    Image.fromarray(render(Scene(cells))).save(path)
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One fault server for all tests; each sets its rules."""
    with fault_server(key=KEY) as started:
        yield started


def says(server: Server, *rules: Any, **settings: Any) -> None:
    server.clear()
    server.set(rules=list(rules), **settings)


@pytest.fixture(scope="module")
def chat_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with what makes its text encoder a chat model: a template, and room for a question."""
    folder = tmp_path_factory.mktemp("models") / "chat"
    shutil.copytree(model, folder)
    for file, change in (
        (folder / "tokenizer" / "tokenizer_config.json", lambda data: data | {"chat_template": TEMPLATE}),
        (
            folder / "text_encoder" / "config.json",
            lambda data: data | {"text_config": data["text_config"] | {"max_position_embeddings": 1 << 15}},
        ),
    ):
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
    return folder


# tagmoe rewrite -------------------------------------------------------------------------------------------------


def test_tagworlds_grammar_is_the_default_of_its_model(tagmoe: Any, scene: Path) -> None:
    done = tagmoe("rewrite", scene, "-p", "sunglasses")
    assert done.code == 0
    assert done.out == "make the person wear sunglasses\n"
    assert "- sunglasses\n+ make the person wear sunglasses" in done.err
    assert "task: Scope: local editing" in done.err


@pytest.mark.slow
def test_words_without_meaning_come_back(tagmoe: Any, scene: Path) -> None:
    done = tagmoe("rewrite", scene, "-p", "do something nice", "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert (data["text"], data["status"]) == ("do something nice", "fallback")
    assert len(done.err.splitlines()) == 1


def test_none_asks_nobody(tagmoe: Any) -> None:
    done = tagmoe("rewrite", "-p", RAW, "--backend", "none")
    assert (done.code, done.out) == (0, f"{RAW}\n")


def test_a_server_rewrites_and_is_asked_once(
    tagmoe: Any, server: Server, scene: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGMOE_VLM_KEY", KEY)
    says(server, {"content": reply(GOOD, kept_constraints=["the circle"])})
    command = ("rewrite", scene, "-p", RAW, "--backend", server.url, "--vlm-model", "tiny-vlm", "--json")
    first, second = tagmoe(*command), tagmoe(*command)
    data = json.loads(first.out)
    assert (data["text"], data["status"], data["model"], data["attempts"]) == (GOOD, "ok", "tiny-vlm", 1)
    assert json.loads(second.out)["cached"]
    counts = server.counts()
    assert (counts["requests"], counts["images"], counts["schemas"]) == (1, 1, 1)
    kept = "".join(file.read_text() for file in cache.rglob("*.json"))
    assert GOOD in kept
    for text in (first.out, first.err, second.out, second.err, kept):
        assert KEY not in text
    tagmoe(*command, "--no-rewrite-cache")
    assert server.counts()["requests"] == 2


FAULTS = ("400", "413", "429", "500", "reset", "half_body", "not_json", "half_json", "wrong_schema", "truncated")
MORE_FAULTS = ("empty", "refusal", "content_filter")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("fault", [*FAULTS, *MORE_FAULTS])
def test_every_fault_of_a_server_ends_in_the_raw_words(
    tagmoe: Any, server: Server, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("TAGMOE_VLM_KEY", KEY)
    says(server, {"fault": fault})
    done = tagmoe("rewrite", "-p", RAW, "--backend", server.url, "--vlm-model", "tiny-vlm", "--json")
    data = json.loads(done.out)
    assert (done.code, data["text"], data["status"]) == (0, RAW, "fallback")
    assert data["reason"]
    assert len(done.err.splitlines()) == 1
    assert 1 <= server.counts()["requests"] <= 3
    assert KEY not in done.out + done.err


@pytest.mark.slow
def test_a_hang_ends_at_the_limit(tagmoe: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMOE_VLM_KEY", KEY)
    says(server, {"fault": "hang"})
    command = ("rewrite", "-p", RAW, "--backend", server.url, "--vlm-model", "tiny-vlm", "--json")
    data = json.loads(tagmoe(*command, "--rewrite-timeout", 1).out)
    assert (data["text"], data["status"]) == (RAW, "fallback")
    assert 0.9 < data["seconds"] < 5


def test_a_fenced_answer_is_read(tagmoe: Any, server: Server, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMOE_VLM_KEY", KEY)
    says(server, {"content": f"```json\n{json.dumps(reply(GOOD))}\n```"})
    done = tagmoe("rewrite", scene, "-p", RAW, "--backend", server.url, "--vlm-model", "tiny-vlm")
    assert done.out == f"{GOOD}\n"


@pytest.mark.slow
def test_a_wrong_key_and_no_server_are_said_in_one_line(tagmoe: Any, server: Server) -> None:
    says(server, {"content": reply(GOOD)})
    for url, part in ((server.url, "401"), (NOBODY, "No server answers")):
        done = tagmoe("rewrite", "-p", RAW, "--backend", url, "--vlm-model", "tiny-vlm")
        assert (done.code, done.out) == (0, f"{RAW}\n")
        assert len(done.err.splitlines()) == 1
        assert part in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--backend", "ftp://x"), 2, "'ftp://x'"),
        (("--backend", "http://me:secret@127.0.0.1/v1", "--vlm-model", "m"), 2, "TAGMOE_VLM_KEY"),
        (("--backend", NOBODY), 2, "--vlm-model"),
        (("-p", "  "), 2, "empty"),
        (("no-such.png",), 2, "no-such.png"),
        (("--model", "no-such-model"), 3, "no-such-model"),
    ],
)
def test_bad_input(tagmoe: Any, arguments: tuple[str, ...], code: int, part: str) -> None:
    done = tagmoe("rewrite", *(() if "-p" in arguments else ("-p", RAW)), *arguments)
    done.refused(code, part)
    assert "secret" not in done.err


@pytest.mark.parametrize("backend", ["self", NOBODY])
def test_without_the_extra_the_install_line_is_said(tagmoe: Any, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    tagmoe("rewrite", "-p", RAW, "--backend", backend, "--vlm-model", "m").refused(3, "pip install 'tagmoe[vlm]'")


# self -----------------------------------------------------------------------------------------------------------


def test_a_text_encoder_without_a_chat_template_is_said(tagmoe: Any, model: Path) -> None:
    done = tagmoe("rewrite", "-p", RAW, "--backend", "self", "--model", model)
    assert (done.code, done.out) == (0, f"{RAW}\n")
    assert "no chat template" in done.err


@pytest.mark.slow
def test_the_text_encoder_of_the_model_is_asked_and_its_random_words_are_held_to_the_checks(
    tagmoe: Any, chat_model: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights under a grammar answer JSON of the schema; what they write are no words that TagWorld knows."""
    monkeypatch.setattr(rewrite_prompt, "MAX_TOKENS", 60)
    done = tagmoe("rewrite", scene, "-p", RAW, "--backend", "self", "--model", chat_model, "--json")
    data = json.loads(done.out)
    assert data["text"] == RAW
    assert data["status"] in ("fallback", "unchanged")
    assert data["model"] == "chat"
    assert 1 <= data["attempts"] <= 3
    assert "no chat template" not in data["reason"]


# tagmoe edit --rewrite ------------------------------------------------------------------------------------------


def edit(tagmoe: Any, model: Path, scene: Path, out: Path, *arguments: Any, prompt: str = RAW) -> tuple[Any, Any]:
    """(outcome, metadata) of an edit."""
    done = tagmoe("edit", scene, "-p", prompt, "-o", out, "--model", model, "--seed", 1, "--json", *arguments)
    assert done.code == 0, done.err
    with Image.open(out) as picture:
        return done, dict(picture.text)  # type: ignore[attr-defined]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.slow
def test_an_edit_shows_what_was_said_and_what_was_drawn(tagmoe: Any, model: Path, scene: Path, tmp_path: Path) -> None:
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png", "--rewrite", "tagworld", prompt="ball purple")
    data = json.loads(done.out)
    full = "make the circle purple"
    assert data["prompt"] == metadata["prompt"] == full
    assert data["rewriting"]["raw"] == metadata["raw_prompt"] == "ball purple"
    assert data["rewriting"]["status"] == metadata["rewrite"] == "ok"
    assert metadata["rewrite_model"] == "TagWorld grammar"
    assert full in done.err
    edit(tagmoe, model, scene, tmp_path / "same.png", prompt=full)
    assert (pixels(tmp_path / "o.png") == pixels(tmp_path / "same.png")).all()


@pytest.mark.slow
def test_auto_rewrites_other_words_than_those_of_the_grammar(
    tagmoe: Any, model: Path, scene: Path, tmp_path: Path
) -> None:
    """The default for a model of TagWorld: said in the output, and off by name."""
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png", prompt="could you put shades on him?")
    assert metadata["prompt"] == "make the person wear sunglasses"
    assert metadata["raw_prompt"] == "could you put shades on him?"
    assert "rewritten by TagWorld grammar" in done.err
    out = tmp_path / "raw.png"
    refused = tagmoe("edit", scene, "-p", "shades on him", "-o", out, "--model", model, "--rewrite", "none")
    refused.refused(2, "'shades'", "'make the circle red'", "'take off the hat'")


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("make the dragon red", "no 'dragon' in TagWorld"),
        ("make the heart tiny", "the picture shows no heart"),
        ("turn the circle into a frog", "no 'frog' in TagWorld"),
    ],
)
def test_auto_says_why_it_cannot_and_what_the_model_can(
    tagmoe: Any, model: Path, scene: Path, tmp_path: Path, prompt: str, reason: str
) -> None:
    refused = tagmoe("edit", scene, "-p", prompt, "-o", tmp_path / "o.png", "--model", model)
    refused.refused(2, reason, "'make the circle red'", "'take off the hat'")
    assert "heart'?" not in refused.err


@pytest.mark.slow
def test_without_a_rewriter_nothing_is_said_of_one(tagmoe: Any, model: Path, scene: Path, tmp_path: Path) -> None:
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png")
    assert "rewrit" not in done.err
    assert {*json.loads(done.out)}.isdisjoint({"rewriting", "raw_prompt"})
    drawn = {"Software", "prompt", "seed", "steps", "cfg", "model", "size", "sources", "version"}
    assert {*metadata} == drawn


@pytest.mark.slow
def test_a_servers_words_are_drawn(
    tagmoe: Any, model: Path, scene: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGMOE_VLM_KEY", KEY)
    says(server, {"content": reply(GOOD)})
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png", "--rewrite", server.url, "--vlm-model", "tiny-vlm")
    assert (metadata["prompt"], metadata["raw_prompt"], metadata["rewrite_model"]) == (GOOD, RAW, "tiny-vlm")
    assert KEY not in done.out + done.err + json.dumps(metadata)


@pytest.mark.slow
def test_words_that_the_model_does_not_know_are_not_drawn(
    tagmoe: Any, model: Path, scene: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGMOE_VLM_KEY", KEY)
    says(server, {"content": reply("turn the circle into deep azure velvet")})
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png", "--rewrite", server.url, "--vlm-model", "tiny-vlm")
    assert (metadata["prompt"], metadata["rewrite"]) == (RAW, "fallback")
    assert "azure" in json.loads(done.out)["rewriting"]["reason"]
    assert server.counts()["requests"] == 3


@pytest.mark.slow
def test_no_server_costs_one_line_and_changes_no_pixel(tagmoe: Any, model: Path, scene: Path, tmp_path: Path) -> None:
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png", "--rewrite", NOBODY, "--vlm-model", "m")
    assert metadata["rewrite"] == "fallback"
    assert sum("not rewritten" in line for line in done.err.splitlines()) == 1
    edit(tagmoe, model, scene, tmp_path / "plain.png")
    assert (pixels(tmp_path / "o.png") == pixels(tmp_path / "plain.png")).all()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60, 0.3])
def test_self_uses_the_model_that_is_loaded_and_leaves_it_as_it_was(
    tagmoe: Any, chat_model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Also where the limit ends the writing in its midst."""
    monkeypatch.setattr(rewrite_prompt, "MAX_TOKENS", 12)
    options = ("--rewrite", "self", "--rewrite-timeout", seconds)
    done, metadata = edit(tagmoe, chat_model, scene, tmp_path / "o.png", *options)
    assert metadata["prompt"] == RAW
    assert metadata["rewrite"] in ("fallback", "unchanged")
    assert "no chat template" not in done.err
    edit(tagmoe, chat_model, scene, tmp_path / "plain.png")
    assert (pixels(tmp_path / "o.png") == pixels(tmp_path / "plain.png")).all()


def test_self_is_the_pipelines_own_text_encoder_and_no_copy(tiny_pipeline: Any) -> None:
    weights = {id(weight) for weight in tiny_pipeline.text_encoder.parameters()}
    rewriter = rewriting.make_rewriter(
        "self", parts=lambda: (tiny_pipeline.text_encoder, tiny_pipeline.tokenizer), name="tiny"
    )
    assert isinstance(rewriter, InstructionRewriter)
    assert isinstance(rewriter.vlm, LocalVLM)
    assert rewriter.vlm._model is tiny_pipeline.text_encoder
    assert {id(weight) for weight in rewriter.vlm._model.parameters()} == weights
    rewriter.close()


def test_a_model_that_cannot_be_asked_at_all_is_no_reason_not_to_draw(
    tagmoe: Any, model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagmoe.errors import UsageError

    def refuse(*_: Any) -> Any:
        raise UsageError("A CLIPTextModel writes no text.")

    monkeypatch.setattr(rewriting, "_self", refuse)
    done, metadata = edit(tagmoe, model, scene, tmp_path / "o.png", "--rewrite", "self")
    assert metadata["rewrite"] == "fallback"
    assert "writes no text" in done.err


@pytest.mark.slow
def test_generate_has_it_too(tagmoe: Any, model: Path, tmp_path: Path) -> None:
    done = tagmoe(
        "generate",
        "-p",
        "red star top left",
        "-o",
        tmp_path / "g.png",
        "--model",
        model,
        "--rewrite",
        "tagworld",
        "--json",
    )
    assert json.loads(done.out)["prompt"] == "draw a red star at the top left"


@pytest.mark.slow
def test_a_bad_backend_is_refused_before_anything_is_loaded(tagmoe: Any, scene: Path, tmp_path: Path) -> None:
    command = ("edit", scene, "-p", RAW, "-o", tmp_path / "o.png")
    tagmoe(*command, "--rewrite", "gpt").refused(2, "'gpt'")
    tagmoe(*command, "--rewrite", NOBODY).refused(2, "--vlm-model")
    assert not (tmp_path / "o.png").exists()
