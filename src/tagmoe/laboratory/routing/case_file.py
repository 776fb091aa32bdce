"""Read a user's own cases for a routing recording from a JSONL file of instructions and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.errors import ImageError, UsageError, VocabularyError
from tagmoe.files.json_lines import lines_of
from tagmoe.laboratory.routing.recorder import RoutingCase, image_digest
from tagmoe.pictures import load_image, load_mask
from tagmoe.routing.recording import Facts
from tagmoe.sentences import reason_of
from tagmoe.tags import TaskDescriptor


class _Line(BaseModel):
    """One line of the file; paths are relative to it. tags: those of `tagmoe info tags`."""

    model_config = ConfigDict(extra="forbid")

    instruction: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    images: tuple[str, ...] = ()
    task: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    tags: tuple[str, ...] = ()
    mask: str | None = None
    seed: Annotated[int, Field(ge=0)] | None = None


def read_case_file(path: Path, seed: int) -> list[RoutingCase]:
    """The cases of a JSONL file: {"instruction", "images"?, "task"?, "tags"?, "mask"?, "seed"?} a line.

    A mask is a picture of the output's shape, white where the edit may change it. Lines without a seed use `seed`, so
    that they differ only by picture and instruction. Raises UsageError for a file without lines. Raises UsageError that
    names the line for a malformed line, an unreadable picture and an unknown tag.
    """
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"The file of cases {str(path)!r} cannot be read ({error.strerror}); check its path."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"The file of cases {str(path)!r} is not text in UTF-8; give a JSONL file.") from None
    cases = [_case(text, path, number, seed) for number, text in enumerate(lines, 1) if text.strip()]
    if not cases:
        raise UsageError(f'The file of cases {str(path)!r} is empty; give lines such as {{"instruction": "..."}}.')
    return cases


def _case(text: str, path: Path, number: int, seed: int) -> RoutingCase:
    try:
        line = _Line.model_validate(json.loads(text))
        tags = TaskDescriptor.from_tags(line.tags)
        sources = tuple(load_image(path.parent / name) for name in line.images)
        mask = None if line.mask is None else _mask(path.parent / line.mask)
    except ValidationError as error:
        reason = wrong_field(error, _Line) if error.errors()[0]["loc"] else "the line is no JSON object"
    except (ImageError, VocabularyError) as error:
        reason = str(error).rstrip(".")
    except (ValueError, RecursionError) as error:
        reason = f"no JSON: {reason_of(error)}"
    else:
        facts = Facts(
            instruction=line.instruction,
            seed=seed if line.seed is None else line.seed,
            image=image_digest([np.asarray(source) for source in sources]),
            task=line.task,
            tags=(*tags.scope, *tags.types, *tags.preservation),
        )
        return RoutingCase(facts, sources, mask=mask)
    raise UsageError(f"Line {number} of {str(path)!r} is not a valid case ({reason}); correct or remove it.")


def _mask(path: Path) -> np.ndarray:
    mask = np.asarray(load_mask(path)) > 0
    if not mask.any():
        raise ImageError(f"The mask {str(path)!r} is black all over; it must be white where the edit may change.")
    return mask
