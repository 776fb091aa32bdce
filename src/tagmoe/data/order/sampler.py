"""The order of the rows in a training run: a pure function of the seed and the global sample number.

Global batch k has the samples k B to (k + 1) B - 1, all of one bucket, as a batch has one shape. Three steps lead from
the sample number to the row; each is computed directly, without the samples before it:

1. the bucket of batch k, by the buckets' shares: sum over sources of weight * rows in the bucket / rows
   (`apportion`: any window of batches is less than 4 from its shares), and how many batches it had before;
2. the source of each slot of that bucket's batches, by the sources' shares of it, and how many slots it had before;
3. that count is a pass over the source's rows of the bucket and an offset in it; every pass is another permutation.

A bucket with fewer rows than a batch cannot fill one without repeats. By policy (RARE) its batches repeat rows, or have
each of its rows once and count less in the gradient, or it is left out.

So a run can resume at any batch, also with another number of ranks: the global batches stay the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from tagmoe.data.order.apportion import Apportion, hash64
from tagmoe.errors import DataError, UsageError
from tagmoe.sentences import counted

LARGEST_WEIGHT = 1e9
Rare = Literal["repeat", "weight", "skip"]
T = TypeVar("T")


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source.

    weight: of the source, relative to the weights of the others. rows: row numbers by bucket. A bucket is a name for
    the sizes of target and references.
    """

    weight: float
    rows: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())


@dataclass(frozen=True)
class Draw:
    """One rank's part of a global batch; the arrays have one entry for each sample.

    numbers: global sample numbers. sources: names of the sources. rows: row numbers. blank: whether the instruction is
    dropped. choice: random numbers in [0, 1) that choose among a record's wordings (`wording`). share: the samples as a
    share of those of a full batch, by which their gradient counts; 0 for a rank that a small batch leaves without any,
    which then has one of them.
    """

    bucket: str
    numbers: np.ndarray
    sources: tuple[str, ...]
    rows: np.ndarray
    blank: np.ndarray
    choice: np.ndarray
    share: float = 1.0


