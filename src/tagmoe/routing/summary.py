"""Reduce recorded cases to what the statistics need. Each is read once, and one is in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tagmoe.routing.reading import CaseTokens, Recording
from tagmoe.routing.recording import Case
from tagmoe.routing.specialization import mask_concentration
from tagmoe.routing.streams import image_weights, parts_of


@dataclass(frozen=True)
class CaseSummary:
    """The routing of one case with S steps, of which K have their tokens kept, L layers and N experts.

    target_SLN: shares of first choices of the target's tokens. references_LN: the same of all reference tokens, mean
    over steps; None without references. signature_LN: mean full score over steps and the image tokens that count (by
    default all); its mean over layers is g (Eq. 3). means_2LN: mean full score of the target's and of the references'
    tokens. parts_2LN: what these add to g. best: mean over tokens of the best score (1/N: undecided, 1: certain).
    inside, elsewhere: `mask_concentration` (K, L, N) of the target's tokens in the case's own mask, and in that of the
    case before. inside_reference: the same of the first reference's tokens, if its grid equals the target's. area: the
    mask's share of the picture. These four are None without a mask.
    """

    case: Case
    target_SLN: np.ndarray
    references_LN: np.ndarray | None
    signature_LN: np.ndarray
    means_2LN: np.ndarray
    parts_2LN: np.ndarray
    best: float
    area: float | None
    inside: np.ndarray | None
    elsewhere: np.ndarray | None
    inside_reference: np.ndarray | None

    @property
    def target_LN(self) -> np.ndarray:
        """`target_SLN`, mean over steps."""
        return np.asarray(self.target_SLN.mean(axis=0))


def summarise(recording: Recording) -> list[CaseSummary]:
    """Every case of a recording, in its order. Raises ResultError for damaged tensors."""
    summaries = []
    masks: dict[tuple[int, ...], np.ndarray] = {}
    for case in recording.cases:
        tokens = recording.tokens(case)
        usable = tokens.mask_hw is not None and 0.0 < float(tokens.mask_hw.mean()) < 1.0
        mask_hw = tokens.mask_hw if usable and not case.facts.control else None
        summaries.append(_summary(case, tokens, mask_hw, None if mask_hw is None else masks.get(mask_hw.shape)))
        if mask_hw is not None:
            masks[mask_hw.shape] = mask_hw
    return summaries


def _summary(case: Case, tokens: CaseTokens, mask_hw: np.ndarray | None, other_hw: np.ndarray | None) -> CaseSummary:
    counts_I = np.array([prod(grid) for grid in case.grids], dtype=np.float64)
    shares_SLIN, means_SLIN = tokens.shares_SLIN.astype(np.float64), tokens.means_SLIN.astype(np.float64)
    references, reference_means = None, np.full(means_SLIN.shape[1::2], np.nan)
    if len(counts_I) > 1:
        weight_I = counts_I[1:] / counts_I[1:].sum()
        references = np.einsum("slin,i->ln", shares_SLIN[:, :, 1:], weight_I) / len(shares_SLIN)
        reference_means = np.einsum("slin,i->ln", means_SLIN[:, :, 1:], weight_I) / len(means_SLIN)
    weight_LI = image_weights(tokens.routing_tokens, tokens.grids, means_SLIN.shape[1])
    inside = elsewhere = reference = None
    if mask_hw is not None:
        target = tokens.image(0)
        inside = mask_concentration(target, mask_hw)
        elsewhere = None if other_hw is None else mask_concentration(target, other_hw)
        if len(case.grids) > 1 and case.grids[1] == case.grids[0]:
            reference = mask_concentration(tokens.image(1), mask_hw)
    return CaseSummary(
        case=case,
        target_SLN=shares_SLIN[:, :, 0],
        references_LN=references,
        signature_LN=np.einsum("slin,li->ln", means_SLIN, weight_LI) / len(means_SLIN),
        means_2LN=np.stack([means_SLIN[:, :, 0].mean(axis=0), reference_means]),
        parts_2LN=parts_of(means_SLIN, weight_LI),
        best=float(tokens.scores_KLTN.max(axis=-1).mean()),
        area=None if mask_hw is None else float(mask_hw.mean()),
        inside=inside,
        elsewhere=elsewhere,
        inside_reference=reference,
    )
