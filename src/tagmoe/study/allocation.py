"""Who sees which case, and in which order the methods stand: balanced quotas, Latin squares, checks and repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.study.manifest import Trial

APART = 3
"""Pages that lie at least between a page and its repeat, where a person has so many."""


def allocate(
    cases: int, methods: int, people: int, ratings: int, *, check_every: int, repeat_every: int, seed: int
) -> tuple[tuple[Trial, ...], ...]:
    """The pages of each person.

    Every case is rated `ratings` times, by as many people; people differ by one page at most. The orders of a case are
    the rotations of one random order (a cyclic Latin square): where `ratings` is a multiple of the methods, each method
    stands as often at every position. check_every, repeat_every: pages for which there is one check or repeat; 0: none.
    Raises UsageError where a person would see a case twice.
    """
    if ratings > people:
        raise UsageError(
            f"Each case is to be rated {ratings} times by {people} people; a person rates a case once, so give at most "
            f"{people} ratings."
        )
    random = np.random.default_rng([seed, cases, methods, people, ratings])
    shares = _shares(cases, people, ratings, random)
    base_CK = [random.permutation(methods) for _ in range(cases)]
    turn_C = random.integers(0, methods, cases)
    sheets = []
    for share in shares:
        trials = []
        for case in share:
            trials.append(Trial(case=case, order=_rotated(base_CK[case], int(turn_C[case]))))
            turn_C[case] += 1
        sheets.append(_with_extras(trials, cases, random, check_every, repeat_every))
    return tuple(sheets)


def _shares(cases: int, people: int, ratings: int, random: np.random.Generator) -> list[list[int]]:
    """The cases of each person: chunks of random orders of all cases, one after another."""
    sets = cases * ratings
    sizes = [sets // people + (person < sets % people) for person in range(people)]
    random.shuffle(sizes)
    queue: list[int] = []
    shares = []
    for size in sizes:
        while len(queue) < size:
            new = random.permutation(cases).tolist()
            # A chunk across two orders must not hold a case twice: what it has already goes to the end of the new one.
            had = set(queue)
            queue += [case for case in new if case not in had] + [case for case in new if case in had]
        shares.append(queue[:size])
        queue = queue[size:]
    for share in shares:
        random.shuffle(share)
    return shares


def _rotated(order_K: np.ndarray, turn: int) -> tuple[int, ...]:
    return tuple(int(method) for method in np.roll(order_K, turn % len(order_K)))


def _with_extras(
    trials: Sequence[Trial], cases: int, random: np.random.Generator, check_every: int, repeat_every: int
) -> tuple[Trial, ...]:
    """The pages of a person with checks at random places, and with repeats far behind what they repeat."""
    pages = list(trials)
    methods = len(trials[0].order) if trials else 0
    own = {trial.case for trial in trials}
    for _ in range(_extras(len(trials), check_every) if cases >= methods else 0):
        case = int(random.choice([c for c in range(cases) if c not in own] or list(range(cases))))
        order = tuple(int(method) for method in random.permutation(methods))
        others = random.permutation([c for c in range(cases) if c != case])[: methods - 1].tolist()
        place = int(random.integers(methods))
        shown = (*others[:place], case, *others[place:])
        pages.insert(int(random.integers(1, len(pages) + 1)), Trial(kind="check", case=case, order=order, cases=shown))
    repeats = _extras(len(trials), repeat_every)
    first = [page for page in pages if page.kind == "trial"][: max(1, len(trials) - APART)]
    chosen = random.permutation(len(first))[:repeats].tolist()
    for original in (first[number] for number in sorted(chosen)):
        number = pages.index(original)
        turn = int(random.integers(1, methods)) if methods > 1 else 0
        # Repeats stand at the end, so that the numbers of earlier pages stay.
        pages.append(
            Trial(kind="repeat", case=original.case, order=_rotated(np.array(original.order), turn), repeats=number)
        )
    return tuple(pages)


def _extras(pages: int, every: int) -> int:
    return math.ceil(pages / every) if every and pages else 0
