"""Read a recording. All files are checked at once, but tokens are read on demand, one case at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from tagmoe.config.describe import wrong_field
from tagmoe.errors import ImageError, ResultError
from tagmoe.files.json_lines import lines_of
from tagmoe.model.routing import RoutingTrace
from tagmoe.pictures import open_picture
from tagmoe.routing.recording import ABOUT, CASES, FORMAT, INTERVENTIONS, Case, Header, Interventions
from tagmoe.sentences import counted, reason_of

T = TypeVar("T")


@dataclass(frozen=True)
class CaseTokens:
    """The tensors of one case, as `recording` describes them, with scores as fp32 and ids as int64."""

    shares_SLIN: np.ndarray
    means_SLIN: np.ndarray
    ids_KLTA: np.ndarray
    scores_KLTN: np.ndarray
    mask_hw: np.ndarray | None
    grids: tuple[tuple[int, int, int], ...]
    routing_tokens: str = "all"

    def traces(self) -> list[RoutingTrace]:
        """The traces of the kept steps, each as a batch of one."""
        return [
            RoutingTrace(
                scores_LBTN=torch.from_numpy(scores_LTN).unsqueeze(1),
                expert_ids_LBTA=torch.from_numpy(ids_LTA).unsqueeze(1),
                grids=self.grids,
                routing_tokens=self.routing_tokens,
            )
            for scores_LTN, ids_LTA in zip(self.scores_KLTN, self.ids_KLTA, strict=True)
        ]

    def image(self, index: int) -> np.ndarray:
        """Scores of image `index` (0: target) in the picture's layout, (K, L, h, w, N). Frames stack vertically."""
        start = sum(prod(grid) for grid in self.grids[:index])
        frames, height, width = self.grids[index]
        steps, layers, _, experts = self.scores_KLTN.shape
        span = self.scores_KLTN[:, :, start : start + frames * height * width]
        return span.reshape(steps, layers, frames * height, width, experts)


@dataclass(frozen=True)
class Recording:
    """A recording on the disk. interventions: None when no expert was switched."""

    folder: Path
    header: Header
    cases: tuple[Case, ...]
    interventions: Interventions | None

    def tokens(self, case: Case) -> CaseTokens:
        """Read the tensors of one case. Raises ResultError when they are damaged or do not fit the case."""
        names = ["shares", "means", "ids", "scores", *(["mask"] if case.has_mask else [])]
        try:
            with safe_open(self.folder / case.tokens, framework="numpy") as shard:
                found = {name: shard.get_tensor(f"{case.id}.{name}") for name in names}
        except (OSError, SafetensorError) as error:
            raise self._damaged(case.tokens, reason_of(error)) from None
        shape = self.header.shape
        steps, images, tokens = len(case.timesteps), len(case.grids), sum(prod(grid) for grid in case.grids)
        wanted = {
            "shares": (steps, shape.layers, images, shape.experts),
            "means": (steps, shape.layers, images, shape.experts),
            "ids": (len(case.kept), shape.layers, tokens, shape.top_k),
            "scores": (len(case.kept), shape.layers, tokens, shape.experts),
            "mask": (case.grids[0][0] * case.grids[0][1], case.grids[0][2]),
        }
        for name, value in found.items():
            if value.shape != wanted[name]:
                raise self._damaged(case.tokens, f"{case.id}.{name} is {value.shape}, not {wanted[name]}")
        return CaseTokens(
            shares_SLIN=found["shares"],
            means_SLIN=found["means"],
            ids_KLTA=found["ids"].astype(np.int64),
            scores_KLTN=found["scores"].astype(np.float32),
            mask_hw=found.get("mask"),
            grids=case.grids,
            routing_tokens=shape.routing_tokens,
        )

    def picture(self, name: str) -> np.ndarray:
        """A picture by its path in the folder, uint8. Raises ResultError when it cannot be read."""
        try:
            with open_picture(self.folder / name, formats=("PNG",)) as image:
                return np.asarray(image)
        except ImageError as error:
            raise self._damaged(name, reason_of(error)) from None

    def _damaged(self, name: str, reason: str) -> ResultError:
        return ResultError(f"The recording's file {str(self.folder / name)!r} is damaged ({reason}); record again.")


def read_recording(folder: Path) -> Recording:
    """Open a recording; its tokens stay on the disk.

    Raises ResultError when the folder is no recording, is of another format version, or is incomplete.
    """
    if not (folder / ABOUT).is_file():
        raise ResultError(
            f"{str(folder)!r} is no recording (it has no {ABOUT}); make one with 'tagmoe routing record --out FOLDER'."
        )
    header = _parse(folder / ABOUT, _header)
    for name, size in header.files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} of {counted(size, 'byte')}"
            raise ResultError(f"The recording {str(folder)!r} is not whole: {name} {state}; copy it again, or record.")
    cases = _parse(folder / CASES, lambda text: tuple(Case.model_validate_json(line) for line in lines_of(text)))
    _check_names(folder, header, cases)
    if len(cases) != header.cases:
        raise ResultError(
            f"The recording {str(folder)!r} has {len(cases)} of {counted(header.cases, 'case')}; record again."
        )
    interventions = None
    if INTERVENTIONS in header.files:
        interventions = _parse(folder / INTERVENTIONS, Interventions.model_validate_json)
        _check_interventions(interventions, cases, folder)
    return Recording(folder, header, cases, interventions)


def _header(text: str) -> Header:
    data = json.loads(text)
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise _OtherFormat(found)
    return Header.model_validate(data)


class _OtherFormat(Exception):
    """The recording has another format version, whose number is the message."""


def _parse(path: Path, read: Callable[[str], T]) -> T:
    try:
        return read(path.read_text(encoding="utf-8"))
    except _OtherFormat as error:
        raise ResultError(
            f"The recording {str(path.parent)!r} is of format {error} and this version reads {FORMAT}; record again."
        ) from None
    except ValidationError as error:
        reason = wrong_field(error)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
    raise ResultError(f"The recording's file {str(path)!r} is damaged ({reason}); record again.")


def _check_names(folder: Path, header: Header, cases: tuple[Case, ...]) -> None:
    """Refuse files outside the folder: a recording may come from strangers."""
    named = {name for case in cases for name in (case.tokens, *case.pictures.values())}
    foreign = sorted(named - header.files.keys()) or [n for n in header.files if ".." in Path(n).parts or n[:1] == "/"]
    if foreign:
        raise ResultError(f"The recording {str(folder)!r} names {foreign[0]!r}, no file of its own; record again.")


def _check_interventions(interventions: Interventions, cases: tuple[Case, ...], folder: Path) -> None:
    known = {case.id for case in cases}
    count = len(interventions.cases)
    lengths = [interventions.success, *(row for c in interventions.conditions for row in (c.change, c.success))]
    if not known.issuperset(interventions.cases) or any(len(row) != count for row in lengths):
        raise ResultError(
            f"The recording's file {str(folder / INTERVENTIONS)!r} does not belong to its cases; record again."
        )
