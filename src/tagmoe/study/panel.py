"""Simulated people of known taste: they try a study out, and show what the analysis recovers. Never mixed with real.

A method's utility is the logarithm of its weight, plus a normal effect of each case and of each person; a person takes
the best after Gumbel noise (Luce's choice). Careless people choose a position at random, on checks too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.sentences import cut
from tagmoe.study.manifest import Manifest, Trial
from tagmoe.study.store import PageAnswer, Store

MARK = "simulated"
PAGE_MS = 9_000


@dataclass(frozen=True)
class Panel:
    """What simulated people like. case_sd, person_sd: of the effects, in units of utility. attentive: the share of
    checks that an attentive person passes. position: utility of standing first."""

    taste: Mapping[str, float]
    case_sd: float = 0.6
    person_sd: float = 0.4
    careless: float = 0.0
    attentive: float = 0.98
    position: float = 0.0
    seed: int = 0

    def check(self, manifest: Manifest) -> None:
        """Raise UsageError where the taste does not name every method once, with a weight above zero."""
        if set(self.taste) != set(manifest.names):
            other = sorted(set(self.taste) ^ set(manifest.names))[0]
            raise UsageError(
                f"The taste does not fit the method {cut(other)!r}; give a weight for each of "
                f"{', '.join(manifest.names)}."
            )
        if not all(weight > 0 for weight in self.taste.values()):
            raise UsageError("A weight of the taste is not above 0; give numbers such as 2 or 0.5.")

    def expected(self, manifest: Manifest, draws: int = 20_000) -> dict[str, float]:
        """The true selection rate of each method over new cases and new, attentive people: a Monte Carlo mean."""
        random = np.random.default_rng([self.seed, 1])
        methods = len(manifest.names)
        spread = np.hypot(self.case_sd, self.person_sd)
        utility_DK = self._base(manifest) + spread * random.standard_normal((draws, methods))
        share_DK = np.exp(utility_DK - utility_DK.max(axis=1, keepdims=True))
        share_DK /= share_DK.sum(axis=1, keepdims=True)
        return {name: float(share) for name, share in zip(manifest.names, share_DK.mean(axis=0), strict=True)}

    def about(self, manifest: Manifest) -> dict[str, Any]:
        """What is kept beside the answers."""
        return {"panel": {**asdict(self), "taste": dict(self.taste)}, "expected": self.expected(manifest)}

    def _base(self, manifest: Manifest) -> np.ndarray:
        return np.log([self.taste[name] for name in manifest.names])


def answer_all(manifest: Manifest, store: Store, panel: Panel) -> int:
    """Let the panel answer every page; returns how many pages were answered."""
    random = np.random.default_rng([panel.seed, 2])
    criteria, methods = manifest.criteria, len(manifest.names)
    case_QCK = panel.case_sd * random.standard_normal((len(criteria), len(manifest.cases), methods))
    language = next(iter(manifest.languages))
    answers = []
    for person, sheet in enumerate(manifest.sheets):
        answers.append(store.consent(person, language, "", "large"))
        is_careless = random.random() < panel.careless
        person_QK = panel.person_sd * random.standard_normal((len(criteria), methods))
        for number, trial in enumerate(sheet):
            choices = {}
            for place, name in enumerate(criteria):
                utility_K = panel._base(manifest) + case_QCK[place, trial.case] + person_QK[place]
                choices[name] = _choice(trial, utility_K, panel, random, is_careless)
            attempt = hashlib.sha256(f"{panel.seed} {person} {number}".encode()).hexdigest()[:32]
            shown = round(PAGE_MS * float(random.lognormal(0, 0.4)))
            answers.append(store.answer(person, PageAnswer(number, attempt, choices, shown, 0, 0, language)))
    for answer in answers:
        answer.result()
    return len(answers) - len(manifest.sheets)


def _choice(trial: Trial, utility_K: np.ndarray, panel: Panel, random: np.random.Generator, is_careless: bool) -> int:
    """The position that is chosen."""
    if is_careless:
        return int(random.integers(len(trial.order)))
    if trial.kind == "check" and random.random() < panel.attentive:
        return trial.right
    noise_K = random.gumbel(size=len(trial.order))
    noise_K[0] += panel.position
    return int(np.argmax(utility_K[list(trial.order)] + noise_K))
