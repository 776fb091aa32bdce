"""Routing while a run trains: load by layer and tag, what explains it, and the alarms (sections 4.3 and 4.5)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tagmoe.config import WatchConfig
from tagmoe.report.numbers import percent_near_ends
from tagmoe.tags import TAG_NAMES
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
    """Collects what the gates do between two records. names: of the mixtures, layer by layer."""

    def __init__(self, names: Sequence[str], settings: WatchConfig) -> None:
        self._names = names
        self._settings = settings
        self._last: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=MOST_SAMPLES)
        self._wrong: set[str] = set()
        self.load: list[list[float]] = []
        """The newest record's share of the tokens, by layer and expert; [] before it."""
        self._begin()

    def _begin(self) -> None:
        self._steps = 0
        self._load_BLN: list[np.ndarray] = []
        self._tags_BK: list[np.ndarray] = []
        self._flow: list[tuple[float, float]] = []

    def add(self, step: int, seen: Sequence[Seen]) -> Record | None:
        """Take a step's samples. Gives a record at the first step and at every `routing_every`-th: see `record`."""
        self._steps += 1
        for one in seen:
            self._flow += zip(one.t_B.tolist(), one.flow_B.tolist(), strict=True)
            if one.counts_LBN is None or one.probs_LBN is None:
                continue
            counts_BLN = one.counts_LBN.float().numpy().transpose(1, 0, 2)
            self._load_BLN += [*(counts_BLN / counts_BLN.sum(axis=2, keepdims=True).clip(min=1))]
            self._tags_BK += [*one.tags_BK.numpy()]
            probs_BLN = one.probs_LBN.float().numpy().transpose(1, 0, 2)
            self._last.extend(zip(one.t_B.tolist(), one.tags_BK.numpy(), probs_BLN, strict=True))
        if step != 1 and step % self._settings.routing_every:
            return None
        record = self.record()
        self._begin()
        return record

    def record(self) -> Record:
        """What was seen since the last record.

        steps, samples: how many. layers: names of the mixtures. flow_by_time: [samples, mean of L_flow] for each of
        `TIME_BINS`. With mixtures also:
        load: share of the tokens by layer and expert. by_tag: the same over the samples with a tag, and their number.
        explained: by layer, the share of the variance of the samples' mean gate probabilities that is told by the
        timestep (in `TIME_BINS`) and by the tags, over the last n samples.
        """
        by_bin: list[list[float]] = [[] for _ in range(TIME_BINS)]
        for t, flow in self._flow:
            if math.isfinite(flow):
                by_bin[bin_of(t)].append(flow)
        record: Record = {
            "steps": self._steps,
            "samples": len(self._flow),
            "flow_by_time": [[len(flows), _short(float(np.mean(flows))) if flows else None] for flows in by_bin],
        }
        if not self._load_BLN:
            return record
        load_BLN, tags_BK = np.stack(self._load_BLN), np.stack(self._tags_BK) > 0
        record["layers"] = list(self._names)
        record["load"] = self.load = _rounded(load_BLN.mean(axis=0))
        record["by_tag"] = {
            TAG_NAMES[tag]: {"samples": int(has_B.sum()), "load": _rounded(load_BLN[has_B].mean(axis=0))}
            for tag, has_B in enumerate(tags_BK.T)
            if has_B.any()
        }
        record["explained"] = self._explained()
        return record

    def _explained(self) -> Record:
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
            f"{sentence} over {record['steps']} steps ({record['samples']} samples)."
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
