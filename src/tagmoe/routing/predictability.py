"""Can the task be read off the routing? Cross-validated against shuffled labels (the claim behind Eq. 4)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.extras import require

FOLDS = 5
SHUFFLES = 100


@dataclass(frozen=True)
class Accuracy:
    """How often the task of a case that was left out is guessed from its signature.

    permuted, permuted_high: mean and 95th percentile of the same with shuffled labels. majority: always guessing the
    most frequent task. p: share of shuffles at least as good. predicted: of each case, in their order ("" if left out).
    """

    value: float
    permuted: float
    permuted_high: float
    p: float
    majority: float
    cases: int
    tasks: int
    predicted: tuple[str, ...]


def task_accuracy(
    signature_CLN: np.ndarray,
    tasks: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> Accuracy | None:
    """Accuracy of linear discriminant analysis on signatures (C, L, N) of mean scores, by cross-validation.

    Five folds that hold as much of every task as possible; with `groups` (say the picture of each case) no group is
    both learned from and guessed. Tasks of one case are left out; None when fewer than two tasks remain. Raises
    MissingError without scikit-learn.
    """
    counts = Counter(tasks)
    used = np.array([counts[task] > 1 for task in tasks])
    labels = np.asarray(tasks)[used]
    names, y = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return None
    # Scores sum to 1, so the last expert of a layer says nothing new.
    features = signature_CLN[used][..., :-1].reshape(int(used.sum()), -1)
    folds = _folds(y, None if groups is None else np.asarray(groups)[used], seed)
    if len(folds) < 2:
        return None
    guessed = _guess(features, y, folds)
    value = float((guessed == y).mean())
    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(shuffles):
        shuffled = rng.permutation(y)
        chance.append(float((_guess(features, shuffled, folds) == shuffled).mean()))
    predicted = np.full(len(tasks), "", dtype=object)
    predicted[used] = names[guessed]
    return Accuracy(
        value=value,
        permuted=float(np.mean(chance)),
        permuted_high=float(np.quantile(chance, 0.95)),
        p=(1 + sum(c >= value for c in chance)) / (1 + shuffles),
        majority=float(np.bincount(y).max() / len(y)),
        cases=len(y),
        tasks=len(names),
        predicted=tuple(predicted),
    )


def _folds(y: np.ndarray, groups: np.ndarray | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    require("reports", "sklearn", purpose="The routing report")
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    if groups is not None:
        number = min(FOLDS, len(np.unique(groups)))
        return list(GroupKFold(number).split(y, y, groups)) if number > 1 else []
    with warnings.catch_warnings():
        # A task of fewer cases than folds is missing in some folds: its cases are guessed all the same.
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedKFold(min(FOLDS, int(np.bincount(y).max())), shuffle=True, random_state=seed)
        return list(splitter.split(y, y))


def _guess(features: np.ndarray, y: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    guessed = np.zeros_like(y)
    for learned, left_out in folds:
        guessed[left_out] = discriminant(features[learned], y[learned], features[left_out])
    return guessed


def discriminant(known_CF: np.ndarray, labels_C: np.ndarray, asked_DF: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis: the labels (D,) guessed for `asked_DF` from labelled cases `known_CF`.

    scikit-learn's LinearDiscriminantAnalysis gives the same, but fails where a label has no spread, and shuffling
    labels calls this a thousand times.
    """
    names, y = np.unique(labels_C, return_inverse=True)
    member_CK = np.eye(len(names))[y]
    counts_K = member_CK.sum(axis=0)
    means_KF = member_CK.T @ known_CF / counts_K[:, None]
    spread_CF = known_CF - means_KF[y]
    within_FF = spread_CF.T @ spread_CF / len(known_CF)
    # Where gates are all but constant the spread is singular; far below any spread that is there.
    within_FF += np.eye(within_FF.shape[0]) * max(1e-9 * float(np.trace(within_FF)), 1e-12)
    weights_FK = np.linalg.solve(within_FF, means_KF.T)
    offset_K = np.log(counts_K / len(y)) - 0.5 * (means_KF * weights_FK.T).sum(axis=1)
    return np.asarray(names[(asked_DF @ weights_FK + offset_K).argmax(axis=1)])
