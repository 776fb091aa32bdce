"""Every `tagmoe` command printed in the documents and recipes has options that exist and values that are allowed.

They are parsed, not run: many need weights or hours. Those in the README's shell blocks are run in test_readme.py.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from tagmoe.cli import app

ROOT = Path(__file__).parents[2]
FILES = (
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.yaml")),
    *sorted((ROOT / "tools").glob("*.py")),
)
COMMANDS = typer.main.get_command(app)
TEXTS = [path.read_text(encoding="utf-8") for path in FILES]


def found(pattern: str) -> list[str]:
    """Commands printed like this. What explains one stands after it, at a distance of two blanks or after a #."""
    lines = {line for text in TEXTS for line in re.findall(pattern, text, flags=re.MULTILINE)}
    return sorted({re.split(r"\s{2,}|\s+#|\s&&", line)[0].strip() for line in lines})


TYPED = found(r"^[ #]*(tagmoe (?:-|[a-z])[^`\n]*)")
MENTIONED = found(r"`(tagmoe (?:-|[a-z])[^`\n]*)`")


def parse(command: str) -> None:
    """What the command line does with these words before it runs anything."""
    group: Any = COMMANDS
    words = shlex.split(command)[1:]
    with suppress(typer.Exit):  # --help prints and leaves
        context = group.make_context("tagmoe", words)
        while rest := [*context._protected_args, *context.args]:
            _, group, rest = group.resolve_command(context, rest)
            context = group.make_context(group.name, rest, parent=context)
            if not hasattr(group, "commands"):
                return


def test_there_are_commands() -> None:
    assert len(TYPED) > 10
    assert len(MENTIONED) > 5


@pytest.mark.parametrize("command", [command for command in TYPED if "..." not in command.replace('"..."', "")])
def test_a_command_to_type_parses(command: str) -> None:
    parse(command)


@pytest.mark.parametrize("command", MENTIONED)
def test_a_command_in_prose_exists(command: str) -> None:
    try:
        parse(command)
    except Exception as error:
        # prose may name a verb or an option without its arguments
        if type(error).__name__ not in ("MissingParameter", "BadOptionUsage"):
            raise


@pytest.mark.parametrize(
    "command", ["tagmoe routing record --out x --interventions", "tagmoe edit a.png --prompt x --out y --nonsense"]
)
def test_a_wrong_one_is_found(command: str) -> None:
    with pytest.raises(Exception, match=r"(requires an argument|No such option|[Nn]o such option)"):
        parse(command)
