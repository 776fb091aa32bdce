"""The signature g of Eq. 3 taken apart: what the target's and the references' tokens of each mixture layer add to it.

g is a mean over layers and tokens, so it is a sum of parts, one for each layer and stream. The reference tokens of the
last mixture are dead: the model drops their output, so their routing cannot change a pixel. L_align and L_lbl see them
all the same, unless `loss.routing_tokens` leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tagmoe.intervals import Bootstrap, Interval
from tagmoe.model.routing import Grid, counted_by_layer

STREAMS = ("target", "references")
RESAMPLES = 2000


@dataclass(frozen=True)
class Streams:
    """How much of g comes from each stream S (in the order of `STREAMS`) and layer L.

    weight_SL: their weight in g, which sums to 1. variance_SL: their share of the variance of g between tasks. It sums
    to 1, and is below 0 where a part works against the others. dead_weight, dead: the same of the last mixture's
    reference tokens. stream_S: variance_SL, all layers together. cases, tasks: those with references and a known task.
    """

    cases: int
    tasks: int
    weight_SL: np.ndarray
    dead_weight: float
    variance_SL: Interval[np.ndarray]
    stream_S: Interval[np.ndarray]
    dead: Interval[float | None]


def image_weights(routing_tokens: str | None, grids: Sequence[Grid], layers: int) -> np.ndarray:
    """The weight of each image in each layer's mean, (L, I): by its tokens, and 0 where they do not count."""
    weight_LI = np.tile(np.array([prod(grid) for grid in grids], dtype=np.float64), (layers, 1))
    for layer, counted in enumerate(counted_by_layer(routing_tokens, tuple(grids), layers)):
        if counted is not None:
            weight_LI[layer, 1:] = 0.0
    return np.asarray(weight_LI / weight_LI.sum(axis=1, keepdims=True))


def parts_of(means_SLIN: np.ndarray, weight_LI: np.ndarray) -> np.ndarray:
    """What each stream adds to g: (2, L, N), which sums to g over streams and layers.

    means_SLIN: a case's mean scores by step, layer and image, the target first. weight_LI: see `image_weights`.
    """
    by_image_LIN = means_SLIN.mean(axis=0) * weight_LI[..., None] / len(weight_LI)
    return np.stack([by_image_LIN[:, 0], by_image_LIN[:, 1:].sum(axis=1)])


def streams(parts_C2LN: np.ndarray, tasks: Sequence[str]) -> Streams:
    """Shares of the variance of g (Eq. 3) between tasks. parts_C2LN: `parts_of` each case; tasks: two kinds or more.

    A part's share is its covariance with g over the tasks' means, summed over experts, divided by the variance of g.
    The intervals resample cases.
    """
    cases, _, layers, experts = parts_C2LN.shape
    names, task_C = np.unique(np.asarray(tasks), return_inverse=True)
    member_CT = np.eye(len(names))[task_C]
    flat_CF = parts_C2LN.reshape(cases, -1).astype(np.float64)

    def shares(times_C: np.ndarray) -> np.ndarray:
        drawn_CT = member_CT * times_C[:, None]
        cases_T = drawn_CT.sum(axis=0)
        means_TF = drawn_CT.T @ flat_CF / np.maximum(cases_T, 1)[:, None]
        centred_TF = means_TF - cases_T @ means_TF / cases_T.sum()
        by_part_TPN = centred_TF.reshape(len(names), -1, experts)
        g_TN = by_part_TPN.sum(axis=1)
        of_part_P = np.einsum("tpn,tn,t->p", by_part_TPN, g_TN, cases_T)
        total = float(of_part_P.sum())
        return of_part_P / total if total > 0 else np.full_like(of_part_P, np.nan)

    bootstrap = Bootstrap(RESAMPLES)
    value_2L = shares(np.ones(cases)).reshape(2, layers)
    draws_D2L = np.stack([shares(times_C) for times_C in bootstrap.weights(cases)]).reshape(-1, 2, layers)
    weight_2L = parts_C2LN.sum(axis=3).mean(axis=0)
    return Streams(
        cases=cases,
        tasks=len(names),
        weight_SL=weight_2L,
        dead_weight=float(weight_2L[1, -1]),
        variance_SL=_each(bootstrap, value_2L, draws_D2L, cases),
        stream_S=_each(bootstrap, value_2L.sum(axis=1), draws_D2L.sum(axis=2), cases),
        dead=bootstrap.interval(float(value_2L[1, -1]), draws_D2L[:, 1, -1], cases),
    )


def _each(bootstrap: Bootstrap, values: np.ndarray, draws_D: np.ndarray, cases: int) -> Interval[np.ndarray]:
    """The intervals of an array's entries, as one of arrays."""
    found = [bootstrap.interval(float(v), draws_D[(slice(None), *place)], cases) for place, v in np.ndenumerate(values)]
    bounds = [
        np.array([[one.value, one.low, one.high][i] for one in found], dtype=np.float64).reshape(values.shape)
        for i in range(3)
    ]
    return Interval(cases, *bounds)
