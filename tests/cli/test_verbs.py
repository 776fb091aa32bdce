"""The table of verbs says what their functions say, and none is imported before it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import tagmoe
from tagmoe.cli import app
from tagmoe.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]


def module(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m tagmoe` with these words."""
    command = [sys.executable, "-m", "tagmoe", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_the_table_holds_the_first_sentence_of_every_verb() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    firsts = {
        name: " ".join(command.help.split("\n\n")[0].split("Example:")[0].split()) for name, command in commands.items()
    }
    assert firsts == {name: verb.about for name, verb in VERBS.items()}
    assert [command.name for command in commands.values()] == list(VERBS)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("words", "verbs"), [(["--help"], set()), ([], set()), (["-V"], set()), (["info", "tags"], {"info"})]
)
def test_only_the_verb_that_is_called_is_imported(words: list[str], verbs: set[str]) -> None:
    code = (
        "import sys; from tagmoe.cli import run; code = run(sys.argv[1:]); "
        "print(*(name[11:] for name in sys.modules if name.startswith('tagmoe.cli.')), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert {verb.module for verb in VERBS.values()} & set(done.stderr.split()) == verbs


def test_help_of_groups_shows_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    from tagmoe.cli import run

    for words in (["--help"], ["data", "--help"], ["routing"], ["ablation"]):
        assert run(words) == 0
        shown = capsys.readouterr().out
        assert "Commands:" in shown
        assert "..." not in shown.split("Commands:")[1]


@pytest.mark.slow
def test_the_module_is_the_command() -> None:
    done = module("-V")
    assert (done.returncode, done.stdout) == (0, f"{tagmoe.__version__}\n")
    assert module("--version").stdout == done.stdout
    refused = module("trian")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Did you mean 'train'?" in refused.stderr


@pytest.mark.slow
def test_the_shell_completes_verbs_and_options(tmp_path: Path) -> None:
    asked = {"_TAGMOE_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert module(**asked, COMP_WORDS="tagmoe tr").stdout.split() == ["train"]
    assert "--list" in module(**asked | {"COMP_CWORD": "2"}, COMP_WORDS="tagmoe train --").stdout.split()
    assert module(**asked | {"COMP_CWORD": "2"}, COMP_WORDS="tagmoe data e").stdout.split() == ["export", "encode"]
    # as typer's own tests do: a shell that is named, as CI runs under none
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = module("--show-completion", "bash", **named)
    assert shown.returncode == 0
    assert "complete_bash" in shown.stdout
    written = module("--install-completion", "bash", HOME=str(tmp_path), SHELL="/bin/bash", **named)
    assert written.returncode == 0, written.stderr
    assert (tmp_path / ".bash_completions" / "tagmoe.sh").is_file()
