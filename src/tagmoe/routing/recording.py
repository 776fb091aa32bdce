"""A recording of routing on the disk. It is written case by case from `RoutingTrace`s, and read without a model.

The folder holds recording.json (what was run), cases.jsonl (one line a case), tokens-NNNN.safetensors (every token's
choice), pictures/ (for the report) and, when experts were switched, interventions.json.

The tensors of a case with S steps, of which K are kept, and I images, the target first:

"ID.shares" (S, L, I, N) fp32: share of first choices on each image
"ID.means"  (S, L, I, N) fp32: mean full softmax score on each image
"ID.ids"    (K, L, T, A) uint8: chosen experts of every image token
"ID.scores" (K, L, T, N) fp16: softmax scores of every image token
"ID.mask"   (h, w) fp32: share of each target token in the edit mask; only where the case has one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field
from safetensors.numpy import save_file

from tagmoe.config.part import Part
from tagmoe.files.json_lines import as_line
from tagmoe.model.routing import RoutingTrace

FORMAT = 1
ABOUT, CASES, INTERVENTIONS, PICTURES = "recording.json", "cases.jsonl", "interventions.json", "pictures"
FILES = (ABOUT, CASES, INTERVENTIONS, PICTURES, "tokens-*.safetensors")
CASE_BYTES = 32_000_000
SHARD_BYTES = 64_000_000
PICTURE_SIDE = 512


class About(Part):
    """What was run. random_weights: None when it is not known. cfg, steps: the same for every case."""

    model: str
    random_weights: bool | None = None
    versions: dict[str, str]
    seed: int
    steps: int
    cfg: float
    date: str
    command: str


class Shape(Part):
    """The model's number of mixture layers L, experts N, and experts for each token A.

    routing_tokens: the image tokens that count in its g and L_lbl (`tagmoe.model.routing.ROUTING_TOKENS`).
    """

    layers: int
    experts: int
    top_k: int
    # Left out at its default, so that earlier versions can read such a recording.
    routing_tokens: Literal["all", "live", "target"] = Field("all", exclude_if=lambda tokens: tokens == "all")


class Header(Part):
    """recording.json. files: bytes of every other file, to detect a folder that was copied incompletely."""

    format: Literal[1] = 1
    about: About
    shape: Shape
    cases: int
    files: dict[str, int]


class Facts(Part):
    """Facts of a case before it is run. control: it belongs to the crossed table of pictures and instructions, and is
    left out of all other statistics. image: digest of its reference pictures, "" without any."""

    instruction: str
    seed: int
    image: str = ""
    task: str | None = None
    tags: tuple[str, ...] = ()
    control: bool = False
    held_out_paraphrase: bool | None = None
    held_out_combination: bool | None = None


class Case(Part):
    """One recorded case. grids: (frames, h, w) of each image in tokens, target first. timesteps: those of all steps; 1
    is noise. kept: numbers of the steps whose tokens are stored. success, reasons: the verdict, if it was judged.
    pictures: {name: file}."""

    id: str
    facts: Facts
    grids: tuple[tuple[int, int, int], ...]
    timesteps: tuple[float, ...]
    kept: tuple[int, ...]
    tokens: str
    has_mask: bool
    success: bool | None = None
    reasons: tuple[str, ...] = ()
    pictures: dict[str, str]


class Condition(Part):
    """The effect of one change of the routing on each case, in the order of `Interventions.cases`.

    mode: "off", "forced", or "noise". The last changes only the noise seed, for comparison. layer: None for all mixture
    layers. change: mean absolute difference of the picture, 0 to 1. pictures: {case id: file}.
    """

    mode: Literal["off", "forced", "noise"]
    expert: int | None = None
    layer: int | None = None
    change: tuple[float, ...]
    success: tuple[bool | None, ...]
    pictures: dict[str, str] = Field(default_factory=dict)


class Interventions(Part):
    """interventions.json: the ids of the cases, their results without any change, and all conditions."""

    cases: tuple[str, ...]
    success: tuple[bool | None, ...]
    pictures: dict[str, str] = Field(default_factory=dict)
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Shown:
    """The pictures of a case, uint8 (H, W, 3), and its edit mask, bool (H, W), True where the output may change."""

    output: np.ndarray
    sources: tuple[np.ndarray, ...] = ()
    target: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass
class RecordingWriter:
    """Writes a recording into an empty folder, case by case. It holds at most one shard of tokens in memory.

    case_bytes: most bytes for the tokens of a case. Of a longer trace evenly spread steps are kept, at least one. The
    recording cannot be read before `close` has written recording.json.
    """

    folder: Path
    about: About
    case_bytes: int = CASE_BYTES
    shard_bytes: int = SHARD_BYTES
    cases: int = 0
    shape: Shape | None = None
    _pending: dict[str, np.ndarray] = field(default_factory=dict)
    _shard: int = 0

    def add(
        self,
        facts: Facts,
        traces: Sequence[RoutingTrace],
        timesteps: Sequence[float],
        pictures: Shown,
        *,
        sample: int = 0,
        success: bool | None = None,
        reasons: Sequence[str] = (),
    ) -> str:
        """Add sample number `sample` of the traces of a batch as a case. Returns the id of the case.

        Raises ValueError when the model's shape differs from that of earlier cases.
        """
        name = f"{self.cases:06d}"
        tensors, kept = _tensors(traces, sample, self.case_bytes)
        grids = traces[0].grids
        _, layers, _, experts = tensors["scores"].shape
        shape = Shape.model_validate(
            {
                "layers": layers,
                "experts": experts,
                "top_k": tensors["ids"].shape[-1],
                "routing_tokens": traces[0].routing_tokens or "all",
            }
        )
        if self.shape not in (None, shape):
            raise ValueError(f"a trace of {shape} in a recording of {self.shape}")
        self.shape = shape
        if pictures.mask is not None:
            tensors["mask"] = token_mask(pictures.mask, grids[0])
        self._pending |= {f"{name}.{key}": np.ascontiguousarray(value) for key, value in tensors.items()}
        case = Case(
            id=name,
            facts=facts,
            grids=grids,
            timesteps=tuple(float(t) for t in timesteps),
            kept=kept,
            tokens=self._shard_name(),
            has_mask=pictures.mask is not None,
            success=success,
            reasons=tuple(reasons),
            pictures=self._write_pictures(name, pictures),
        )
        with (self.folder / CASES).open("a", encoding="utf-8") as lines:
            lines.write(as_line(case.model_dump_json()))
        self.cases += 1
        if sum(value.nbytes for value in self._pending.values()) >= self.shard_bytes:
            self._flush()
        return name

    def write_picture(self, name: str, picture: np.ndarray) -> str:
        """Write a picture (uint8) into pictures/, at most 512 pixels a side. Returns its path in the folder."""
        (self.folder / PICTURES).mkdir(exist_ok=True)
        image = Image.fromarray(picture)
        image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        image.save(self.folder / PICTURES / f"{name}.png", optimize=True)
        return f"{PICTURES}/{name}.png"

    def close(self, interventions: Interventions | None = None) -> None:
        """Write the last shard and recording.json. Raises ValueError when no case was added."""
        if self.shape is None:
            raise ValueError("a recording without cases")
        self._flush()
        if interventions is not None:
            (self.folder / INTERVENTIONS).write_text(interventions.model_dump_json() + "\n", encoding="utf-8")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        header = Header(
            about=self.about,
            shape=self.shape,
            cases=self.cases,
            files={path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files},
        )
        (self.folder / ABOUT).write_text(header.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _write_pictures(self, name: str, shown: Shown) -> dict[str, str]:
        mask = None if shown.mask is None else shown.mask.astype(np.uint8) * 255
        sources = {f"source{i}": image for i, image in enumerate(shown.sources)}
        pictures = {"output": shown.output, **sources, "target": shown.target, "mask": mask}
        return {k: self.write_picture(f"{name}-{k}", picture) for k, picture in pictures.items() if picture is not None}

    def _shard_name(self) -> str:
        return f"tokens-{self._shard:04d}.safetensors"

    def _flush(self) -> None:
        if self._pending:
            shard = self.folder / self._shard_name()
            save_file(self._pending, shard)
            shard.chmod(0o644)  # safetensors makes files that only their owner can read
            self._pending = {}
            self._shard += 1


def token_mask(mask_HW: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """The share of each token of an image in the mask, 0 to 1: (frames * h, w) fp32. Every frame gets the same mask."""
    frames, height, width = grid
    small = Image.fromarray(mask_HW.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.tile(np.asarray(small, dtype=np.float32), (frames, 1))


def kept_steps(steps: int, nbytes: int, limit: int) -> tuple[int, ...]:
    """The steps to keep so that `nbytes` for each fit into `limit`. They are evenly spread, with the first and last."""
    number = max(1, min(steps, limit // nbytes))
    return tuple(int(i) for i in np.unique(np.linspace(0, steps - 1, number).round()))


def _tensors(
    traces: Sequence[RoutingTrace], sample: int, case_bytes: int
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    images = range(len(traces[0].grids))
    layers, _, tokens, experts = traces[0].scores_LBTN.shape
    active = traces[0].expert_ids_LBTA.shape[-1]
    kept = kept_steps(len(traces), layers * tokens * (2 * experts + active), case_bytes)
    one = [
        RoutingTrace(t.scores_LBTN[:, sample : sample + 1], t.expert_ids_LBTA[:, sample : sample + 1], t.grids)
        for t in traces
    ]
    shares = [np.stack([t.utilisation(i)[:, 0].numpy() for i in images], axis=1) for t in one]
    means = [np.stack([t.image(i)[:, 0].mean(dim=(1, 2)).numpy() for i in images], axis=1) for t in one]
    return {
        "shares": np.stack(shares).astype(np.float32),
        "means": np.stack(means).astype(np.float32),
        "ids": np.stack([one[k].expert_ids_LBTA[:, 0].numpy() for k in kept]).astype(np.uint8),
        "scores": np.stack([one[k].scores_LBTN[:, 0].numpy() for k in kept]).astype(np.float16),
    }, kept
