"""Routing while a run trains: load by layer and tag, what explains it, and the alarms (sections 4.3 and 4.5)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tagmoe.config import WatchConfig
from tagmoe.report.numbers import percent_near_ends
from tagmoe.sentences import counted
from tagmoe.tags import TAG_NAMES
from tagmoe.train.ranks import ALONE, Ranks
from tagmoe.train.seen import Seen

TIME_BINS = 10
"""Equal parts of the times from 0 to 1."""
MOST_SAMPLES = 2048
"""Samples that the shares of variance are of: the last ones."""
FEWEST = 10
"""Samples for each column of the larger design, before a share of variance is told."""

Record = dict[str, Any]


def bin_of(t: float) -> int:
    """The bin of a time from 0 to 1."""
    return min(TIME_BINS - 1, max(0, int(t * TIME_BINS)))


def bin_name(number: int) -> str:
    """The ends of a bin: "0.1-0.2"."""
    return f"{number / TIME_BINS:g}-{(number + 1) / TIME_BINS:g}"


def share_explained(values_BN: np.ndarray, design_BP: np.ndarray) -> float | None:
    """The share of the variance of `values_BN` (summed over N) that a linear model of `design_BP` explains.

    It is the adjusted R2, with a constant added to the design. For a design of groups that is epsilon squared (Kelley,
    1935): eta squared without its bias. Chance gives 0 in the mean, so values below 0 occur. None where the values do
    not vary, or where there are fewer than `FEWEST` samples for each free column.
    """
    samples = len(values_BN)
    centred_BN = values_BN - values_BN.mean(axis=0)
    total = float((centred_BN**2).sum())
    design_BP = design_BP - design_BP.mean(axis=0)
    if samples < 2 or total <= 1e-12 * samples:
        return None
    # An orthonormal basis of the design's columns: they may depend on each other, as the bins of a time do.
    basis_BP, sizes_P, _ = np.linalg.svd(design_BP, full_matrices=False)
    rank = int((sizes_P > 1e-6 * max(1.0, sizes_P[0])).sum())
    if samples < FEWEST * (rank + 1):
        return None
    explained = float(((basis_BP[:, :rank].T @ centred_BN) ** 2).sum())
    return 1 - (1 - explained / total) * (samples - 1) / (samples - rank - 1)


class RoutingWatch:
    """Collects what the gates do between two records, over all ranks, which must call it together.

    names: of the mixtures, layer by layer. experts: in each of them.
    """

    def __init__(self, names: Sequence[str], experts: int, settings: WatchConfig, ranks: Ranks = ALONE) -> None:
        self._names = names
        self._experts = experts
        self._settings = settings
        self._ranks = ranks
        self._last: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=MOST_SAMPLES)
        self._wrong: set[str] = set()
        self.load: list[list[float]] = []
        """The newest record's share of the tokens, by layer and expert; [] before it."""
        self._begin()

    def _begin(self) -> None:
        layers = len(self._names)
        self._steps = 0
        # Sums over samples. By time: number, L_flow, in two rows. By tag, and in the last row over all samples.
        self._flow = np.zeros((2, TIME_BINS))
        self._load = np.zeros((len(TAG_NAMES) + 1, layers, self._experts))
        self._samples = np.zeros(len(TAG_NAMES) + 1)

    def add(self, step: int, seen: Sequence[Seen]) -> Record | None:
        """Take a step's samples. Gives a record at the first step and at every `routing_every`-th: see `record`."""
        self._steps += 1
        for one in seen:
            for t, flow in zip(one.t_B.tolist(), one.flow_B.tolist(), strict=True):
                self._flow[:, bin_of(t)] += (1, flow) if math.isfinite(flow) else (0, 0)
            tags_BK = one.tags_BK.numpy()
            in_BK = np.concatenate([tags_BK > 0, np.ones((len(tags_BK), 1), bool)], axis=1).astype(float)
            self._samples += in_BK.sum(axis=0)
            if one.counts_LBN is None or one.probs_LBN is None:
                continue
            counts_LBN = one.counts_LBN.float().numpy()
            share_LBN = counts_LBN / counts_LBN.sum(axis=2, keepdims=True).clip(min=1)
            self._load += np.einsum("bk,lbn->kln", in_BK, share_LBN)
            probs_BLN = one.probs_LBN.float().numpy().transpose(1, 0, 2)
            self._last.extend(zip(one.t_B.tolist(), tags_BK, probs_BLN, strict=True))
        if step != 1 and step % self._settings.routing_every:
            return None
        record = self.record()
        if step % self._settings.routing_every == 0:
            self._begin()
        return record

    def record(self) -> Record:
        """What was seen since the last record, or of the second one since the first step.

        steps, samples: how many. layers: names of the mixtures. flow_by_time: [samples, mean of L_flow] for each of
        `TIME_BINS`. With mixtures also:
        load: share of the tokens by layer and expert. by_tag: the same over the samples with a tag, and their number.
        explained: by layer, the share of the variance of the samples' mean gate probabilities that is told by the
        timestep (in `TIME_BINS`) and by the tags, over the last n samples of this rank.
        """
        parts = (self._flow, self._samples, self._load)
        summed = self._ranks.sum(torch.from_numpy(np.concatenate([part.ravel() for part in parts]))).numpy()
        ends = np.cumsum([part.size for part in parts])
        flow, samples, load = (
            row.reshape(part.shape) for row, part in zip(np.split(summed, ends[:-1]), parts, strict=True)
        )
        record: Record = {
            "steps": self._steps,
            "samples": int(samples[-1]),
            "flow_by_time": [[int(n), _short(total / n) if n else None] for n, total in flow.T],
        }
        if not self._names or not samples[-1]:
            return record
        record["layers"] = list(self._names)
        record["load"] = self.load = _rounded(load[-1] / samples[-1])
        record["by_tag"] = {
            tag: {"samples": int(n), "load": _rounded(total / n)}
            for tag, n, total in zip(TAG_NAMES, samples, load, strict=False)
            if n
        }
        record["explained"] = self._explained()
        return record

    def _explained(self) -> Record:
        if not self._last:
            return {"samples": 0, "time": [None] * len(self._names), "tags": [None] * len(self._names)}
        times, tags, probs = zip(*self._last, strict=True)
        time_BP = np.eye(TIME_BINS)[[bin_of(t) for t in times]]
        tags_BP = np.stack(tags).astype(float)
        probs_BLN = np.stack(probs).astype(float)
        return {
            "samples": len(times),
            **{
                name: [_short(share_explained(probs_BLN[:, layer], design)) for layer in range(len(self._names))]
                for name, design in (("time", time_BP), ("tags", tags_BP))
            },
        }

    def alarms(self, record: Record) -> list[str]:
        """A sentence for each layer that is dead or has collapsed in this record, and was not in the one before.

        A record of fewer steps than `routing_every` raises none.
        """
        settings = self._settings
        if "load" not in record or record["steps"] < settings.routing_every:
            return []
        found: dict[str, str] = {}
        for name, load in zip(self._names, record["load"], strict=True):
            most = max(range(len(load)), key=lambda expert: load[expert])
            if load[most] >= settings.collapse_share:
                found[f"{name} collapsed"] = (
                    f"{name} has collapsed: expert {most} gets {percent_near_ends(load[most])} of the tokens"
                )
                continue
            for expert, share in enumerate(load):
                if share < settings.dead_share:
                    found[f"{name} {expert}"] = (
                        f"expert {expert} of {name} is dead: it gets {percent_near_ends(share)} of the tokens"
                    )
        new = [
            f"{sentence} over {counted(record['steps'], 'step')} ({counted(record['samples'], 'sample')})."
            for key, sentence in found.items()
            if key not in self._wrong
        ]
        self._wrong = set(found)
        return new


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """A record as named numbers, for trackers: the load by layer and expert, and what explains it, in the mean."""
    numbers = {
        f"routing/{layer}/{expert}": share
        for layer, load in enumerate(record.get("load", ()))
        for expert, share in enumerate(load)
    }
    for name in ("time", "tags"):
        shares = [share for share in record.get("explained", {}).get(name, ()) if share is not None]
        if shares:
            numbers[f"routing/explained_by_{name}"] = sum(shares) / len(shares)
    return numbers


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _rounded(values: np.ndarray) -> Any:
    return np.round(values.astype(float), 4).tolist()
