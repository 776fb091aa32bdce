"""Blinding against a clock: how long pictures and pages take names no method, warm or from the disk."""

from __future__ import annotations

import http.client
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from support.studies import Study, made_study, serving_study

from tagmoe.study.build import PICTURES
from tagmoe.study.manifest import PUBLIC

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROUNDS, DRAWS = 40, 4999
SURE = 0.001
"""Below this p a leak is taken as found. A fair server is accused in one of a thousand runs."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made_study(tmp_path_factory.mktemp("study"), cases=16, people=16, ratings=16, side=128, check_every=0)


def evict(path: Path) -> None:
    """Drop a file from the memory of the system, so that it is read from the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def times_of_pictures(study: Study, before: Callable[[Path], None] = lambda path: None) -> np.ndarray:
    """(cases, methods): seconds of each picture by one connection, over rounds in random orders. A tenth of the rounds
    was quicker: other programmes only make an answer slower."""
    names = [(case, m, name) for case, all_ in enumerate(study.key.names) for m, name in enumerate(all_[1:])]
    found = np.empty((len(study.key.names), len(study.manifest.names), ROUNDS))
    chance = random.Random(0)
    with serving_study(study) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        for turn in range(-1, ROUNDS):
            chance.shuffle(names)
            for case, method, name in names:
                before(study.folder / PUBLIC / PICTURES / f"{name}.png")
                started = time.perf_counter()
                connection.request("GET", f"/pictures/{name}.png")
                connection.getresponse().read()
                # The round before the first only warms the connection.
                found[case, method, max(turn, 0)] = time.perf_counter() - started
        connection.close()
    return np.asarray(np.quantile(found, 0.1, axis=2))


def p_of(times_CM: np.ndarray) -> float:
    """The permutation test of "the method says nothing": methods are exchanged within cases. Ranks, so that one slow
    answer counts no more than another."""
    rank_CM = times_CM.argsort(axis=1).argsort(axis=1).astype(float)
    random_ = np.random.default_rng(0)

    def spread(ranks_CM: np.ndarray) -> float:
        return float((ranks_CM.mean(axis=0) ** 2).sum())

    seen = spread(rank_CM)
    more = sum(spread(random_.permuted(rank_CM, axis=1)) >= seen - 1e-12 for _ in range(DRAWS))
    return (1 + more) / (1 + DRAWS)


def guessed(times_CM: np.ndarray) -> float:
    """How many methods of a case a rule names that learnt the mean order of the methods on the other cases."""
    cases, methods = times_CM.shape
    hits = 0
    for case in range(cases):
        known = np.delete(times_CM - times_CM.mean(axis=1, keepdims=True), case, axis=0).mean(axis=0)
        hits += int((times_CM[case].argsort()[known.argsort().argsort()] == np.arange(methods)).sum())
    return hits / (cases * methods)


def of_other_sizes(study: Study) -> None:
    """As if nothing had been padded and each method's pictures compressed in its own way: a size for each method."""
    for case in study.key.names:
        for method, name in enumerate(case[1:], 1):
            path = study.folder / PUBLIC / PICTURES / f"{name}.png"
            data = path.read_bytes()
            path.write_bytes(data[: len(data) * method // len(case[1:])])


@pytest.mark.parametrize("cold", [False, True])
def test_the_time_of_a_picture_names_no_method(study: Study, cold: bool) -> None:
    times = times_of_pictures(study, evict) if cold else times_of_pictures(study)
    p, share = p_of(times), guessed(times)
    print(f"cold {cold}: p {p:.4f}, guessed {share:.2f} of 0.33, means {np.round(1e6 * times.mean(axis=0))} us")
    assert p > SURE, (p, share)


def test_a_leak_of_sizes_would_be_found(tmp_path: Path) -> None:
    leaky = made_study(tmp_path, cases=16, people=4, ratings=3, side=128, check_every=0)
    of_other_sizes(leaky)
    times = times_of_pictures(leaky)
    p, share = p_of(times), guessed(times)
    print(f"sizes by method: p {p:.4f}, guessed {share:.2f}, means {np.round(1e6 * times.mean(axis=0))} us")
    assert p < SURE
    assert share > 0.5


def test_the_time_of_an_answer_does_not_say_which_method_was_chosen(study: Study) -> None:
    """The page that comes next holds all methods, so only the choice could tell."""
    chance = random.Random(1)
    seen: list[tuple[int, float]] = []
    with serving_study(study) as server:
        for person, sheet in enumerate(study.manifest.sheets):
            visitor = server.visitor(person)
            state = visitor.consent()
            for number in range(len(sheet)):
                assert state["page"]["number"] == number
                position = chance.randrange(3)
                started = time.perf_counter()
                state = visitor.answer(number, position).json()
                seen.append((sheet[number].order[position], time.perf_counter() - started))
    method_N, time_N = np.array([m for m, _ in seen]), np.array([t for _, t in seen])
    rank_N = time_N.argsort().argsort() - (len(time_N) - 1) / 2
    random_ = np.random.default_rng(0)

    def spread(methods_N: np.ndarray) -> float:
        return float((np.bincount(methods_N, rank_N) ** 2 / np.bincount(methods_N)).sum())

    real = spread(method_N)
    p = (1 + sum(spread(random_.permutation(method_N)) >= real for _ in range(DRAWS))) / (1 + DRAWS)
    print(f"{len(seen)} answers, p {p:.4f}")
    assert len(seen) >= 16 * 16
    assert p > SURE
