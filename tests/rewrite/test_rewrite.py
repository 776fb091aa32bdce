"""Rewriting: whatever a model says or does, the result is a usable instruction within the limit."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.scripted_vlm import ScriptedVLM, reply, texts

from tagmoe.errors import UsageError
from tagmoe.rewrite.cache import RewriteCache, default_folder
from tagmoe.rewrite.checks import problems
from tagmoe.rewrite.rewriter import InstructionRewriter, Rewriting, attachment_of
from tagmoe.tags import TAG_NAMES, TaskDescriptor
from tagmoe.vlm.question import Answer

RAW = 'make the sign of shop 12 say "Open"'
GOOD = 'Change the text on the sign of shop 12 to "Open"; the rest of the street stays as it is.'
PICTURE = Image.new("RGB", (8, 6), "red")


def rewriter(vlm: Any, **options: Any) -> InstructionRewriter:
    return InstructionRewriter(vlm, **({"seconds": 5} | options))


def rewrite(vlm: Any, raw: str = RAW, images: tuple[Image.Image, ...] = (PICTURE,), **options: Any) -> Rewriting:
    return asyncio.run(rewriter(vlm, **options).rewrite(raw, images))


def test_a_good_answer_is_used() -> None:
    vlm = ScriptedVLM(reply(GOOD, kept_constraints=['"Open"'], language="English"))
    result = rewrite(vlm)
    assert (result.text, result.raw, result.status, result.reason) == (GOOD, RAW, "ok", "")
    assert (result.attempts, result.model, result.cached) == (1, "scripted", False)
    assert result.task_guess == TaskDescriptor(("local editing",), ("object editing",), ("style preservation",))
    assert json.loads(json.dumps(result.as_json()))["kept_constraints"] == ['"Open"']


def test_the_question_holds_the_rules_for_the_tags_and_numbers_the_pictures() -> None:
    vlm = ScriptedVLM(reply(GOOD))
    rewrite(vlm, images=(PICTURE, PICTURE))
    (question,) = vlm.questions
    assert all(name in question.system for name in TAG_NAMES)
    assert [part if isinstance(part, str) else None for part in question.parts[:4]] == [
        "Picture 1:",
        None,
        "Picture 2:",
        None,
    ]
    assert RAW in question.parts[-1]
    assert question.schema is not None
    assert set(question.schema["required"]) == set(reply(""))
    assert question.temperature == 0


def test_a_picture_from_text_has_rules_of_its_own() -> None:
    vlm = ScriptedVLM(reply(GOOD))
    rewrite(vlm, images=())
    (question,) = vlm.questions
    assert "from nothing" in question.system
    assert question.schema is not None
    assert question.schema["properties"]["task_guess"]["properties"]["scope"] == {"enum": ["image generation"]}


@pytest.mark.parametrize("answer", [reply("something 12 'Open'", changed=False), reply(f"  {RAW} ")])
def test_a_clear_instruction_is_left_as_it_is(answer: dict[str, Any]) -> None:
    result = rewrite(ScriptedVLM(answer))
    assert (result.text, result.status, result.attempts) == (RAW, "unchanged", 1)


HOSTILE = {
    "empty": reply(""),
    "blank": reply(" \n"),
    "fences": reply(f"```\n{GOOD}\n```"),
    "another language": reply('Schreibe auf das Schild des Ladens 12 den Text "Open" und lass das Bild.'),
    "another script": reply('\u628a12\u53f7\u5546\u5e97\u7684\u62db\u724c\u6539\u6210 "Open"'),
    "dropped quotes": reply("Change the text on the sign of shop 12 to open."),
    "another quoted text": reply('Change the sign of shop 12 from "Closed" to "Open".'),
    "dropped number": reply('Change the text on the sign of the shop to "Open".'),
    "10,000 characters": reply(f"{GOOD} {'very ' * 2000}"),
    "talk": reply(f"Here is the rewritten instruction: {GOOD}"),
    "no object": [GOOD],
    "no text": reply(GOOD) | {"rewritten": 3},
    "no guess": reply(GOOD) | {"task_guess": None},
    "another schema": {"answer": GOOD},
    "nothing": None,
    "invalid": Answer("invalid", text="{", reason="the answer is no JSON"),
    "an apology": reply('I\'m sorry, but I cannot make the sign of shop 12 say "Open".'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_answer_of_no_use_is_asked_again_and_at_last_the_raw_instruction_is_used(name: str) -> None:
    vlm = ScriptedVLM(HOSTILE[name])
    result = rewrite(vlm)
    assert (result.text, result.status, result.attempts) == (RAW, "fallback", 3)
    assert len(vlm.questions) == 3
    assert "no answer of 3 could be used" in result.reason
    assert "\n" not in result.reason


@pytest.mark.parametrize("name", HOSTILE)
def test_the_model_is_told_what_was_wrong_and_may_mend_it(name: str) -> None:
    vlm = ScriptedVLM(HOSTILE[name], reply(GOOD))
    result = rewrite(vlm)
    assert (result.text, result.status, result.attempts) == (GOOD, "ok", 2)
    first, second = vlm.questions
    assert len(texts(second)) == len(texts(first)) + 1
    assert "could not be used" in texts(second)[-1]
    assert len(texts(second)[-1]) < 1500
    assert second.temperature > 0, "a greedy model would say the same again"


@pytest.mark.parametrize(
    "said",
    [
        Answer("refused", reason="the model declined"),
        Answer("failed", reason="nobody listens at 127.0.0.1:9"),
        Answer("failed"),
        UsageError("The key was refused (401)."),
        ConnectionResetError("gone"),
        ValueError("of\ntwo lines"),
    ],
)
def test_a_refusal_or_failure_is_not_asked_again(said: Any) -> None:
    vlm = ScriptedVLM(said)
    result = rewrite(vlm)
    assert (result.text, result.status, result.attempts) == (RAW, "fallback", 1)
    assert len(vlm.questions) == 1
    assert result.reason
    assert "\n" not in result.reason


def test_a_hang_ends_at_the_limit_of_all_attempts_together() -> None:
    started = time.monotonic()
    result = rewrite(ScriptedVLM(reply(""), 3600, reply(GOOD)), seconds=0.2)
    assert time.monotonic() - started < 5
    assert (result.text, result.status, result.attempts) == (RAW, "fallback", 2)
    assert "within 0.2 s" in result.reason


@pytest.mark.slow
def test_a_model_that_holds_the_thread_does_not_hold_the_edit() -> None:
    class Holding(ScriptedVLM):
        async def ask(self, question: Any) -> Answer:
            time.sleep(8)
            return Answer("failed")

    wanted = rewriter(Holding(reply(GOOD)), seconds=0.1)
    started = time.monotonic()
    assert wanted(RAW, [PICTURE]) == RAW
    assert time.monotonic() - started < 6
    assert wanted.results[0].status == "fallback"
    wanted.vlm = ScriptedVLM(reply(GOOD))
    wanted._seconds = 30
    assert wanted(RAW, [PICTURE]) == GOOD, "the next call has a thread of its own"
    wanted.close()


def test_an_interrupt_reaches_whoever_is_asked() -> None:
    stopped = threading.Event()

    class Writing(ScriptedVLM):
        async def ask(self, question: Any) -> Answer:
            try:
                await asyncio.sleep(3600)
            finally:
                stopped.set()
            return Answer("failed")

    wanted = rewriter(Writing(reply(GOOD)), seconds=60)
    # a process that was started in the background of a script ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            wanted(RAW, [PICTURE])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.wait(5)
    wanted.close()


def test_as_a_function_it_works_inside_a_running_loop_and_keeps_its_results() -> None:
    vlm = ScriptedVLM(reply(GOOD))
    wanted = rewriter(vlm)

    async def inside() -> tuple[str, str]:
        return wanted(RAW, [PICTURE]), wanted(RAW, [PICTURE])

    assert asyncio.run(inside()) == (GOOD, GOOD)
    assert [result.status for result in wanted.results] == ["ok", "ok"]
    wanted.close()
    assert vlm.closed


def test_words_that_the_picture_model_refuses_are_no_rewriting() -> None:
    def accepts(text: str) -> None:
        if "street" in text:
            raise UsageError("This model does not know 'street'; use other words.")

    vlm = ScriptedVLM(reply(GOOD))
    result = rewrite(vlm, accepts=accepts, known_words=("sign", "shop"))
    assert (result.text, result.status, result.attempts) == (RAW, "fallback", 3)
    assert "does not know 'street'" in result.reason
    assert "sign shop" in vlm.questions[0].system


def test_a_guess_that_is_no_task_costs_nothing() -> None:
    for guess in ({}, {"scope": "dancing", "types": [], "preservation": []}, {"scope": [1], "types": 3}):
        result = rewrite(ScriptedVLM(reply(GOOD, task_guess=guess)))
        assert (result.status, result.task_guess) == ("ok", None)


@pytest.mark.parametrize(("size", "kind", "shown"), [((64, 64), "PNG", (64, 64)), ((3000, 1500), "JPEG", (1414, 707))])
def test_a_picture_is_shown_under_the_cap_with_its_aspect(
    size: tuple[int, int], kind: str, shown: tuple[int, int]
) -> None:
    attachment = attachment_of(Image.new("RGB", size, "red"), 1_000_000)
    with Image.open(io.BytesIO(attachment.data)) as image:
        assert (image.format, image.size) == (kind, shown)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {
        "rewritten": st.text(max_size=60) | st.sampled_from([GOOD, RAW]) | JSON,
        "task_guess": st.fixed_dictionaries({"scope": JSON, "types": JSON, "preservation": JSON}) | JSON,
        "kept_constraints": st.lists(st.text(max_size=5)) | JSON,
        "language": st.text(max_size=5) | JSON,
        "changed": st.booleans() | JSON,
    }
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(JSON | FIELDS)
def test_any_answer_gives_a_text_that_passes_the_checks_and_a_result_that_is_json(value: Any) -> None:
    result = rewrite(ScriptedVLM(value), images=())
    assert problems(RAW, result.text) == []
    assert result.text == RAW or result.status == "ok"
    assert json.loads(json.dumps(result.as_json()))["text"] == result.text


# The cache ------------------------------------------------------------------------------------------------------


def test_a_kept_answer_asks_nobody(tmp_path: Path) -> None:
    vlm = ScriptedVLM(reply(GOOD))
    first = rewrite(vlm, cache=RewriteCache(tmp_path))
    again = rewrite(vlm, cache=RewriteCache(tmp_path))
    assert len(vlm.questions) == 1
    assert (again.text, again.status, again.cached, again.attempts) == (GOOD, "ok", True, 0)
    assert again.task_guess == first.task_guess


def test_another_picture_text_or_model_is_another_question(tmp_path: Path) -> None:
    vlm = ScriptedVLM(reply(GOOD))
    cache = RewriteCache(tmp_path)
    rewrite(vlm, cache=cache)
    rewrite(vlm, images=(Image.new("RGB", (8, 6), "blue"),), cache=cache)
    rewrite(vlm, raw=f"{RAW}!", cache=cache)
    vlm.model = "another"
    rewrite(vlm, cache=cache)
    assert len(vlm.questions) == 4


def test_a_fallback_is_not_kept(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path)
    assert rewrite(ScriptedVLM(Answer("failed")), cache=cache).status == "fallback"
    assert rewrite(ScriptedVLM(reply(GOOD)), cache=cache).status == "ok"


def entry(folder: Path) -> Path:
    (path,) = folder.glob("*.json")
    return path


@pytest.mark.parametrize("damage", ["cut", "empty", "binary", "other", "edited", "huge", "folder", "deep"])
def test_a_damaged_entry_is_none(tmp_path: Path, damage: str) -> None:
    cache = RewriteCache(tmp_path)
    vlm = ScriptedVLM(reply(GOOD))
    rewrite(vlm, cache=cache)
    path = entry(tmp_path)
    text = path.read_text()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "cut": text[: len(text) // 2].encode(),
                "empty": b"",
                "binary": b"\xff\x00" * 40,
                "other": b"[1]",
                "edited": text.replace("Change", "Remove").encode(),
                "huge": b" " * 100_000 + text.encode(),
                "deep": b"[" * 60_000,
            }[damage]
        )
    result = rewrite(vlm, cache=cache)
    assert (result.text, result.status, result.cached) == (GOOD, "ok", False)
    assert len(vlm.questions) == 2


def test_a_kept_answer_must_pass_the_checks_of_today(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path)
    vlm = ScriptedVLM(reply(GOOD))
    rewrite(vlm, cache=cache)
    path = entry(tmp_path)
    kept = json.loads(path.read_text())
    kept["value"]["rewritten"] = "no sign"
    kept["digest"] = hashlib.sha256(json.dumps(kept["value"], sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(kept))
    assert rewrite(vlm, cache=cache).text == GOOD
    assert len(vlm.questions) == 2


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path, most=10)
    for number in range(10):
        cache.write(str(number), {"n": number})
        time.sleep(0.002)
    assert cache.read("0") == {"n": 0}
    for number in range(10, 40):
        cache.write(str(number), {"n": number})
        time.sleep(0.002)
        assert len(list(tmp_path.glob("*.json"))) <= 10
        cache.read("0")
    assert cache.read("0") == {"n": 0}
    assert cache.read("39") == {"n": 39}
    assert cache.read("1") is None
    assert not list(tmp_path.glob("*.partial"))


def test_the_cache_is_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "rewrite"
    RewriteCache(folder).write("k", {"text": "mine"})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry(folder).stat().st_mode) == 0o600


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert rewrite(ScriptedVLM(reply(GOOD)), cache=RewriteCache(blocked / "cache")).status == "ok"
    RewriteCache(tmp_path / "c").write("k", {"text": "x" * 100_000})
    assert RewriteCache(tmp_path / "c").read("k") is None


def test_the_caches_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "tagmoe" / "rewrite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == Path.home() / ".cache" / "tagmoe" / "rewrite"


def test_rewriting_imports_no_torch() -> None:
    code = "import sys, tagmoe.rewrite.rewriter; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
