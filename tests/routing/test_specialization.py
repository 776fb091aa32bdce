"""The statistics on data whose answer is known: planted, absent, or extreme."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.routing.contrasts import contrasts, distances, variance
from tagmoe.routing.predictability import discriminant, task_accuracy
from tagmoe.routing.recording import Facts
from tagmoe.routing.specialization import (
    cosine_matrix,
    deviation,
    group_means,
    mask_concentration,
    mutual_information,
    principal_components,
    tag_table,
)


def shares(seed: int, cases: int, layers: int = 2, experts: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(experts), size=(cases, layers))


def test_routing_that_is_the_task_has_all_the_information() -> None:
    tasks = ["a", "b"] * 20
    routed = np.array([[[1.0, 0, 0, 0]] if task == "a" else [[0, 1.0, 0, 0]] for task in tasks])
    found = mutual_information(routed, tasks, permutations=200)
    assert found.value_L == pytest.approx([math.log(2)])
    assert found.most == pytest.approx(math.log(2))
    assert found.p_L[0] < 0.01


def test_the_information_of_tasks_is_large_where_the_routing_differs_and_averages_to_the_whole() -> None:
    tasks = ["a"] * 6 + ["b"] * 6 + ["odd"] * 4
    routed = np.broadcast_to(shares(3, 1), (16, 2, 4)).copy()
    routed[12:] = [0.01, 0.01, 0.01, 0.97]
    found = mutual_information(routed, tasks, permutations=50)
    assert found.tasks == ("a", "b", "odd")
    assert (found.task_TL.argmax(axis=0) == 2).all()
    assert (found.task_TL[2] > found.task_permuted_high_TL[2]).all()
    assert found.value_L == pytest.approx(np.average(found.task_TL, axis=0, weights=[6, 6, 4]))


def test_routing_that_ignores_the_task_is_biased_upward_and_so_is_chance() -> None:
    tasks = [f"t{i % 5}" for i in range(50)]
    found = mutual_information(shares(0, 50), tasks, permutations=300)
    assert (found.value_L > 0).all()
    assert found.value_L == pytest.approx(found.permuted_L, rel=0.8)
    assert (found.p_L > 0.01).all()
    assert (found.permuted_L < found.permuted_high_L).all()


def test_equal_cases_have_no_information() -> None:
    same = np.broadcast_to(shares(0, 1), (12, 2, 4))
    found = mutual_information(same, ["a", "b", "c"] * 4, permutations=20)
    assert found.value_L == pytest.approx([0, 0], abs=1e-12)
    assert found.p_L == pytest.approx([1, 1])


@given(st.integers(0, 1000), st.integers(2, 4))
def test_information_is_between_nothing_and_the_most_possible(seed: int, tasks: int) -> None:
    found = mutual_information(shares(seed, 12), [f"t{i % tasks}" for i in range(12)], permutations=3)
    assert (found.value_L >= -1e-12).all()
    assert (found.value_L <= found.most + 1e-12).all()


@given(st.integers(0, 1000))
def test_information_does_not_depend_on_the_names_or_the_order_of_cases_and_experts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    routed, tasks = shares(seed, 9), np.array(list("aabbbcccc"))
    order = rng.permutation(9)
    one = mutual_information(routed, list(tasks), permutations=1).value_L
    other = mutual_information(routed[order][..., rng.permutation(4)], [f"x{t}" for t in tasks[order]], permutations=1)
    assert other.value_L == pytest.approx(one)


def test_deviation_is_from_an_equal_share_for_any_number_of_experts() -> None:
    assert deviation(np.full((2, 5), 0.2)) == pytest.approx(np.zeros((2, 5)))
    assert deviation(np.array([1.0, 0.0])).tolist() == [0.5, -0.5]


def test_concentration_is_one_for_flat_scores_and_one_over_area_for_all_inside() -> None:
    mask = np.zeros((4, 4))
    mask[0, :2] = 1.0
    scores = np.zeros((5, 4, 4, 3))
    scores[..., 0] = 0.2
    scores[:, 0, :2, 1] = 0.7
    scores[:, 2:, :, 2] = 0.1
    found = mask_concentration(scores, mask)
    assert found.shape == (5, 3)
    assert found == pytest.approx(np.tile([1.0, 8.0, 0.0], (5, 1)))
    assert mask_concentration(np.zeros((4, 4, 1)), mask) == pytest.approx([1.0])


@pytest.mark.parametrize("full", [0.0, 1.0])
def test_a_mask_without_inside_or_outside_is_refused(full: float) -> None:
    with pytest.raises(ValueError, match="inside and outside"):
        mask_concentration(np.ones((2, 2, 1)), np.full((2, 2), full))


def test_a_tags_row_is_what_differs_with_the_tag() -> None:
    values = np.zeros((20, 2))
    values[:10, 0] = 1.0
    tags = [("x", "always")] * 10 + [("always",)] * 10
    table = tag_table(values, tags, ["x", "always", "never"])
    assert list(table) == ["x"]
    assert table["x"].n == 10
    assert table["x"].value.tolist() == [1.0, 0.0]
    assert table["x"].low[0] == pytest.approx(1.0)


def test_cosines_are_about_the_mean_of_all_tasks() -> None:
    means = {"a": np.array([0.3, 0.2]), "b": np.array([0.1, 0.4]), "c": np.array([0.2, 0.3])}
    cosine = cosine_matrix(means)
    assert cosine[0, 1] == pytest.approx(-1.0)
    assert cosine[0, 2] == pytest.approx(0.0)
    assert np.diag(cosine) == pytest.approx(np.ones(3))
    assert list(group_means(np.arange(4.0), ["b", "a", "b", "a"])) == ["b", "a"]


def test_principal_components_find_the_one_direction_there_is() -> None:
    line = np.outer(np.linspace(-1, 1, 9), [3.0, 4.0, 0.0]) + 7
    coordinates, of_variance = principal_components(line)
    assert of_variance[0] == pytest.approx(1.0)
    assert np.abs(coordinates[:, 0]) == pytest.approx(np.abs(np.linspace(-5, 5, 9)), abs=1e-9)


def test_the_task_is_read_off_where_it_is_and_only_there() -> None:
    tasks = [f"t{i % 4}" for i in range(60)]
    blind = shares(1, 60)
    found = task_accuracy(blind, tasks, shuffles=40)
    assert found is not None
    assert found.value <= found.permuted_high + 0.1
    assert found.permuted == pytest.approx(0.25, abs=0.08)
    seeing = blind.copy()
    for i, task in enumerate(tasks):
        seeing[i, 1] = 0.05
        seeing[i, 1, int(task[1])] = 0.85
    found = task_accuracy(seeing, tasks, shuffles=20)
    assert found is not None
    assert found.value == 1.0
    assert found.p == pytest.approx(1 / 21)
    assert found.predicted == tuple(tasks)


def test_the_discriminant_is_that_of_scikit_learn() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 6))
    y = rng.integers(0, 5, 200)
    known, asked = centres[y] + rng.normal(size=(200, 6)), rng.normal(size=(300, 6))
    expected = LinearDiscriminantAnalysis().fit(known, y).predict(asked)
    assert (discriminant(known, y, asked) == expected).all()
    apart = np.repeat(centres, 2, axis=0)
    assert discriminant(apart, np.repeat(np.arange(5), 2), centres).tolist() == [0, 1, 2, 3, 4]


def test_a_task_that_goes_with_its_picture_is_not_read_off_other_pictures() -> None:
    """Each picture has one task and its own signature: only cases of the same picture could tell."""
    rng = np.random.default_rng(0)
    pictures = [f"p{i // 5}" for i in range(60)]
    tasks = [f"t{int(p[1:]) % 3}" for p in pictures]
    own = {p: rng.dirichlet(np.ones(4), size=2) for p in dict.fromkeys(pictures)}
    signature = np.stack([own[p] for p in pictures]) + rng.normal(scale=1e-3, size=(60, 2, 4))
    mixed, apart = task_accuracy(signature, tasks, shuffles=5), task_accuracy(signature, tasks, pictures, shuffles=5)
    assert mixed is not None
    assert apart is not None
    assert mixed.value > apart.value + 0.2


def test_too_few_cases_have_no_accuracy_and_single_cases_are_left_out() -> None:
    assert task_accuracy(shares(0, 3), ["a", "b", "c"]) is None
    assert task_accuracy(shares(0, 4), ["a"] * 4) is None
    found = task_accuracy(shares(0, 5), ["a", "a", "b", "b", "only one"], shuffles=3)
    assert found is not None
    assert found.cases == 4
    assert found.predicted[4] == ""
    assert task_accuracy(np.full((6, 2, 4), 0.25), list("aabbcc"), shuffles=3) is not None


def crossed(picture: float, task: float, words: float, noise: float = 0.0) -> tuple[np.ndarray, list[Facts]]:
    """Five pictures x (three tasks of two instructions): signatures moved by each as much as said, and two noises."""
    rng = np.random.default_rng(0)
    moves = {key: rng.normal(size=(2, 4)) for key in [*"pqrst", *"abc", *(f"{t}{i}" for t in "abc" for i in range(2))]}
    rows, facts = [], []
    for seed in (0, 1):
        for p in "pqrst":
            for t in "abc":
                for i in range(2):
                    move = picture * moves[p] + task * moves[t] + words * moves[f"{t}{i}"]
                    rows.append(move + noise * rng.normal(size=(2, 4)))
                    facts.append(Facts(instruction=f"{t}{i}", seed=seed, image=p, task=t))
    return np.stack(rows), facts


@pytest.mark.parametrize("source", ["picture", "task", "instruction"])
def test_planted_variance_is_found_where_it_was_planted(source: str) -> None:
    size = {"picture": 0.0, "task": 0.0, "instruction": 0.0} | {source: 1.0}
    signature, facts = crossed(size["picture"], size["task"], size["instruction"], noise=0.01)
    found = variance(signature, facts)
    assert found is not None
    assert (found.pictures, found.instructions) == (5, 6)
    if source == "instruction":  # two instructions a task: their means differ by chance, and count for the task
        assert found.share["instruction"] + found.share["task"] > 0.95
        assert found.share["instruction"] > 0.3
    else:
        assert found.share[source] > 0.95
    assert sum(found.share.values()) == pytest.approx(1.0)
    assert sum(found.by_chance.values()) == pytest.approx(1.0)


def test_variance_of_noise_alone_is_what_chance_gives() -> None:
    signature, facts = crossed(0.0, 0.0, 0.0, noise=1.0)
    found = variance(signature, facts)
    assert found is not None
    for name, share in found.share.items():
        assert share == pytest.approx(found.by_chance[name], abs=0.15)


def test_variance_needs_a_whole_table() -> None:
    signature, facts = crossed(1, 1, 1)
    assert variance(signature[:29], facts[:29]) is None
    assert variance(signature[:6], facts[:6]) is None


def test_contrasts_tell_what_moves_the_routing() -> None:
    def apart(**sizes: float) -> dict[str, float]:
        signature, facts = crossed(**({"picture": 0.0, "task": 0.0, "words": 0.0} | sizes))
        found = contrasts(signature, facts)
        assert {one.kind: one.pairs for one in found} == {"noise": 30, "wording": 30, "picture": 120, "task": 120}
        return {one.kind: float(one.distance.value) for one in found}

    assert apart(picture=1.0) == pytest.approx(
        {"noise": 0, "wording": 0, "task": 0, "picture": apart(picture=1.0)["picture"]}
    )
    assert apart(picture=1.0)["picture"] > 0.1
    by_task = apart(task=1.0)
    assert by_task["task"] > 0.1
    assert by_task["picture"] == by_task["wording"] == 0
    by_words = apart(words=1.0)
    assert by_words["wording"] > 0.1
    assert by_words["picture"] == 0


def test_cases_without_a_picture_or_a_task_make_no_false_pair() -> None:
    facts = [Facts(instruction="a", seed=0), Facts(instruction="b", seed=0), Facts(instruction="a", seed=0, image="p")]
    assert contrasts(shares(0, 3), facts) == []
    facts = [Facts(instruction="a", seed=0, image="p"), Facts(instruction="b", seed=0, image="p")]
    assert contrasts(shares(0, 2), facts) == []


def test_distances_are_total_variation() -> None:
    one = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    assert distances(one).tolist() == [[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [0.5, 0.5, 0.0]]
