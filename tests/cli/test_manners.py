"""Manners of the command line: options, help, stdout, and what no one meant to type. Each is one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tagmoe.cli import app

EDIT = ("edit", "example:scene", "-p", "make the circle red", "-o", "none/out.png")


def commands(command: Any, name: str = "") -> dict[str, Any]:
    """Every command, by the words that call it."""
    below = getattr(command, "commands", {})
    found = {} if below else {name: command}
    for verb, inner in below.items():
        found |= commands(inner, f"{name} {verb}".strip())
    return found


COMMANDS = commands(typer.main.get_command(app))


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell line in which `tagmoe` is the command."""
    setting = f'tagmoe() {{ "{sys.executable}" -m tagmoe "$@"; }}; '
    command = ["bash", "-c", setting + script]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


def one_sentence(done: subprocess.CompletedProcess[bytes], part: str) -> None:
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, done.stderr.decode()
    assert lines[0].startswith("error: ")
    assert part in lines[0]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_whole_names_and_choices(tagmoe, monkeypatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = tagmoe(*name.split(), "--help").out
    assert max(map(len, shown.splitlines())) <= 80
    for param in COMMANDS[name].params:
        for option in [*param.opts, *param.secondary_opts] if param.param_type_name == "option" else []:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), option
    options = shown.partition("Options:")[2]
    assert not re.search(r"\w(\.\.\.|\u2026)", options)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_both_bounds(name: str) -> None:
    numbers = [
        param for param in COMMANDS[name].params if re.search(r"\b(int|float)\b", str(param.type_descriptor.annotation))
    ]
    assert [param.opts[0] for param in numbers if param.min is None or param.max is None] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--steps", "0"), "--steps is 0; give a whole number from 1 to 1000"),
        (("--steps", "x"), "--steps is x; give a whole number from 1 to 1000"),
        (("--steps", "9" * 5000), "give a whole number from 1 to 1000"),
        (("--threads", "100000"), "--threads is 100000; give a whole number from 1 to 1024"),
        (("--cfg", "1e9"), "--cfg is 1e9; give a number from 0 to 100"),
        (("--cfg", "nan"), "give a finite number from 0 to 100"),
        (("--memory", "3gb"), "--memory is 3gb; give auto, 8gb, 16gb, 24gb, 48gb or 80gb"),
        (("--memory", ""), "--memory is ''; give auto"),
        (("--lora-scale", "x y"), "--lora-scale is 'x y'; give a number from -100 to 100"),
        (("--seed", "1", "--seed", "2"), "--seed is given twice; give it once."),
        (("-p", "again", "--prompt", "again"), "--prompt is given 3 times; give it once."),
        (("--json", "--json"), "--json is given twice; give it once."),
        (("--size", "8" * 3000), "--size is '8"),
    ],
)
def test_bad_options(tagmoe, words: tuple[str, ...], sentence: str) -> None:
    outcome = tagmoe(*EDIT, *words)
    outcome.refused(2, sentence)
    assert len(outcome.err) < 400
    assert "nput" not in outcome.err.replace("--input", "")


def test_options_that_may_be_repeated_still_may(tagmoe) -> None:
    tagmoe(*EDIT, "--lora", "a", "--lora", "b", "--lora-scale", 1, "--lora-scale", 1).refused(2, "no folder 'none'")


def test_set_twice_is_refused(tagmoe, tmp_path) -> None:
    words = ("train", "tagworld/quick", "--set", "seed=1", "--set", "seed=2", "--output-dir", tmp_path / "run")
    tagmoe(*words).refused(2, "'seed' twice")
    tagmoe("train", "tagworld/quick", "--set", "output_dir=a", "--output-dir", "b").refused(2, "'output_dir' twice")
    tagmoe("ablation", "run", "tagworld/ablation", "-o", tmp_path / "a", "--set", "seed=1", "--set", "seed=2").refused(
        2, "'seed' twice"
    )


