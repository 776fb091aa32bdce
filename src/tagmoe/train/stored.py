"""Training samples from a store of any pictures, in the sampler's order. Batches are like those of the stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tagmoe.config import DataConfig, RunConfig
from tagmoe.data.order.sampler import Draw, Sampler, SourceRows, uniform, wording
from tagmoe.errors import DataError, ImageError, TrainingError, UsageError
from tagmoe.extras import require
from tagmoe.pictures import load_image, load_mask
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.tensors import images_to_tensor
from tagmoe.sentences import counted
from tagmoe.tags import TAGS
from tagmoe.train.batch import Batch

if TYPE_CHECKING:
    from tagmoe.data.encoded_rows import EncodedStore
    from tagmoe.data.store.record import Record
    from tagmoe.data.store.store import Store

TAGWORLD = "tagworld"
"""The data set whose vocabulary is known in advance."""
BUCKETS = "encoded_bucket"
"""A store is encoded when it has this column (`tagmoe.data.encode.INDICATOR`)."""
BLANK = " "
"""The text that stands for a dropped instruction."""
SPLITS = ("train", "validation")
KINDS = {"generate": "text-to-image", "edit": "editing", "all": "any"}
"""Kinds of batches, and the name of their rows in error messages."""


@dataclass(frozen=True)
class StoredRows:
    """A store at one version, with the rows of its data sets that a run trains on. untagged: rows without tags.

    held_out: the rows of the split "validation", which no run trains on.
    quarantined: number of the store's rows that quarantine keeps out (`tagmoe data validate`).
    encoded: reads the store's encoded columns; None where pictures are encoded when a batch is drawn.
    """

    store: Store
    sources: Mapping[str, SourceRows]
    held_out: Mapping[str, SourceRows]
    settings: DataConfig
    untagged: np.ndarray
    encoded: EncodedStore | None
    quarantined: int = 0

    @classmethod
    def open(cls, settings: DataConfig, components: Path | None = None) -> StoredRows:
        """Open the store. components: folder of the encoder; with it, the columns of an encoded store are used.

        Raises MissingError without the extra `data`. Raises UsageError and DataError for a store that cannot be used,
        or that was encoded incompletely or by another encoder.
        """
        require("data", "lance", "pyarrow", purpose="A store of data")
        from tagmoe.data.order.rows import quarantined_rows, rows_by_split, untagged_rows
        from tagmoe.data.store.store import Store

        store = Store.open(settings.store, version=settings.version)
        encoded = None
        if components is not None and BUCKETS in store.columns:
            from tagmoe.data.encoded_rows import EncodedStore

            encoded = EncodedStore(store, _fingerprint(store, components))
        column = None if encoded is None else BUCKETS
        splits = rows_by_split(store, SPLITS, weights=settings.weights, bucket_column=column)
        train, held_out = (splits[split] for split in SPLITS)
        return cls(store, train, held_out, settings, untagged_rows(store), encoded, quarantined_rows(store))

    @property
    def used(self) -> list[str]:
        """Names of the data sets that samples are drawn from."""
        return [name for name, source in self.sources.items() if source.weight > 0 and len(source)]

    def texts(self) -> Iterator[tuple[int, list[str], str | None]]:
        """(row number, raw wordings, rewritten instruction) of each row of `used`; no picture is read."""
        from tagmoe.data.order.rows import TEXT_ROWS

        used = np.zeros(len(self.store), dtype=bool)
        for sources in (self.sources, self.held_out):
            for rows in (rows for source in sources.values() if source.weight > 0 for rows in source.rows.values()):
                used[rows] = True
        number = 0
        for batch in self.store.scan(["instruction", "instructions", "instruction_rewritten"], rows=TEXT_ROWS):
            for values in batch.to_pylist():
                if used[number]:
                    yield (
                        number,
                        [values["instruction"], *(values["instructions"] or ())],
                        values["instruction_rewritten"],
                    )
                number += 1

    def without(self, rows: Sequence[int]) -> StoredRows:
        """The same without the rows of these numbers. Data sets without weights in the settings weigh less then."""

        def rest(sources: Mapping[str, SourceRows]) -> dict[str, SourceRows]:
            kept = {}
            for name, source in sources.items():
                left = {bucket: numbers[~np.isin(numbers, rows)] for bucket, numbers in source.rows.items()}
                count = float(sum(map(len, left.values())))
                kept[name] = SourceRows(count if self.settings.weights is None else source.weight, left)
            return kept

        return replace(self, sources=rest(self.sources), held_out=rest(self.held_out))

    def of_kind(self, kind: str) -> dict[str, SourceRows]:
        """The rows without references ("generate"), with references ("edit"), or "all", by data set.

        Data sets without such rows are left out, and the weights apply to the others. Raises UsageError when no row is
        left.
        """
        found = {}
        for name, source in self.sources.items():
            kept = _of_kind(source, kind)
            if source.weight > 0 and any(map(len, kept.values())):
                # Without weights in the settings, data sets weigh by their number of such rows.
                weight = source.weight if self.settings.weights is not None else float(sum(map(len, kept.values())))
                found[name] = SourceRows(weight, kept)
        if not found:
            raise UsageError(
                f"The store {self.settings.store!r} has no {KINDS[kind]} rows to train on; add some, or set the steps "
                "of the stage to 0 or its 'text_to_image_every' to what there is (0: editing only)."
            )
        return found


def _of_kind(source: SourceRows, kind: str) -> dict[str, np.ndarray]:
    return {b: r for b, r in source.rows.items() if kind == "all" or (" " in b) == (kind == "edit")}


def by_references(sources: Mapping[str, SourceRows], weights: Mapping[int, float] | None) -> Mapping[str, SourceRows]:
    """The sources divided by the number of references, each weighted by `data.reference_weights`; None: as they are.

    A source keeps its weight beside the others. Raises UsageError when no row is left.
    """
    from tagmoe.data.order.rows import bucket_sizes

    if weights is None:
        return sources
    found = {}
    for name, source in sources.items():
        parts: dict[int, dict[str, np.ndarray]] = {}
        for bucket, rows in source.rows.items():
            parts.setdefault(len(bucket_sizes(bucket)) - 1, {})[bucket] = rows
        mass = {number: weights.get(number, 1.0) * sum(map(len, rows.values())) for number, rows in parts.items()}
        for number, part in mass.items():
            if part > 0:
                found[f"{name} {number}"] = SourceRows(source.weight * part / sum(mass.values()), parts[number])
    if not found:
        raise UsageError("The setting 'data.reference_weights' leaves no row to train on; raise one of its weights.")
    return found


def held_out_draws(rows: StoredRows, kinds: Sequence[str], batch: int) -> list[Draw]:
    """Batches of the held-out rows of these kinds; of more than `data.validation_rows`, always the same ones."""
    every = [
        (bucket, name, row)
        for name, source in rows.held_out.items()
        if source.weight > 0
        for kind in kinds
        for bucket, numbers in _of_kind(source, kind).items()
        for row in numbers.tolist()
    ]
    order = np.argsort(uniform(0, "held out", np.array([row for *_, row in every], dtype=np.int64)), kind="stable")
    chosen = sorted(every[place] for place in order[: rows.settings.validation_rows].tolist())
    draws = []
    for bucket, group in groupby(chosen, key=lambda one: one[0]):
        members = list(group)
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            numbers = np.array([row for *_, row in part], dtype=np.int64)
            blank, choice = np.zeros(len(part), dtype=bool), uniform(0, "wording", numbers)
            draws.append(Draw(bucket, numbers, tuple(name for _, name, _ in part), numbers, blank, choice))
    return draws


class StoredSamples:
    """The samples of one kind in a StoredRows. Batch `number` is a pure function of the seed and the number.

    Raises UsageError when the store has no such rows.
    """

    def __init__(
        self,
        pipeline: TagMoEPipeline,
        rows: StoredRows,
        kind: str,
        *,
        batch: int,
        seed: int,
        dropout: float,
    ) -> None:
        self.pipeline = pipeline
        self.rows = rows
        self.sampler = Sampler(
            by_references(rows.of_kind(kind), rows.settings.reference_weights),
            batch=batch,
            seed=seed,
            dropout=dropout,
            version=rows.store.version,
            rare=rows.settings.rare_buckets,
        )

    def draw(self, number: int, *, rank: int = 0, count: int = 1) -> Batch:
        """A rank's part of batch `number` of the sampler. Raises the errors of `read`."""
        return self.read(self.sampler.draw(number, rank=rank, world_size=count))

    def read(self, drawn: Draw) -> Batch:
        """The batch of these rows. Those with pictures that cannot be read are left out; where all are, another row
        stands in, whose share is 0. Raises DataError when no row of the bucket can be read, and for damaged columns."""
        return self._of_pictures(drawn) if self.rows.encoded is None else self._of_columns(drawn, self.rows.encoded)

    def _of_columns(self, drawn: Draw, encoded: EncodedStore) -> Batch:
        found = encoded.read(
            drawn.rows.tolist(),
            choice=drawn.choice.tolist(),
            share=self.rows.settings.rewritten_share,
            blank=drawn.blank.tolist(),
        )
        pictures = [torch.from_numpy(array).float() for array in (found.target, *found.references)]
        tokens = [self.pipeline.pack_latents(latents) for latents in pictures]
        patch = self.pipeline.patch_size
        edited_BT = torch.ones(tokens[0].shape[:2], dtype=torch.bool)
        if found.edited is not None:
            edited_BT = torch.from_numpy(found.edited).flatten(1)
        return Batch(
            samples=found.ids,
            target_BTC=tokens[0],
            reference_BTC=torch.cat(tokens[1:], dim=1) if tokens[1:] else None,
            text_BSD=torch.from_numpy(found.text).float(),
            mask_BS=torch.from_numpy(found.mask),
            tags_BK=_multi_hot(found.tags),
            edited_BT=edited_BT,
            grids=tuple((latents.shape[2] // patch, latents.shape[3] // patch) for latents in pictures),
            share=drawn.share,
            numbers=tuple(drawn.numbers.tolist()),
        )

    def _of_pictures(self, drawn: Draw) -> Batch:
        from tagmoe.data.order.rows import bucket_sizes

        multiple = self.pipeline.size_multiple
        sizes = bucket_sizes(drawn.bucket)
        grids = [(height // multiple, width // multiple) for width, height in sizes]
        found = [self._opened(record, sizes, grids[0]) for record in self.rows.store.records(drawn.rows.tolist())]
        samples = [one for one in found if isinstance(one, _Opened)]
        skipped = tuple(one for one in found if isinstance(one, str))
        if not samples:
            drawn, samples = self._stand_in(drawn, sizes, grids[0], skipped[0])
        elif skipped:
            drawn = _part_of(drawn, [place for place, one in enumerate(found) if isinstance(one, _Opened)])
        records = [sample.record for sample in samples]
        columns = [[sample.pictures[place] for sample in samples] for place in range(len(sizes))]
        tokens = [self.pipeline.pack_latents(self.pipeline.encode_images(images_to_tensor(c))) for c in columns]
        latents = [one.half().float() for one in tokens]  # rounded to fp16, as cached and stored latents are
        text_BSD, mask_BS = self._text(samples, drawn)
        return Batch(
            samples=[record.id for record in records],
            target_BTC=latents[0],
            reference_BTC=torch.cat(latents[1:], dim=1) if latents[1:] else None,
            text_BSD=text_BSD.float(),
            mask_BS=mask_BS,
            tags_BK=_multi_hot([record.tags for record in records]),
            edited_BT=torch.stack([sample.edited_T for sample in samples]),
            grids=tuple(grids),
            share=drawn.share,
            numbers=tuple(drawn.numbers.tolist()),
            skipped=skipped,
        )

    def _opened(self, record: Record, sizes: Sequence[tuple[int, int]], grid: tuple[int, int]) -> _Opened | str:
        """The parts of a record that its files hold; a sentence without its end where one cannot be used."""
        try:
            pictures = [record.target, *record.inputs]
            wordings = self._readable(record.instruction, *record.instructions)
            if not wordings:
                raise ImageError("the model reads none of its wordings")
            return _Opened(
                record,
                [self._pixels(pictures[place].data, size) for place, size in enumerate(sizes)],
                self._edited(record, grid),
                wordings,
            )
        except ImageError as error:
            text = " ".join(str(error).split()).rstrip(".")
            return f"The record {record.id} of the store {self.rows.settings.store!r} cannot be trained on ({text})"

    def _stand_in(
        self, drawn: Draw, sizes: Sequence[tuple[int, int]], grid: tuple[int, int], wrong: str
    ) -> tuple[Draw, list[_Opened]]:
        """The first row of the bucket that can be read, which does not count."""
        for source in self.sampler.sources.values():
            for row in source.rows.get(drawn.bucket, ()):
                [record] = self.rows.store.records([int(row)])
                if isinstance(found := self._opened(record, sizes, grid), _Opened):
                    first = _part_of(drawn, [0])
                    return replace(first, rows=np.array([row], dtype=np.int64), share=0.0), [found]
        raise DataError(
            f"{wrong}, nor can any other of its bucket {drawn.bucket!r}; run 'tagmoe data validate', which puts such "
            "rows into quarantine, and start a new run."
        )

    def _text(self, samples: Sequence[_Opened], drawn: Draw) -> tuple[Tensor, Tensor]:
        share = self.rows.settings.rewritten_share
        texts = []
        for sample, blank, choice in zip(samples, drawn.blank.tolist(), drawn.choice.tolist(), strict=True):
            raw = sample.wordings
            rewritten = next(iter(self._readable(sample.record.instruction_rewritten)), None)
            texts.append(BLANK if blank else wording(choice, raw[0], tuple(raw[1:]), rewritten, share=share))
        return self.pipeline.encode_texts(texts, [sample.pictures[1:] for sample in samples], truncate=True)

    def _readable(self, *texts: str | None) -> list[str]:
        policy = self.rows.settings.long_prompts
        return [text for text in texts if text is not None and is_readable(self.pipeline, text, policy)]

    def _pixels(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        image = load_image(data)
        if image.size != size:
            raise ImageError(f"a picture is {image.width}x{image.height} and stored as {size[0]}x{size[1]}")
        return image

    def _edited(self, record: Record, grid: tuple[int, int]) -> Tensor:
        """(T,) bool: True for tokens where the masks are white; all True without a mask."""
        masks = [picture for picture in record.images if picture.role == "mask"]
        multiple = self.pipeline.size_multiple
        rows, columns = grid
        edited = torch.full((rows, columns), not masks)
        for mask in masks:
            image = load_mask(mask.data)
            image = image.resize((columns * multiple, rows * multiple), Image.Resampling.NEAREST)
            white = torch.from_numpy(np.asarray(image) > 127)
            edited |= white.view(rows, multiple, columns, multiple).any(dim=3).any(dim=1)
        return edited.flatten()


@dataclass(frozen=True)
class _Opened:
    """A record with its pictures (target first), where its tokens may change, and the wordings that the model reads."""

    record: Record
    pictures: list[Image.Image]
    edited_T: Tensor
    wordings: list[str]


def _part_of(drawn: Draw, kept: Sequence[int]) -> Draw:
    """Some samples of a draw; its share is smaller by as much."""
    places = list(kept)
    return replace(
        drawn,
        sources=tuple(drawn.sources[place] for place in places),
        share=drawn.share * len(places) / len(drawn.rows),
        **{name: getattr(drawn, name)[places] for name in ("numbers", "rows", "blank", "choice")},
    )


def is_readable(pipeline: TagMoEPipeline, text: str, long_prompts: str) -> bool:
    """Whether samples may use this wording: it holds nothing that no prompt may hold, and is not too long to use."""
    try:
        return not pipeline.is_long(text) or long_prompts == "truncate"
    except UsageError:
        return False


def batch_kinds(text_to_image_every: int | None) -> list[str]:
    """The kinds of batches that a stage with this setting takes."""
    if text_to_image_every is None:
        return ["all"]
    return {0: ["edit"], 1: ["generate"]}.get(text_to_image_every, ["generate", "edit"])


def newest_version(settings: DataConfig) -> int:
    """The current version of the store. Raises the errors of `StoredRows.open`."""
    require("data", "lance", "pyarrow", purpose="A store of data")
    from tagmoe.data.store.store import Store

    return Store.open(settings.store).version


def _fingerprint(store: Store, components: Path) -> Mapping[str, Any]:
    """The fingerprint that the store would have if these components had encoded it to the same sizes."""
    from tagmoe.data.encode import NOTE
    from tagmoe.train.encoder import encoder_of

    noted = store.note(NOTE) or {}
    sizes = [(int(width), int(height)) for width, height in noted.get("sizes", ())]
    return encoder_of(components, sizes or None, noted.get("dtype"), long_prompts=noted.get("long_prompts"))[1]


def check_rows(rows: StoredRows, config: RunConfig, multiple: int) -> None:
    """Find problems before the first step that would stop a later stage after hours.

    multiple: sides of pictures must be multiples of it. Raises UsageError for missing rows, and for pictures that
    cannot be cut into whole tokens. Raises TrainingError for rows without tags when a loss needs tags.
    """
    if config.base.steps:
        _check_sizes(rows.of_kind("generate"), multiple, rows.settings.store)
    if rows.settings.validation_rows:
        _check_sizes(rows.held_out, multiple, rows.settings.store)
    for kind in batch_kinds(config.unified.text_to_image_every) if config.unified.steps else ():
        sources = rows.of_kind(kind)
        _check_sizes(sources, multiple, rows.settings.store)
        if config.moe is not None and config.loss.lambda_align > 0:
            _check_tags(sources, rows)


def _check_sizes(sources: Mapping[str, SourceRows], multiple: int, store: str) -> None:
    from tagmoe.data.order.rows import bucket_sizes

    for name, source in sources.items():
        for bucket in source.rows:
            for width, height in bucket_sizes(bucket):
                if width % multiple or height % multiple or not width or not height:
                    raise UsageError(
                        f"The data set {name!r} of the store {store!r} has pictures of {width}x{height}; this model "
                        f"trains on sides that are multiples of {multiple}: leave the data set out of 'data.weights', "
                        "or import resized pictures."
                    )


def _check_tags(sources: Mapping[str, SourceRows], rows: StoredRows) -> None:
    for name, source in sources.items():
        missing = sum(int(np.isin(numbers, rows.untagged).sum()) for numbers in source.rows.values())
        if missing:
            raise TrainingError(
                f"{missing} of the {counted(source, 'row')} of the data set {name!r} have no tags, which the "
                "alignment loss "
                "needs; annotate them, leave the data set out of 'data.weights', or set 'loss.lambda_align' to 0."
            )


def _multi_hot(tags: Sequence[Sequence[int] | None]) -> Tensor:
    """Zeros and ones (B, K)."""
    return torch.tensor([[float(tag in (own or ())) for tag in range(len(TAGS))] for own in tags])