class Sampler:
    """The order of a run over these sources.

    batch: samples of a global batch, over all ranks. dropout: share of samples whose instruction is dropped. version:
    of the store that the rows were read from. Sources of weight 0 are left out.

    rare: of buckets with fewer rows than a batch. "repeat": their batches have rows several times. "weight": each of
    their batches has all their rows once, and they come more often by the same factor, so that data sets keep their
    shares of the samples. "skip": they are left out. `rare_rows` has the number of rows of each such bucket.

    Each pass over a source and bucket has every row once. If a source has fewer rows than its part of a batch, one
    batch has rows of several passes. Raises UsageError for settings that cannot work.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceRows],
        *,
        batch: int,
        seed: int,
        dropout: float = 0.0,
        version: int = 0,
        rare: Rare = "repeat",
    ) -> None:
        if batch < 1:
            raise UsageError(f"The batch is {batch}; give 1 or more samples.")
        if not 0 <= dropout < 1:
            raise UsageError(f"The share of dropped instructions is {dropout}; give a number from 0 to below 1.")
        for name, source in sources.items():
            if source.weight and not 1 / LARGEST_WEIGHT <= source.weight <= LARGEST_WEIGHT:
                raise UsageError(
                    f"The weight of {name!r} is {source.weight}; give 0, or a number from {1 / LARGEST_WEIGHT:g} to "
                    f"{LARGEST_WEIGHT:g}."
                )
            if source.weight > 0 and not len(source):
                raise UsageError(f"The source {name!r} has no rows for its weight {source.weight}; leave it out.")
        self.batch, self.seed, self.dropout, self.version = batch, seed, dropout, version
        self.sources = {name: sources[name] for name in sorted(sources) if sources[name].weight > 0}
        if not self.sources:
            raise UsageError("There is no row to train on; give at least one source with rows a weight above 0.")
        self.rare, self.rare_rows = rare, self._rare_rows()
        if rare == "skip":
            self._leave_out()
        mass: dict[str, dict[str, float]] = {}
        for name, source in self.sources.items():
            for bucket, rows in source.rows.items():
                if len(rows):
                    mass.setdefault(bucket, {})[name] = source.weight * len(rows) / len(source)
        if rare == "weight":
            for bucket, count in self.rare_rows.items():
                mass[bucket] = {name: part * batch / count for name, part in mass[bucket].items()}
        self._buckets = Apportion({b: math.fsum(parts.values()) for b, parts in mass.items()}, seed=seed)
        self._mixes = {bucket: Apportion(parts, seed=seed, name=bucket) for bucket, parts in mass.items()}
        self._orders: dict[tuple[str, str], tuple[int, np.ndarray]] = {}
        self.digest = self._digest()

    def __len__(self) -> int:
        """Number of rows of all sources."""
        return sum(map(len, self.sources.values()))

    def draw(self, number: int, *, rank: int = 0, world_size: int = 1) -> Draw:
        """The part of global batch `number` for one rank: slots [rank B / W, (rank + 1) B / W), W = `world_size`.

        Raises UsageError when W does not divide B, and for a rank or batch number out of range.
        """
        if world_size < 1 or self.batch % world_size:
            raise UsageError(
                f"A global batch of {counted(self.batch, 'sample')} cannot be shared evenly by "
                f"{counted(world_size, 'rank')}; choose a batch "
                f"that {world_size} divides."
            )
        if not 0 <= rank < world_size or number < 0:
            raise UsageError(f"There is no rank {rank} of {world_size} or no batch {number}; both count from 0.")
        bucket, nth = self._buckets.locate(number)
        if self.rare == "weight" and bucket in self.rare_rows:
            return self._small(number, bucket, nth, rank, world_size)
        mix, part = self._mixes[bucket], self.batch // world_size
        places = [mix.locate(nth * self.batch + slot) for slot in range(rank * part, (rank + 1) * part)]
        numbers = np.arange(rank * part, (rank + 1) * part, dtype=np.int64) + number * self.batch
        return Draw(
            bucket=bucket,
            numbers=numbers,
            sources=tuple(source for source, _ in places),
            rows=np.array([self._row(source, bucket, count) for source, count in places], dtype=np.int64),
            blank=uniform(self.seed, "dropout", numbers) < self.dropout,
            choice=uniform(self.seed, "wording", numbers),
        )

    def state(self, number: int) -> dict[str, Any]:
        """JSON values to save in a checkpoint before global batch `number`."""
        return {"seed": self.seed, "batch": number, "version": self.version, "digest": self.digest}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The number of the next global batch, from `state`. Raises DataError for the state of another order."""
        for name, here in (("seed", self.seed), ("version", self.version), ("digest", self.digest)):
            if state.get(name) != here:
                raise DataError(
                    f"The run read its samples in another order ({name} {state.get(name)!r}, here {here!r}); resume "
                    "with the same seed, batch, weights and store, or start a new run."
                )
        return int(state["batch"])

    def _rare_rows(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for source in self.sources.values():
            for bucket, rows in source.rows.items():
                counts[bucket] = counts.get(bucket, 0) + len(rows)
        return {bucket: count for bucket, count in sorted(counts.items()) if 0 < count < self.batch}

    def _leave_out(self) -> None:
        sources = {
            name: SourceRows(source.weight, {b: rows for b, rows in source.rows.items() if b not in self.rare_rows})
            for name, source in self.sources.items()
        }
        self.sources = {name: source for name, source in sources.items() if len(source)}
        if not self.sources:
            raise UsageError(
                f"Every bucket has fewer rows than a batch of {self.batch}, and such buckets are left out; choose a "
                "smaller batch, or count them by weight."
            )

    def _small(self, number: int, bucket: str, nth: int, rank: int, world_size: int) -> Draw:
        """A rank's part of a batch that has each row of its bucket once."""
        every = [(name, row) for name, source in self.sources.items() for row in source.rows.get(bucket, ())]
        start, end = (len(every) * place // world_size for place in (rank, rank + 1))
        share = (end - start) * world_size / self.batch
        slots = np.arange(start, end) if end > start else np.array([min(start, len(every) - 1)])
        order = permutation(len(every), self.seed, "", bucket, nth)
        drawn = [every[int(place)] for place in order[slots]]
        numbers = slots.astype(np.int64) + number * self.batch
        return Draw(
            bucket=bucket,
            numbers=numbers,
            sources=tuple(source for source, _ in drawn),
            rows=np.array([row for _, row in drawn], dtype=np.int64),
            blank=uniform(self.seed, "dropout", numbers) < self.dropout,
            choice=uniform(self.seed, "wording", numbers),
            share=share,
        )

    def _row(self, source: str, bucket: str, count: int) -> int:
        rows = self.sources[source].rows[bucket]
        number, offset = divmod(count, len(rows))
        known = self._orders.get((source, bucket))
        if known is None or known[0] != number:
            known = number, permutation(len(rows), self.seed, source, bucket, number)
            self._orders[source, bucket] = known
        return int(rows[known[1][offset]])

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.batch, self.dropout)).encode())
        if self.rare_rows and self.rare != "repeat":
            digest.update(self.rare.encode())
        for name, source in self.sources.items():
            digest.update(repr((name, float(source.weight))).encode())
            for bucket, rows in sorted(source.rows.items()):
                digest.update(repr((bucket, len(rows))).encode())
                digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
        return digest.hexdigest()[:32]


def permutation(length: int, seed: int, source: str, bucket: str, number: int) -> np.ndarray:
    """The order of pass `number` over a source's rows of a bucket."""
    order = np.random.Generator(np.random.PCG64([hash64(seed, source, bucket), number])).permutation(length)
    return order.astype(np.uint32 if length < 2**32 else np.int64)


def uniform(seed: int, purpose: str, numbers: np.ndarray) -> np.ndarray:
    """A pseudo-random number in [0, 1) for each global sample number, by a hash (splitmix64) of seed and purpose."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(hash64(seed, purpose))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def wording(
    choice: float, instruction: T, further: tuple[T, ...] = (), rewritten: T | None = None, *, share: float = 0.0
) -> T:
    """The wording of the instruction that a sample uses: one of the texts, or of their embeddings.

    choice: random number in [0, 1). share: probability of the rewritten instruction, if there is one. Otherwise the
    instruction and its further wordings have equal probability.
    """
    if rewritten is not None:
        if choice < share:
            return rewritten
        choice = (choice - share) / (1 - share)
    every = (instruction, *further)
    return every[min(int(choice * len(every)), len(every) - 1)]
