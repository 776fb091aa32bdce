"""Who is asked: servers that are checked first, or the model of a folder; each mistake one sentence."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fault_server import fault_server

from tagmoe.cli.vlm_options import need_vlm_extra, open_vlm
from tagmoe.errors import MissingError, UsageError
from tagmoe.vlm.question import Question

LIMITS: dict[str, Any] = {"concurrency": 4, "timeout": 5.0}


@pytest.mark.slow
def test_servers_are_checked_and_then_asked_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_server(key="the-key") as server:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.setenv("TAGMOE_VLM_KEY", "another")
        with pytest.raises(UsageError, match="TAGMOE_VLM_KEY") as caught:
            open_vlm([server.url], "tiny-vlm", **LIMITS)
        assert "another" not in str(caught.value)
        monkeypatch.setenv("TAGMOE_VLM_KEY", "the-key")
        with pytest.raises(UsageError, match="it has tiny-vlm"):
            open_vlm([server.url], "large-vlm", **LIMITS)
        vlm = open_vlm([server.url], "tiny-vlm", **LIMITS)
        assert vlm.model == "tiny-vlm"
        assert server.counts()["requests"] == 0

        async def ask() -> str:
            try:
                return (await vlm.ask(Question(("?",)))).status
            finally:
                await vlm.close()

        assert asyncio.run(ask()) == "ok"


def test_who_cannot_be_asked_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    for endpoints, model, said in (
        ([], "m", "--endpoint URL"),
        ([url], "m", f"No server answers at {url}"),
        ([url], None, "not named"),
        (["127.0.0.1:8000"], "m", "neither a URL"),
        ([str(tmp_path / "none")], None, "neither a URL"),
        ([str(tmp_path), url], "m", "one folder, or servers only"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            open_vlm(endpoints, model, **LIMITS)
        assert "\n" not in str(caught.value)


def test_without_the_extra_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need_vlm_extra()
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None if name == "jsonschema" else object())
    with pytest.raises(MissingError, match=r"jsonschema, which is not installed; run: pip install 'tagmoe\[vlm\]'"):
        open_vlm(["http://127.0.0.1:1/v1"], "m", **LIMITS)


def test_the_options_import_no_client() -> None:
    code = "import sys, tagmoe.cli.vlm_options; print({'aiohttp', 'jsonschema', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
