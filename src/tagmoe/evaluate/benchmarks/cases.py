"""A prepared benchmark: a folder of normalised cases and their pictures, whatever the published files look like.

FOLDER/manifest.json    `Manifest`: which benchmark, how many cases, their digest, the licence, rows that were left out
FOLDER/cases.jsonl      one `Case` a line
FOLDER/pictures/ab/...  each picture once, as it was published; its name is the SHA-256 of its bytes
FOLDER/outputs/NAME/    outputs of an editor, where the data set has them; `generate --outputs` takes such a folder
FOLDER/captions.json    `Captions` that a model wrote; its raw answers are in captioned.jsonl
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from PIL import Image
from pydantic import Field, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import DataError, ImageError, UsageError
from tagmoe.files.json_lines import lines_of
from tagmoe.pictures import load_image, open_picture, upright_rgb
from tagmoe.sentences import cut, reason_of

MANIFEST, CASES, PICTURES, OUTPUTS = "manifest.json", "cases.jsonl", "pictures", "outputs"
CAPTIONS = "captions.json"
FILES = (MANIFEST, CASES, PICTURES, OUTPUTS, CAPTIONS, "captioned.jsonl")
OUTPUT_TABLE = "gen_info.json"
"""The table of a folder of ready outputs, as ICE-Bench has it: {id: path of the picture}."""
FORMAT = 1
"""The version of the files; `format` in each of them."""
KEY_DIGITS = 24
_KEPT = re.compile(rf"{PICTURES}/[0-9a-f]{{2}}/[0-9a-f]{{64}}\.[a-z]{{1,5}}")

P = TypeVar("P", bound=Part)


class Case(Part):
    """What an editor is asked, and what is known of the right answer.

    source, mask, refs, target: pictures by their path in the folder. mask: white where the edit may change pixels.
    caption_origin: whether the data set has the target's caption, a model wrote it, or it is the instruction itself.
    meta: facts of this benchmark alone. `control`: what the source of a controllable task is (`edge`, `blur`, ...).
    `reference`: what of the references counts (`face`, `subject`, `style`, or several), for the metrics of it.
    `group`: cases of one group err together and are drawn together; without it those of one picture are.
    """

    bench: str
    id: str
    task: str
    lang: str = "en"
    instruction: str
    target_caption: str | None = None
    caption_origin: Literal["dataset", "generated", "prompt"] | None = None
    source: str | None = None
    mask: str | None = None
    refs: tuple[str, ...] = ()
    target: str | None = None
    split: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """A digest of all that the case says and shows: pictures are named by their content."""
        return digest_of(self.model_dump())[:KEY_DIGITS]

    @property
    def pictures(self) -> list[str]:
        """The paths of all its pictures."""
        return [name for name in (self.source, self.mask, *self.refs, self.target) if name is not None]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; its key is its own, where pydantic would copy the one that is known."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied


class LeftOut(Part):
    """A row of the published files that gives no case. row: its number from 1."""

    row: int
    id: str
    reason: str


class Captions(Part):
    """Captions that a model wrote. cases: digest of the cases that it was asked about. basis: digest of the model and
    of how it was asked. captions: by the id of the case."""

    format: Literal[1] = 1
    cases: str
    model: str
    basis: str
    captions: dict[str, str]


class Manifest(Part):
    """The facts of a prepared benchmark. digest: of all cases in their order. made_from: a name, not a path.
    repository, revision: of the hub, where the files come from it; the revision is a commit."""

    format: Literal[1] = 1
    benchmark: str
    licence: str
    made_from: str
    repository: str | None = None
    revision: str | None = None
    settings: dict[str, Any]
    cases: int
    tasks: dict[str, int]
    digest: str
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A prepared benchmark that was read. Its pictures are opened when they are asked for."""

    folder: Path
    manifest: Manifest
    cases: tuple[Case, ...]

    def picture(self, name: str) -> Image.Image:
        """One of its pictures, upright RGB. Raises ImageError where it is gone, damaged or another than was kept."""
        return load_image(self._kept(name))

    def mask(self, name: str) -> Image.Image:
        """A mask of it, mode L; what is transparent is black, and not to be edited. Raises ImageError as `picture`."""
        with open_picture(self._kept(name)) as image:
            return upright_rgb(image, is_mask=True).convert("L")

    def _kept(self, name: str) -> bytes:
        """The bytes of a picture, which are those that its name is the digest of. A case is known by the names of its
        pictures, so that another one in its place would change numbers unseen. What Python code has put together
        may have other names."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ImageError(f"There is no picture file {str(path)!r}; run tagmoe eval prepare again.") from None
        except OSError as error:
            raise ImageError(f"{str(path)!r} cannot be read ({reason_of(error)}).") from None
        if _KEPT.fullmatch(name) and hashlib.sha256(data).hexdigest() != path.stem:
            raise ImageError(f"{str(path)!r} is not the picture that was prepared; run tagmoe eval prepare again.")
        return data

    def chosen(self, tasks: Sequence[str] | None = None, limit: int | None = None) -> list[tuple[int, Case]]:
        """(position among all cases, case): of these tasks, the first `limit` of each. Raises UsageError."""
        unknown = sorted(set(tasks or ()) - self.manifest.tasks.keys())
        if unknown or (tasks is not None and not tasks):
            raise UsageError(
                f"The tasks name {', '.join(map(repr, unknown)) or 'nothing'}; give some of "
                f"{', '.join(self.manifest.tasks)}."
            )
        seen: Counter[str] = Counter()
        found = []
        for position, case in enumerate(self.cases):
            seen[case.task] += 1
            if (tasks is None or case.task in tasks) and (limit is None or seen[case.task] <= limit):
                found.append((position, case))
        return found


def digest_of(value: Any) -> str:
    """SHA-256 of plain data, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def digest_of_cases(cases: Iterable[Case]) -> str:
    """The digest of all cases in their order."""
    return digest_of([case.key for case in cases])


