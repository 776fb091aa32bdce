"""The command line: `tagmoe VERB`. The result goes to stdout, all else to stderr. errors.py explains the exit codes.

Each verb is one file. Verbs import torch and other heavy packages only when they run, so that help and errors in the
arguments come at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tagmoe import __version__
from tagmoe.cli.verbs import LazyGroup
from tagmoe.errors import TagMoEError

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


def main() -> None:
    """The console script: run and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. The only exception that it raises is SystemExit."""
    # --debug is accepted anywhere, because users add it at the end when they run a command again.
    debug = "--debug" in arguments
    if debug:
        os.environ["TAGMOE_DEBUG"] = "1"
    try:
        code = app([word for word in arguments if word != "--debug"], prog_name="tagmoe", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe (such as head) has gone. Without this, Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
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


def log(sentence: str) -> None:
    """As tagmoe.cli.output has it, which is imported when there is something to say: help is to be quick."""
    from tagmoe.cli import output

    output.log(sentence)


def _parser_message(error: Any) -> str:
    """The argument parser's error as one sentence. It adds the wrong value, which typer omits for pydantic's errors."""
    message = " ".join(error.format_message().split()).rstrip(".")
    refused = getattr(error.__cause__, "errors", None)
    given = f" (given: {refused()[0]['input']})" if refused is not None else ""
    place = error.ctx.command_path if getattr(error, "ctx", None) is not None else "tagmoe"
    return f'{message}{given}; see "{place} --help".'


def _explain(error: Exception) -> int:
    """Print an error as one sentence on stderr and return the exit code."""
    if isinstance(error, TagMoEError):
        log(f"error: {error}")
        return error.exit_code
    # Errors of the argument parser. typer has its own copy of click, so there is no single class to test for.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        log(f"error: {_parser_message(error)}")
        return int(error.exit_code)
    message = " ".join(str(error).split()) or type(error).__name__
    log(f"internal error: {type(error).__name__}: {message}; run again with --debug to see where.")
    return 1
