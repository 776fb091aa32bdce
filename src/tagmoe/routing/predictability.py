"""Can the task be read off the routing? Cross-validated against shuffled labels (the claim behind Eq. 4)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.errors import MissingError

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
    try:
        from sklearn.model_selection import GroupKFold, StratifiedKFold
    except ImportError:
        raise MissingError("The routing report needs scikit-learn; run: pip install 'tagmoe[reports]'.") from None
    if groups is not None:
        number = min(FOLDS, len(np.unique(groups)))
        return list(GroupKFold(number).split(y, y, groups)) if number > 1 else []
    with warnings.catch_warnings():
        # A task of fewer cases than folds is missing in some folds: its cases are guessed all the same.
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedKFold(min(FOLDS, int(np.bincount(y).max())), shuffle=True, random_state=seed)
        return list(splitter.split(y, y))


def _guess(features: np.ndarray, y: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    guessed = np.zeros_like(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for learned, left_out in folds:
            if len(np.unique(y[learned])) < 2:
                guessed[left_out] = y[learned][0]
                continue
            # A little shrinkage keeps the covariance invertible where gates are all but constant.
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.05)
            guessed[left_out] = model.fit(features[learned], y[learned]).predict(features[left_out])
    return guessed
