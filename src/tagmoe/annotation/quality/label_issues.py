"""Find tags that are probably wrong, by confident learning (Northcutt et al. 2021, with cleanlab).

A linear probe learns the tags of four fifths of the root pictures from simple features, and predicts probabilities for
the rest. A tag is doubted if its probability is far from that of other rows with the tag. This finds tags that differ
from those of similar rows, not mistakes that an annotator makes everywhere.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.data.store.record import NO_INPUTS
from tagmoe.errors import ImageError
from tagmoe.extras import require
from tagmoe.pictures import load_image
from tagmoe.sentences import counted
from tagmoe.tags import TAG_NAMES, TAGS

FOLDS = 5
MIN_ROWS = 50
SIDE, COARSE = 32, 4
WORDS = 256
"""Buckets for the hashes of words and of pairs of words."""
_REGULARISATION = 0.01
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Doubt:
    """A doubted tag. given: whether the row has it. probability: of the tag, by the probe."""

    tag: str
    given: bool
    probability: float


@dataclass(frozen=True)
class LabelIssue:
    """A row with doubted tags. number: its index."""

    number: int
    doubts: tuple[Doubt, ...]


@dataclass(frozen=True)
class LabelIssues:
    """issues: the worst first. rows: number of rows examined. reason: why no issues could be found, or ''."""

    rows: int
    issues: tuple[LabelIssue, ...] = ()
    reason: str = ""


def features_of(row: Mapping[str, Any]) -> np.ndarray | None:
    """Features (D,) float32 of a record: small source and target, their difference, words of the instruction.

    None if a picture cannot be decoded.
    """
    given = next((image for image in row["images"] or () if image["role"] not in NO_INPUTS), None)
    target = _small(row["target"]["data"])
    source = None if given is None else _small(given["data"])
    if target is None or (given is not None and source is None):
        return None
    has_source = source is not None
    source = np.zeros_like(target) if source is None else source
    return np.concatenate(
        [
            [float(has_source), float(given is not None and given["role"] == "source")],
            _coarse(source).ravel(),
            _coarse(target).ravel(),
            _difference(source, target) if has_source else np.zeros(_DIFFERENCES),
            _words(row["instruction"]),
        ]
    ).astype(np.float32)


def find_label_issues(features_ND: np.ndarray, sets: Sequence[int], roots: Sequence[str]) -> LabelIssues:
    """The rows whose tags do not fit their features. sets: tags as bit sets. roots: rows of one root share a fold.

    Raises MissingError without cleanlab.
    """
    rows = len(features_ND)
    folds = min(FOLDS, len(set(roots)))
    if rows < MIN_ROWS or folds < 2:
        return LabelIssues(
            rows, reason=f"{counted(rows, 'row')} of {counted(len(set(roots)), 'picture')} are too few for a probe"
        )
    labels_NK = np.array([[bits >> tag & 1 for tag in range(len(TAGS))] for bits in sets], dtype=bool)
    # Leave out tags that almost no row or almost every row has: the probe cannot learn them.
    used = [tag for tag in range(len(TAGS)) if folds <= labels_NK[:, tag].sum() <= rows - folds]
    if not used:
        return LabelIssues(rows, reason="no tag is in some of the rows and not in others")
    probabilities_NU = probe(features_ND, labels_NK[:, used], roots)
    ranked, doubted = _cleanlab(labels_NK[:, used], probabilities_NU)
    issues = []
    for number in ranked:
        doubts = [
            Doubt(TAG_NAMES[tag], bool(labels_NK[number, tag]), float(probabilities_NU[number, column]))
            for column, tag in enumerate(used)
            if doubted[number, column]
        ]
        doubts.sort(key=lambda doubt: -abs(doubt.given - doubt.probability))
        issues.append(LabelIssue(int(number), tuple(doubts)))
    return LabelIssues(rows, tuple(issues))


def probe(features_ND: np.ndarray, labels_NU: np.ndarray, roots: Sequence[str]) -> np.ndarray:
    """Out-of-sample probabilities (N, U) of the tags, by logistic regressions with folds by root picture."""
    require("vlm", "sklearn", purpose="Finding label issues")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    groups = np.unique(np.array(roots), return_inverse=True)[1]
    folds = min(FOLDS, int(groups.max()) + 1)
    probabilities_NU = np.empty(labels_NU.shape)
    for train, test in GroupKFold(folds, shuffle=True, random_state=0).split(features_ND, groups=groups):
        mean, spread = features_ND[train].mean(axis=0), features_ND[train].std(axis=0)
        scaled = (features_ND - mean) / np.where(spread < 1e-6, 1.0, spread)
        scaled /= np.sqrt(scaled.shape[1])
        for column in range(labels_NU.shape[1]):
            known = labels_NU[train, column]
            if known.all() or not known.any():
                probabilities_NU[test, column] = (known.sum() + 1) / (len(known) + 2)
                continue
            model = LogisticRegression(C=_REGULARISATION * scaled.shape[1], max_iter=100, tol=1e-3)
            with warnings.catch_warnings():
                # Ignore warnings about convergence: 100 steps are enough for a ranking.
                warnings.simplefilter("ignore")
                model.fit(scaled[train], known)
            probabilities_NU[test, column] = model.predict_proba(scaled[test])[:, 1]
    return probabilities_NU


def _cleanlab(labels_NU: np.ndarray, probabilities_NU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows with an issue, the worst first; doubted tags as (N, U) bool)."""
    require("vlm", "cleanlab", purpose="Finding label issues")
    from cleanlab.multilabel_classification import filter as issues

    labels = [np.flatnonzero(row).tolist() for row in labels_NU]
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        ranked = issues.find_label_issues(
            labels, probabilities_NU, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        by_tag = issues.find_multilabel_issues_per_class(labels, probabilities_NU, n_jobs=1)
    return np.asarray(ranked), np.asarray(by_tag)


class _quiet:
    """Silences log messages of libraries below the level of errors."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *error: object) -> None:
        logging.disable(self._before)


def _small(data: bytes) -> np.ndarray | None:
    """(SIDE, SIDE, 3) float32 from 0 to 1; None if the picture cannot be decoded or is too large."""
    try:
        small = load_image(data, draft=(2 * SIDE, 2 * SIDE)).resize((SIDE, SIDE), Image.Resampling.BOX)
    except ImageError:
        return None
    return np.asarray(small, np.float32) / 255


def _coarse(picture: np.ndarray) -> np.ndarray:
    cell = SIDE // COARSE
    return picture.reshape(COARSE, cell, COARSE, cell, -1).mean(axis=(1, 3))


_DIFFERENCES = COARSE * COARSE + 3 + 3 + 8


def _difference(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Features of the difference: where and how much it is, how much it is brightness, and whether edges stay."""
    change = target - source
    size = np.abs(change).mean(axis=2)
    changed = size > 0.06
    before, after = source @ _LUMA, target @ _LUMA
    edges = [np.hypot(*np.gradient(picture)).ravel() for picture in (before, after)]
    filled = changed.any(axis=0).mean() * changed.any(axis=1).mean()
    figures = [
        size.mean(),
        size.std(),
        changed.mean(),
        filled,
        changed.mean() / filled if filled else 0.0,
        (after - before).std(),
        _correlation(*edges),
        _correlation(before.ravel(), after.ravel()),
    ]
    maps = _coarse(size[..., None]).ravel(), change.mean(axis=(0, 1)), change.std(axis=(0, 1))
    return np.concatenate([*maps, np.array(figures)])


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    spread = first.std() * second.std()
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread > 1e-9 else 0.0


def _words(text: str) -> np.ndarray:
    """A unit vector of words and pairs of words, by the hashing trick with signs."""
    words = re.findall(r"\w+", text.lower())[:400]
    found = np.zeros(WORDS)
    for gram in (*words, *map(" ".join, pairwise(words))):
        bucket, sign = _bucket(gram)
        found[bucket] += sign
    return found / max(1.0, float(np.linalg.norm(found)))


@lru_cache(maxsize=65536)
def _bucket(gram: str) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=4).digest(), "big")
    return number % WORDS, 1 if number >> 31 else -1
