"""Output of a command: the result on stdout, messages on stderr, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmoe.errors import TagMoEError, UsageError
from tagmoe.files.atomic import put_in_place, write_whole
from tagmoe.files.resumable import Written, size_text

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


def log(text: str) -> None:
    """Print one line for people on stderr."""
    print(text, file=sys.stderr, flush=True)


def written_text(written: Written, seconds: float) -> str:
    """What a command wrote on the disk in that time, for people."""
    kept = f", {len(written.kept)} finished files kept" if written.kept else ""
    return f"{size_text(written.nbytes_now)} written in {seconds:.1f} s{kept}"


def print_result(data: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result on stdout: `data` as one JSON object, or `text`."""
    print(json.dumps(data) if as_json else text)


def typed_command(otherwise: str) -> str:
    """The command line as it can be typed again; of folders only the names, as a report is shown to others.

    otherwise: the command of the verb, which is given in a process that was not started by it.
    """
    words = [os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv[1:]]
    return shlex.join(["tagmoe", *words]) if sys.argv[1:2] == otherwise.split()[1:2] else otherwise


def check_output_file(
    path: Path, *, force: bool, extensions: Collection[str] = tuple(FORMATS), kind: str = "picture"
) -> None:
    """Refuse an output file before any work starts.

    Raises UsageError for an unknown extension, a missing folder, and a file that exists without `force`.
    """
    if path.suffix.lower() not in extensions:
        raise UsageError(
            f"The output {str(path)!r} has the extension {path.suffix!r}; use one of {', '.join(extensions)}."
        )
    if path.is_dir():
        raise UsageError(f"The output {str(path)!r} is a folder; give the name of a {kind} file.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {str(path.parent)!r} for the output; create it or choose another.")
    if path.exists() and not force:
        raise UsageError(f"The output {str(path)!r} exists; choose another name or add --force.")


def write_image(image: Image, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a picture beside its place, then move it there; `metadata` becomes text chunks of a PNG file."""
    from PIL.PngImagePlugin import PngInfo

    options: dict[str, Any] = {}
    kind = FORMATS[path.suffix.lower()]
    if kind == "PNG" and metadata:
        info = PngInfo()
        for name, value in metadata.items():
            info.add_text(name, value)
        options["pnginfo"] = info
    elif kind in ("JPEG", "WEBP"):
        options["quality"] = 95
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        image.save(partial, format=kind, **options)
        os.replace(partial, path)
    except OSError as error:
        raise TagMoEError(f"The output {str(path)!r} cannot be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all. Raises TagMoEError where it cannot be written."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise TagMoEError(f"The output {str(path)!r} cannot be written ({error.strerror or error}).") from error


def check_output_folder(path: Path, *, force: bool, ours: Sequence[str]) -> None:
    """Refuse an output folder that exists. With `force`, refuse it only if it holds other files than `ours` (patterns).

    So --force replaces an earlier result, but never a folder that was named by mistake.
    """
    if Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(
            f"The output {str(path)!r} is the folder this command runs in, or one around it, and cannot be replaced; "
            "give the name of a folder in it."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {str(path.parent)!r} for the output; create it or choose another.")
    if not path.exists() and not path.is_symlink():
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder. It replaces `path` when the block succeeds, and is deleted when it fails."""
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise TagMoEError(f"Nothing can be written in {str(path.parent)!r} ({error.strerror}).") from error
    try:
        yield partial
        partial.chmod(0o755)
        put_in_place(partial, path)
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise TagMoEError(f"The output folder {str(path)!r} cannot be made ({reason}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
