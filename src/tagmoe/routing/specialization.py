"""The statistics of expert specialisation (paper 4.5, Fig. 6), each with what it would be by chance. numpy alone.

C cases, L mixture layers, N experts, K tags, S denoising steps. Everything that is compared with chance says so by
shuffling labels, and everything that is a mean over cases carries an interval by resampling them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.intervals import Bootstrap, Interval

PERMUTATIONS = 1000
RESAMPLES = 2000


@dataclass(frozen=True)
class MutualInformation:
    """I(task; expert) of each layer in nats, its mean and 95th percentile under shuffled task labels, p-values.

    most: the largest value possible, the entropy of the tasks or ln N, whichever is less. task_TL: what each task
    contributes, the divergence of its shares from those of all cases, in the order of `tasks`; I is their mean weighted
    by cases.
    """

    value_L: np.ndarray
    permuted_L: np.ndarray
    permuted_high_L: np.ndarray
    p_L: np.ndarray
    most: float
    tasks: tuple[str, ...]
    task_TL: np.ndarray
    task_permuted_TL: np.ndarray
    task_permuted_high_TL: np.ndarray


def deviation(shares: np.ndarray) -> np.ndarray:
    """Shares (..., N) minus the uniform share 1 / N: what the paper's 0 to 100 % scale hides for N other than 2."""
    return shares - 1.0 / shares.shape[-1]


def group_means(values: np.ndarray, groups: Sequence[str]) -> dict[str, np.ndarray]:
    """Mean over the cases of each group, in order of first appearance: values (C, ...) -> {group: (...)}."""
    labels = np.asarray(groups)
    return {group: values[labels == group].mean(axis=0) for group in dict.fromkeys(groups)}


def mutual_information(
    shares_CLN: np.ndarray, tasks: Sequence[str], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> MutualInformation:
    """How many nats the first-choice expert of a token tells about its case's task, layer by layer.

    shares_CLN: each case's shares of first choices; a case counts as much as any other, however many tokens it has.
    The estimate is biased upward (a finite sample never has equal shares), so it is to be read against the mean under
    shuffled labels: the same cases, the same shares, the tasks dealt out anew.
    """
    names = list(dict.fromkeys(tasks))
    member_CT = np.eye(len(names))[[names.index(task) for task in tasks]]
    prior_T = member_CT.mean(axis=0)
    rng = np.random.default_rng(seed)
    task_TL = _divergence(shares_CLN, member_CT)
    shuffled_RTL = np.stack(
        [_divergence(shares_CLN, member_CT[rng.permutation(len(tasks))]) for _ in range(permutations)]
    )
    value_L, shuffled_RL = prior_T @ task_TL, prior_T @ shuffled_RTL
    return MutualInformation(
        value_L=value_L,
        permuted_L=shuffled_RL.mean(axis=0),
        permuted_high_L=np.quantile(shuffled_RL, 0.95, axis=0),
        p_L=(1 + (shuffled_RL >= value_L).sum(axis=0)) / (1 + permutations),
        most=float(min(-(prior_T * np.log(prior_T)).sum(), np.log(shares_CLN.shape[-1]))),
        tasks=tuple(names),
        task_TL=task_TL,
        task_permuted_TL=shuffled_RTL.mean(axis=0),
        task_permuted_high_TL=np.quantile(shuffled_RTL, 0.95, axis=0),
    )


def _divergence(shares_CLN: np.ndarray, member_CT: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each task's mean shares from the mean of all cases, nats: (T, L)."""
    cases, layers, experts = shares_CLN.shape
    of_task_TLN = (member_CT.T @ shares_CLN.reshape(cases, -1)).reshape(-1, layers, experts)
    of_task_TLN /= member_CT.sum(axis=0)[:, None, None]
    of_all_LN = shares_CLN.mean(axis=0)
    ratio = np.divide(of_task_TLN, of_all_LN, out=np.ones_like(of_task_TLN), where=of_task_TLN > 0)
    return np.asarray((of_task_TLN * np.log(ratio)).sum(axis=2))


def tag_table(
    values_CF: np.ndarray, tags: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, Interval[np.ndarray]]:
    """For each tag that some cases have and others lack: mean over its cases minus mean over the others, (F,) each.

    The interval resamples cases with and without the tag apart. Tags come together (face and identity preservation),
    so a row is what goes with a tag, not what the tag does.
    """
    bootstrap, table = Bootstrap(RESAMPLES), {}
    for name in names:
        has = np.array([name in one for one in tags])
        if has.any() and not has.all():
            table[name] = bootstrap.mean(values_CF[has], minus=values_CF[~has])
    return table


def cosine_matrix(means: dict[str, np.ndarray]) -> np.ndarray:
    """Cosines between groups of (F,) features, each minus the mean of all groups: (groups, groups), 1 on the diagonal.

    Without subtracting the mean all cosines of shares are near 1. A group without deviation has cosine 0 to others.
    """
    features = np.stack([value.ravel() for value in means.values()])
    features = features - features.mean(axis=0)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 1.0)
    return np.asarray(cosine)


def principal_components(features_CF: np.ndarray, components: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """PCA by SVD of the un-averaged signatures: coordinates (C, components) and their shares of the variance."""
    centred = features_CF - features_CF.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(components, len(size))
    total = max(float((size**2).sum()), 1e-30)
    return left[:, :count] * size[:count], size[:count] ** 2 / total


def mask_concentration(scores: np.ndarray, mask_hw: np.ndarray) -> np.ndarray:
    """Share of each expert's gate mass inside the edit mask, over the mask's share of the picture.

    scores (..., h, w, N) of the target's tokens, mask_hw the share of each token in the mask -> (..., N). 1 is no
    preference, above 1 the expert is preferred inside; at most 1 / area. Raises ValueError for an empty or full mask.
    """
    area = float(mask_hw.mean())
    if not 0.0 < area < 1.0:
        raise ValueError(f"a mask over {area:.3g} of the picture has no inside and outside")
    scores = scores.astype(np.float64)
    inside = (scores * mask_hw[..., None]).sum(axis=(-3, -2))
    mass = scores.sum(axis=(-3, -2))
    return np.divide(inside, mass, out=np.full_like(inside, area), where=mass > 0) / area
