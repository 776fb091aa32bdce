"""The command line: `tagmoe VERB`. The result goes to stdout, all else to stderr. errors.py explains the exit codes.

Each verb is one file. Verbs import torch and other heavy packages only when they run, so that help and errors in the
arguments come at once.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from tagmoe import __version__
from tagmoe.cli.verbs import LazyGroup
from tagmoe.errors import TagMoEError, UsageError
from tagmoe.sentences import cut, cut_values, reason_of

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    name="tagmoe",
    cls=LazyGroup,
    # No rich markup, because importing rich takes longer than everything else that --help does.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' messages.")] = False,
) -> None:
    """Generate and edit pictures with a task-aware mixture of experts, train one, and see what its experts do."""
    if version:
        typer.echo(__version__)
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


class _Stdout(io.FileIO):
    """The standard output. When it takes nothing more (a full disk, a reader such as head that has gone), that is an
    error of ours, and what follows is dropped: Python would try again when it ends."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise TagMoEError(f"The result could not be printed: {reason_of(error)}.") from None


def main() -> None:
    """The console script: run and exit."""
    if sys.stdout is None:
        # The next file that is opened would take the place of the closed stdout.
        log("error: The standard output is closed, so nothing could be printed; send it to a file.")
        sys.exit(1)
    raw = _Stdout(sys.stdout.fileno(), "w", closefd=False)
    # A name may hold characters that the locale has not: they are written as their numbers.
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), sys.stdout.encoding, "backslashreplace", line_buffering=raw.isatty()
    )
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. The only exception that it raises is SystemExit."""
    # --debug is accepted anywhere, because users add it at the end when they run a command again.
    debug = "--debug" in arguments
    if debug:
        os.environ["TAGMOE_DEBUG"] = "1"
    try:
        _check_words(arguments)
        words = [word for word in arguments if word != "--debug"]
        code = _commands()(words, prog_name="tagmoe", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)
    finally:
        os.environ.pop("TAGMOE_DEBUG", None)
        if output := sys.modules.get("tagmoe.cli.output"):
            output.release_outputs()
    if code in (INTERRUPTED, TERMINATED):
        log("interrupted: the command was stopped before it was finished.")
    return code if isinstance(code, int) else 0


@cache
def _commands() -> Any:
    """The parser of all verbs, built once a process: calling the app would build it again for every command line."""
    return typer.main.get_command(app)


def log(sentence: str) -> None:
    """As tagmoe.cli.output has it, which is imported when there is something to say: help is to be quick."""
    from tagmoe.cli import output

    output.log(sentence)


def _check_words(arguments: Sequence[str]) -> None:
    """Refuse what is no text. Python passes on the bytes of such a word as characters that no file or model takes."""
    for word in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(
                f"The argument {word!r} is no text in UTF-8; write it in UTF-8, and where it is, use a locale such as "
                "LC_ALL=C.UTF-8."
            )


def _parser_message(error: Any) -> str:
    """The argument parser's error as one sentence. Of a wrong value it says what is taken, not pydantic's words."""
    message = " ".join(error.format_message().split()).rstrip(".")
    if refused := getattr(error.__cause__, "errors", None):
        from tagmoe.config.describe import takes

        name = error.param.opts[0] if error.param.opts[0].startswith("-") else f"the argument {error.param.opts[0]}"
        wanted = takes(
            error.param.type_descriptor.annotation, [SimpleNamespace(ge=error.param.min, le=error.param.max)]
        )
        given = str(refused()[0]["input"])
        if given.strip("+-").lower() in ("nan", "inf", "infinity"):
            wanted = wanted.replace("a number", "a finite number")
        shown = given if re.fullmatch(r"[+-]?[\w.]+", given) else repr(given)
        message = f"{name} is {cut(shown)}; give {wanted.removesuffix(', or null')}"
    place = error.ctx.command_path if getattr(error, "ctx", None) is not None else "tagmoe"
    return f'{message}; see "{place} --help".'


def _explain(error: Exception) -> int:
    """Print an error as one sentence on stderr and return the exit code."""
    if isinstance(error, TagMoEError):
        log(f"error: {error}")
        return error.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        # The system refuses a path that is too long, or that may not be read, wherever it is touched first.
        log(cut_values(f"error: {os.fsdecode(error.filename)!r} cannot be used: {reason_of(error)}."))
        return UsageError.exit_code if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1
    # Errors of the argument parser. typer has its own copy of click, so there is no single class to test for.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        log(f"error: {cut_values(_parser_message(error))}")
        return int(error.exit_code)
    log(f"internal error: {type(error).__name__}: {reason_of(error)}; run again with --debug to see where.")
    return 1