def test_all_wrong_settings_of_a_recipe_and_of_set(tagmoe, tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: run\nseed: -1\nbase: {steps: none-such}\nunified: {steps: 1}\nnonsense: 3\n")
    outcome = tagmoe("train", recipe, "--set", "moe.top_k=0", "--set", "threads")
    outcome.refused(2, "'seed'", "'base.steps'", "'nonsense'", "'moe.top_k'", "'threads'")


def test_info_settings_says_type_range_and_default(tagmoe) -> None:
    lines = tagmoe("info", "settings").out.splitlines()
    (line,) = [line for line in lines if line.startswith("moe.num_experts ")]
    assert line.split(None, 1)[1].split("  ")[0] == "a whole number from 2 to 1024"
    assert line.endswith("  4")
    data = json.loads(tagmoe("info", "settings", "--json").out)
    assert data["settings"] == [detail["name"] for detail in data["details"]]
    assert {"name": "loss.align_target", "takes": "grad or stop-grad", "default": '"grad"'} in data["details"]


# Where a model is looked for ------------------------------------------------------------


def test_the_folder_of_a_run_stands_for_its_model(tagmoe, model, tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.resolved.yaml").write_text("seed: 0\n")
    tagmoe("info", "model", "-m", run).refused(3, "no model yet", "--resume")
    (run / "model").symlink_to(model)
    outcome = tagmoe("info", "model", "-m", run)
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines() == [
        f"{str(run)!r} is the folder of a training run; the model in it, {str(run / 'model')!r}, is used."
    ]
    (run / "other").symlink_to(model)
    tagmoe("info", "model", "-m", run).refused(2, "2 models", "give one of them")


def test_a_hub_name_is_looked_up(tagmoe, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = tagmoe("info", "model", "-m", "nobody/none-such")
    assert outcome.code == 3
    hint, error = outcome.err.splitlines()
    assert "hub" in hint
    assert error.startswith("error: There is no folder 'nobody/none-such'")


# Streams and bytes ------------------------------------------------------------


@pytest.mark.slow_but_first
@pytest.mark.parametrize("words", ["info tags", "info settings --json", "--help", "-V", "data", "edit --help"])
def test_a_full_stdout_is_one_sentence(words: str) -> None:
    done = shell(f"tagmoe {words} > /dev/full")
    assert done.returncode == 1
    one_sentence(done, "could not be printed: No space left on device")


@pytest.mark.slow
def test_a_closed_stdout_is_one_sentence() -> None:
    done = shell("tagmoe info tags >&-")
    assert done.returncode == 1
    one_sentence(done, "standard output is closed")
    done = shell("tagmoe info settings --json | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 1
    one_sentence(done, "could not be printed: Broken pipe")


@pytest.mark.slow
def test_a_stderr_that_takes_nothing_changes_no_result() -> None:
    for where in ("2>/dev/full", "2>&-"):
        done = shell(f"tagmoe info words {where}; tagmoe info nothing {where}")
        assert done.returncode == 2
        assert done.stdout.decode().count("\n") == 1


def test_bytes_that_are_no_text(tagmoe, tmp_path: Path) -> None:
    one_sentence(done := shell(r"tagmoe generate -p $'a \xff' -o none/a.png"), "no text in UTF-8")
    assert done.returncode == 2
    path = tmp_path / "file"
    path.write_bytes(b"seed: \xff\n")
    for words in (("train", path), ("routing", "record", "--from", path, "-o", tmp_path / "r")):
        tagmoe(*words).refused(2, "UTF-8")


ASCII = ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"})


@pytest.mark.slow
def test_an_ascii_locale_can_say_any_name(tmp_path: Path) -> None:
    for environment in ASCII:
        done = shell(f"tagmoe train '{tmp_path}/t\u00eate.yaml'", **environment)
        assert done.returncode == 2
        one_sentence(done, "te.yaml'")


@pytest.mark.slow
def test_an_ascii_locale(tmp_path: Path) -> None:
    name = "t\u00eate.png"
    for environment in ASCII:
        words = f"tagmoe generate -p 'a red circle' -o '{tmp_path}/{name}' --steps 1 --force"
        done = shell(words, **environment)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().strip() in (f"{tmp_path}/{name}", f"{tmp_path}/t\\xeate.png")
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    "words",
    [
        ("edit", "{}", "-p", "a", "-o", "a.png"),
        ("edit", "example:scene", "-p", "make the star blue", "-o", "{}.png"),
        ("generate", "-p", "a red circle", "-o", "a.png", "-m", "{}"),
        ("train", "{}"),
        ("ablation", "run", "{}", "-o", "a"),
        ("upcycle", "{}", "out", "--num-moe-blocks", 1),
        ("routing", "report", "{}", "-o", "page"),
        ("data", "stats", "{}"),
    ],
)
def test_a_path_that_is_too_long_is_one_sentence(tagmoe, tmp_path, monkeypatch, words: tuple[object, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = tagmoe(*(str(word).format("z" * 20_000) for word in words))
    outcome.refused(2, "zzz", "File name too long")
    assert len(outcome.err) < 400
