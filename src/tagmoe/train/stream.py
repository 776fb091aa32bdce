"""TagWorld samples with cached latents, because encoding a picture costs as much as training on it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tagmoe.config import RunConfig
from tagmoe.data.order.sampler import uniform
from tagmoe.errors import ConfigError, TrainingError
from tagmoe.files.atomic import write_whole
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.batch import Batch
from tagmoe.train.facts import Facts
from tagmoe.world import SIZE, TASKS, Divide, Sample, content, sample

CHUNK = 64
TEXT_TO_IMAGE = ("generate",)
EDITING = tuple(name for name in TASKS if name not in TEXT_TO_IMAGE)


def check_tasks(config: RunConfig) -> None:
    """Check the tasks that each stage names, before the first stage trains.

    Raises ConfigError for a name that is no editing task (it names the nearest), and when none of a stage's samples has
    one of its tasks.
    """
    for name, stage in (("base", config.base), ("unified", config.unified)):
        if stage.edit_tasks is None:
            continue
        setting = f"The setting '{name}.edit_tasks'"
        for task in stage.edit_tasks:
            if task not in EDITING:
                near = difflib.get_close_matches(task, EDITING, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"give some of {', '.join(EDITING)}."
                raise ConfigError(f"{setting} holds {task!r}, which is no editing task; {hint}")
        found = (_task_of(config.seed, i, config.divide) in stage.edit_tasks for i in range(stage.unique_samples))
        if stage.steps and stage.text_to_image_every != 1 and not any(found):
            raise ConfigError(
                f"{setting} is {list(stage.edit_tasks)}, but among the {stage.unique_samples} samples of "
                f"'{name}.unique_samples' is none of them; raise that number."
            )


class EncodedSamples:
    """The first `unique` samples of a bucket, in batches of `batch_size`.

    dropout: share of samples that `draw` gives without instruction, for classifier-free guidance. only: use only the
    samples of these tasks. They share the file of the others. divide: that of `tagmoe.world.sample`. keep_texts: encode
    each instruction once, in the chunks of the latents, and keep it. Encoded with other texts beside it, its last bits
    differ.

    Latents are computed on first use and kept in a memory-mapped file. They are computed in fixed chunks of consecutive
    samples, so that their bits do not depend on the order of use. So a resumed run reads the same latents as an
    uninterrupted one, and several runs may share one file, because they write the same bytes.
    """

    def __init__(
        self,
        pipeline: TagMoEPipeline,
        tasks: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        unique: int,
        folder: Path,
        name: str,
        only: Sequence[str] | None = None,
        dropout: float = 0.0,
        keep_texts: bool = False,
        divide: Divide = "content",
    ) -> None:
        self.pipeline = pipeline
        self.tasks = tuple(tasks)
        self.batch_size = batch_size
        self.seed = seed
        self.unique = unique
        self.dropout = dropout
        self.divide = divide
        self.pictures = 1 if self.tasks == TEXT_TO_IMAGE else 2
        grid = SIZE // pipeline.size_multiple
        channels = pipeline.part("transformer").config.in_channels
        rounded = -(-unique // CHUNK) * CHUNK
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{name}-{_fingerprint(pipeline, self.tasks, seed, divide)}"
        self._latents = _memmap(
            stem.with_suffix(".latents"), np.float16, (rounded, self.pictures, grid * grid, channels)
        )
        self._filled = _memmap(stem.with_suffix(".filled"), np.uint8, (rounded // CHUNK,))
        self._facts: dict[int, list[Facts]] = {}
        # What a model reads that sees pictures depends on the sample's own.
        sees = pipeline.config.picture_template is not None
        self._texts: dict[int, list[Tensor]] | None = {} if keep_texts and not sees else None
        self._facts_folder = stem.with_suffix(".facts")
        self._members: Sequence[int] = range(unique)
        if only is not None:
            self._members = [i for i in range(unique) if _task_of(seed, i, divide, self.tasks) in only]
            if not self._members:
                raise TrainingError(f"Among the first {unique} samples is none of {', '.join(only)}; raise the number.")

    def draw(self, number: int, *, rank: int = 0, count: int = 1) -> Batch:
        """A rank's part of batch `number`. A share `dropout` of all samples has an empty instruction."""
        part = self.batch_size // count
        first = number * self.batch_size + rank * part
        numbers = np.arange(first, first + part)
        blank = uniform(self.seed, "dropout", numbers) < self.dropout
        return replace(
            self.batch(self.indices(numbers.tolist()), blank=blank.tolist()), numbers=tuple(numbers.tolist())
        )

    def indices(self, numbers: Iterable[int]) -> list[int]:
        """Indices of TagWorld's samples for these numbers. Every epoch is another permutation."""
        return [self._index_of(number) for number in numbers]

    def _index_of(self, number: int) -> int:
        epoch, offset = divmod(number, len(self._members))
        if epoch == 0:
            return self._members[offset]
        return self._members[_permutation(self.seed, epoch, len(self._members))[offset]]

    def batch(self, indices: Sequence[int], *, blank: Sequence[bool]) -> Batch:
        """The TagWorld samples of `indices`. Those marked `blank` get an empty instruction (condition dropout)."""
        # First the latents: to encode a chunk writes its facts too.
        latents = torch.from_numpy(np.stack([self._encoded(index) for index in indices])).float()
        samples = [self._facts_of(index) for index in indices]
        if self._texts is None:
            texts = [" " if empty else drawn.instruction for drawn, empty in zip(samples, blank, strict=True)]
            text_BSD, mask_BS = self.pipeline.encode_texts(texts, self._seen(indices), truncate=True)
        else:
            kept = [self._text_of(index, empty) for index, empty in zip(indices, blank, strict=True)]
            text_BSD = pad_sequence(kept, batch_first=True)
            mask_BS = pad_sequence([text.new_ones(len(text), dtype=torch.bool) for text in kept], batch_first=True)
        grid = SIZE // self.pipeline.size_multiple
        return Batch(
            samples=samples,
            target_BTC=latents[:, 0],
            reference_BTC=latents[:, 1] if self.pictures == 2 else None,
            text_BSD=text_BSD.float(),
            mask_BS=mask_BS,
            tags_BK=torch.tensor([drawn.tags.multi_hot() for drawn in samples], dtype=torch.float32),
            edited_BT=torch.tensor([drawn.edited for drawn in samples]),
            grids=((grid, grid),) * self.pictures,
        )

    def _seen(self, indices: Sequence[int]) -> list[list[Image.Image]] | None:
        """The pictures beside the instructions, where the model sees them there. They are not kept, but drawn again."""
        if self.pipeline.config.picture_template is None or self.pictures == 1:
            return None
        drawn = (sample(self.seed, index, task=self.tasks, divide=self.divide) for index in indices)
        return [[Image.fromarray(case.sources[0])] for case in drawn]

    def _facts_of(self, index: int) -> Facts:
        """The facts of a sample. They are kept, because to draw a sample takes as long as to train on it."""
        chunk = index // CHUNK
        if chunk not in self._facts:
            file = self._facts_file(chunk)
            if not file.is_file():  # a cache from before there were facts has latents alone
                self._write_facts(chunk, self._drawn(chunk))
            self._facts[chunk] = [Facts.read(row) for row in json.loads(file.read_text(encoding="utf-8"))]
        return self._facts[chunk][index % CHUNK]

    def _text_of(self, index: int, blank: bool) -> Tensor:
        """The encoded instruction of a sample, or the empty one, without padding."""
        assert self._texts is not None
        chunk = -1 if blank else index // CHUNK
        if chunk not in self._texts:
            start = chunk * CHUNK
            texts = [" "] if blank else [self._facts_of(i).instruction for i in range(start, start + CHUNK)]
            text_BSD, mask_BS = self.pipeline.encode_texts(texts, truncate=True)
            # Copies, or every text would keep its whole chunk with all padding.
            self._texts[chunk] = [text[mask].clone() for text, mask in zip(text_BSD, mask_BS, strict=True)]
        return self._texts[chunk][0 if blank else index % CHUNK]

    def _facts_file(self, chunk: int) -> Path:
        return self._facts_folder / f"{chunk:06d}.json"

    def _drawn(self, chunk: int) -> list[Sample]:
        start = chunk * CHUNK
        numbers = range(start, start + CHUNK)
        return [sample(self.seed, index, task=self.tasks, divide=self.divide) for index in numbers]

    def _write_facts(self, chunk: int, drawn: Sequence[Sample]) -> None:
        grid = SIZE // self.pipeline.size_multiple
        self._facts_folder.mkdir(exist_ok=True)
        write_whole(self._facts_file(chunk), json.dumps([asdict(Facts.of(case, grid)) for case in drawn]))

    def _encoded(self, index: int) -> np.ndarray:
        chunk = index // CHUNK
        if not self._filled[chunk]:
            drawn = self._drawn(chunk)
            images = [s.target for s in drawn] + ([s.sources[0] for s in drawn] if self.pictures == 2 else [])
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
            tokens = self.pipeline.pack_latents(self.pipeline.encode_images(pixels)).cpu()
            stacked = tokens.view(self.pictures, CHUNK, *tokens.shape[1:]).transpose(0, 1)
            self._latents[chunk * CHUNK : (chunk + 1) * CHUNK] = stacked.numpy().astype(np.float16)
            self._write_facts(chunk, drawn)
            self._filled[chunk] = 1
        return np.asarray(self._latents[index])


def _task_of(seed: int, index: int, divide: Divide, tasks: tuple[str, ...] = EDITING) -> str:
    return content(seed, index, task=tasks, divide=divide).task


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _memmap(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """The file at `path` as an array. A shorter file grows by zeros; it is never truncated, as others may read it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as handle:
        if handle.seek(0, os.SEEK_END) < size:
            handle.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _fingerprint(pipeline: TagMoEPipeline, tasks: Sequence[str], seed: int, divide: Divide) -> str:
    """A digest of everything the latents depend on, so that every encoder has its own cache file."""
    drawn: tuple[object, ...] = (tuple(tasks), seed, sorted(pipeline.vae.config.items(), key=str), divide)
    if pipeline.vae.dtype != torch.float32:
        # Left out of older names, which are of fp32.
        drawn += (str(pipeline.vae.dtype),)
    digest = hashlib.sha256(repr(drawn).encode())
    for name, value in sorted(pipeline.vae.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