def read_prepared(folder: Path, *, captions: bool = True) -> Prepared:
    """A folder that `tagmoe eval prepare` wrote. captions: cases without a caption get the one that a model wrote.

    Raises UsageError where it is none. Raises DataError where it is damaged, of another version, or has an id twice.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UsageError(f"{str(folder)!r} is no prepared benchmark: it has no {MANIFEST}; run tagmoe eval prepare.")
    manifest = read_part(file, Manifest, "run tagmoe eval prepare again")
    try:
        lines = lines_of((folder / CASES).read_text(encoding="utf-8"))
        cases = tuple(Case.model_validate_json(line) for line in lines)
    except (OSError, ValueError) as error:
        wrong = wrong_field(error, Case) if isinstance(error, ValidationError) else reason_of(error)
        raise DataError(
            f"The cases in {str(folder / CASES)!r} cannot be read ({wrong}); run tagmoe eval prepare again."
        ) from None
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise DataError(f"The case {twice[0]!r} is in {str(folder / CASES)!r} twice; run tagmoe eval prepare again.")
    outside = [name for case in cases for name in case.pictures if not _KEPT.fullmatch(name)]
    if outside:
        # Such a path could lead out of the folder, to a picture that is then sent to a server or shown on a page.
        raise DataError(
            f"The picture {cut(outside[0])!r} in {str(folder / CASES)!r} is none that tagmoe eval prepare has written; "
            "run it again."
        )
    # The digest is of the cases alone, and tables go through the tasks that the manifest names.
    is_whole = (len(cases), Counter(case.task for case in cases)) == (manifest.cases, manifest.tasks)
    if not cases or not is_whole or digest_of_cases(cases) != manifest.digest:
        raise DataError(
            f"The cases in {str(folder / CASES)!r} are not those of its {MANIFEST}; run tagmoe eval prepare again."
        )
    prepared = Prepared(folder, manifest, cases)
    return _captioned(prepared) if captions and (folder / CAPTIONS).is_file() else prepared


def _captioned(prepared: Prepared) -> Prepared:
    """The benchmark with the captions that a model wrote. Raises DataError where they are of other cases."""
    file = prepared.folder / CAPTIONS
    found = read_part(file, Captions, "delete it, and run tagmoe eval caption again")
    manifest = prepared.manifest
    if found.cases != manifest.digest:
        raise DataError(f"{str(file)!r} is of other cases; delete it, and run tagmoe eval caption again.")
    cases = tuple(
        case.model_copy(update={"target_caption": found.captions[case.id], "caption_origin": "generated"})
        if case.target_caption is None and case.id in found.captions
        else case
        for case in prepared.cases
    )
    settings = {**manifest.settings, "captions_by": {"model": found.model, "basis": found.basis}}
    update = {"digest": digest_of_cases(cases), "settings": settings}
    return Prepared(prepared.folder, manifest.model_copy(update=update), cases)


def read_part(file: Path, kind: type[P], advice: str) -> P:
    """A JSON file of this kind. Raises DataError for one that cannot be read or is of another version."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data.get("format") if isinstance(data, dict) else None
        if version is not None and version != FORMAT:
            raise DataError(f"{str(file)!r} is of version {version}, and this tagmoe reads {FORMAT}; {advice}.")
        return kind.model_validate(data)
    except ValidationError as error:
        raise DataError(f"{str(file)!r} is not one of this version: {wrong_field(error, kind)}; {advice}.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{str(file)!r} cannot be read ({reason_of(error)}); {advice}.") from None
