"""Output of a command: the result on stdout, messages on stderr, and files that are written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmoe.errors import TagMoEError, UsageError
from tagmoe.files.claim import Claim, claim
from tagmoe.files.resumable import Written, size_text
from tagmoe.report.printable import printable
from tagmoe.sentences import counted, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}

_claims: dict[Path, Claim] = {}


def log(text: str) -> None:
    """Print one line for people on stderr. A stderr that is full or closed stops no work."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What is printed on stdout inside the block goes to stderr, also by C code and by processes that it starts."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with suppress(OSError):
            # Where stderr is closed, only what Python prints is kept from stdout.
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def written_text(written: Written, seconds: float) -> str:
    """What a command wrote on the disk in that time, for people."""
    kept = f", {counted(written.kept, 'finished file')} kept" if written.kept else ""
    return f"{size_text(written.nbytes_now)} written in {seconds:.1f} s{kept}"


def print_result(data: Mapping[str, Any], text: str, *, as_json: bool, about: Sequence[str] = ()) -> None:
    """Print the result on stdout: `data` as one JSON object, or `text`.

    about: lines about the result, for people, on stderr. `data` holds the same, so --json does without them.
    """
    for line in () if as_json else about:
        log(line)
    print(json.dumps(data) if as_json else printable(text))


def typed_command(otherwise: str) -> str:
    """The command line as it can be typed again; of folders only the names, as a report is shown to others.

    otherwise: the command of the verb, which is given in a process that was not started by it.
    """
    words = [os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv[1:]]
    return shlex.join(["tagmoe", *words]) if sys.argv[1:2] == otherwise.split()[1:2] else otherwise


def check_output_file(
    path: Path, *, force: bool, extensions: Collection[str] = tuple(FORMATS), kind: str = "picture"
) -> None:
    """Refuse an output file before any work starts, or take its name until the command ends.

    Raises UsageError for an unknown extension, a missing folder, a file that exists without `force`, and a name that
    another command writes. Raises TagMoEError where nothing can be written.
    """
    check_output_name(path, extensions=extensions, kind=kind)
    if path.exists() and not force:
        raise _exists(path)
    _take(path, force=force)


def check_output_name(path: Path, *, extensions: Collection[str] = tuple(FORMATS), kind: str = "picture") -> None:
    """Raise UsageError for an output file of an unknown extension or in a missing folder, and for a folder."""
    if path.suffix.lower() not in extensions:
        raise UsageError(
            f"The output {str(path)!r} has the extension {path.suffix!r}; use one of {', '.join(extensions)}."
        )
    if path.is_dir():
        raise UsageError(f"The output {str(path)!r} is a folder; give the name of a {kind} file.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {str(path.parent)!r} for the output; create it or choose another.")


def write_image(image: Image, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a picture to the output that `check_output_file` took, or as PNG to stdout for "-".

    `metadata` is put into the picture as `tagmoe.cli.metadata` says.
    """
    from tagmoe.cli.metadata import save_options

    if str(path) == "-":
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", **save_options("PNG", metadata))
        sys.stdout.buffer.write(buffer.getvalue())
        return
    kind = FORMATS[path.suffix.lower()]
    options = save_options(kind, metadata)
    _taken(path).write(lambda place: image.save(place, format=kind, **options))


def write_text(text: str, path: Path) -> None:
    """Write a text to the output that `check_output_file` took. Raises TagMoEError where it cannot be written."""
    _taken(path).write(lambda place: place.write_text(text, encoding="utf-8"))


def write_folder(path: Path, make: Callable[[Path], Any]) -> Any:
    """Let `make` fill a new folder, which then becomes the output that `check_output_folder` took; returns its answer.

    For results that exist when writing starts: if the disk is full, `make` is called again for another place.
    """
    answers = []
    _taken(path).write(lambda folder: answers.append(make(folder)), folder=True)
    return answers[-1]


def new_folder(path: Path) -> AbstractContextManager[Path]:
    """A temporary folder, which becomes the output that `check_output_folder` took when the block succeeds."""
    return _taken(path).fill()


def make_folder(path: Path) -> None:
    """Make a folder for several results. Raises TagMoEError where it cannot be made."""
    try:
        path.mkdir()
    except OSError as error:
        raise TagMoEError(f"The folder {str(path)!r} cannot be made ({reason_of(error)}).") from None


def release_output(path: Path) -> None:
    """Give up the name of one output, which has been written or has failed."""
    if path in _claims:
        _claims.pop(path).release()


def release_outputs() -> None:
    """Give up the names of all outputs, at the end of a command."""
    while _claims:
        _claims.popitem()[1].release()


def _take(path: Path, *, force: bool) -> None:
    """Take a name. What another command wrote between the check and now is not replaced without `force`."""
    _claims[path] = claim(path)
    if _claims[path].before is not None and not force:
        raise _exists(path)


def _exists(path: Path) -> UsageError:
    return UsageError(f"The output {str(path)!r} exists; choose another name or add --force.")


def _taken(path: Path) -> Claim:
    if path not in _claims:
        _take(path, force=True)
    return _claims[path]


def check_output_folder(path: Path, *, force: bool, ours: Sequence[str]) -> None:
    """Refuse an output folder that exists, or take its name until the command ends.

    With `force`, a folder is refused only if it holds other files than `ours` (patterns). So --force replaces an
    earlier result, but never a folder that was named by mistake. Raises as `check_output_file` does.
    """
    if Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(
            f"The output {str(path)!r} is the folder this command runs in, or one around it, and cannot be replaced; "
            "give the name of a folder in it."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {str(path.parent)!r} for the output; create it or choose another.")
    if not path.exists() and not path.is_symlink():
        _take(path, force=force)
        return
    if not force:
        raise UsageError(f"The output folder {str(path)!r} exists; choose another name or add --force.")
    if path.is_symlink() or not path.is_dir():
        raise UsageError(f"The output {str(path)!r} is no folder of its own; choose another name.")
    foreign = sorted(item.name for item in path.iterdir() if not any(fnmatch(item.name, name) for name in ours))
    if foreign:
        raise UsageError(
            f"The folder {str(path)!r} holds {foreign[0]!r}, which this command did not write, so --force does not "
            "replace it; choose another name."
        )
    _take(path, force=force)
