"""The table of verbs. A verb is imported when it is called; `tagmoe --help` needs only names and first sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

import typer
import typer.core

from tagmoe.errors import UsageError


@dataclass(frozen=True)
class Verb:
    """Where a verb is: a module of tagmoe.cli, and a function or the app of a group in it. about: the first sentence of
    its docstring. A test compares them."""

    module: str
    attribute: str
    about: str


VERBS = {
    "demo": Verb(
        "demo",
        "demo",
        "Edit test cases of every task, judge them from their pixels, and write a report of one page.",
    ),
    "edit": Verb("edit", "edit", "Edit a picture, or several into one or each by itself, by an instruction."),
    "generate": Verb("generate", "generate", "Generate a picture from text."),
    "rewrite": Verb("rewrite", "rewrite", "Print the words that `tagmoe edit --rewrite` would use for an instruction."),
    "serve": Verb("serve", "serve", "Serve pictures in OpenAI's images protocol, on this machine only by default."),
    "train": Verb(
        "train",
        "train",
        "Train a model by a recipe: dense base, upcycling, unified training; print the folder of the result.",
    ),
    "export": Verb(
        "export",
        "export",
        "Write a finished training run for other tools, with a model card: data, licences, tags, seed, versions.",
    ),
    "upcycle": Verb(
        "upcycle",
        "upcycle",
        "Turn the last blocks of a dense transformer into mixtures of copies, tensor by tensor, on the disk.",
    ),
    "convert-release": Verb(
        "convert_release",
        "convert_release",
        "Write the authors' weights and all other parts of their base as one pipeline folder.",
    ),
    "info": Verb(
        "info",
        "info",
        "Versions and devices, the vocabulary of tags, all settings, the words of TagWorld, facts or memory of a "
        "model.",
    ),
    "routing": Verb("routing", "app", "Record what the experts do, and show it (paper Fig. 6)."),
    "ablation": Verb("ablation", "app", "Train arms of the paper's ablation over seeds, and compare them (Table 4)."),
    "eval": Verb(
        "eval", "app", "Score any editor on a benchmark: prepare cases, generate outputs, score, report, compare."
    ),
    "study": Verb(
        "study",
        "app",
        "Ask people which picture is best (paper 4.6): plan, build the page, serve it, analyze the answers.",
    ),
    "data": Verb(
        "data",
        "app",
        "Fill, compose, look at, check, enlarge, make, annotate, rewrite, encode, export and clean a store.",
    ),
}


def make_strict(command: Any) -> None:
    """Make a command, and the commands of a group, refuse what the parser takes: see the two functions below."""
    for inner in getattr(command, "commands", {}).values():
        make_strict(inner)
    refuse_twice(command)
    if command.callback is not None:
        refuse_nonfinite(command)


def refuse_twice(command: Any) -> None:
    """Refuse an option that is given twice and takes one value; the parser drops all but the last."""
    make = command.make_parser

    def make_parser(ctx: Any) -> Any:
        parser = make(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            parsed = parse(args)
            for param, times in Counter(parsed[2]).items():
                if times > 1 and not param.multiple and not ctx.resilient_parsing:
                    often = "twice" if times == 2 else f"{times} times"
                    raise UsageError(f"{param.opts[0]} is given {often}; give it once.")
            return parsed

        parser.parse_args = parse_args
        return parser

    command.make_parser = make_parser


def refuse_nonfinite(command: Any) -> None:
    """Refuse an option that is NaN or infinite."""
    options = {param.name: param.opts[0] for param in command.params}
    run = command.callback

    @wraps(run)
    def checked(**values: Any) -> Any:
        for name, given in values.items():
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, float) and not math.isfinite(value):
                    raise UsageError(f"{options[name]} is {value}; give a finite number.")
        return run(**values)

    command.callback = checked


class _Commands(Mapping[str, Any]):
    """The verbs' commands by name. Each is built when it is first used."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            verb = VERBS[name]
            found = getattr(import_module(f"tagmoe.cli.{verb.module}"), verb.attribute)
            if isinstance(found, typer.Typer):
                command: Any = typer.main.get_group(found)
            else:
                app = typer.Typer(add_completion=False, rich_markup_mode=None)
                app.command()(found)
                command = typer.main.get_command(app)
            command.name = name
            make_strict(command)
            self._made[name] = command
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class PlainGroup(typer.core.TyperGroup):
    """A group whose help shows the whole first sentence of each command. typer would cut it to one line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write name and first sentence of every command."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, " ".join((verb.help or "").split("\n\n")[0].split())) for name, verb in self.commands.items()]
            )


def make_group(about: str) -> typer.Typer:
    """The app of a verb with verbs of its own. Without one of them it prints its help, which starts with `about`."""
    app = typer.Typer(cls=PlainGroup, rich_markup_mode=None)

    @app.callback(invoke_without_command=True, help=about)
    def root(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help())

    return app


class LazyGroup(typer.core.TyperGroup):
    """The group of all verbs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs' names and first sentences, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.about) for name, verb in VERBS.items()])
