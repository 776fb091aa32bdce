"""Alternatives with weights of packages: never under a name of the paper, their files of scores apart, text read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.evaluate.metrics.brisque import FEATURES, brisque_features, halved, read_regression
from tagmoe.evaluate.metrics.ocr import asked_text, share_read
from tagmoe.evaluate.metrics.registry import ALTERNATIVES, PAPER, LearnedSettings, make_metrics, metric_names
from tagmoe.evaluate.run_folder import scores_name, shard_files, shard_name


def test_no_alternative_has_a_name_of_the_paper() -> None:
    paper = {measure.name for kind in PAPER for measure in kind.measures}
    assert all(":" in kind.name for kind in ALTERNATIVES)
    assert not paper & {measure.name for kind in ALTERNATIVES for measure in kind.measures}


def test_files_of_scores_are_told_apart(tmp_path: Path) -> None:
    assert not [name for name in metric_names() if "." in name], "a point stands for the colon"
    names = [scores_name(name) for name in metric_names()]
    assert len(set(names)) == len(metric_names())
    for name in names:
        for file in (name, shard_name(name, (1, 2)), shard_name(name, (2, 2))):
            (tmp_path / f"{file}.jsonl").touch()
    for name in names:
        assert len(shard_files(tmp_path, name)) == 3, name


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    for kind in ALTERNATIVES:
        with pytest.raises(MissingError, match="has no file"):
            make_metrics([kind.name], LearnedSettings({kind.name: str(tmp_path)}))


@pytest.mark.parametrize(
    ("instruction", "texts"),
    [
        ("change the sign from 'OPEN' to 'CLOSED'", ["OPEN", "CLOSED"]),
        ('write "Hello, World" on it', ["Hello, World"]),
        ("write \u201cgood\u201d on the cat's bowl, it's dull", ["good"]),
        ("remove the text 'SALE'", []),
        ("make it red", []),
        ("write '!!'", []),
    ],
)
def test_the_text_that_is_asked_for(instruction: str, texts: list[str]) -> None:
    assert asked_text(instruction) == texts


def test_the_share_of_a_text_that_is_read() -> None:
    assert share_read("Hello", "oh hello there") == 1.0
    assert share_read("Hello", "HEL LO") == 1.0
    assert share_read("Hello", "oh hexlo there") == pytest.approx(0.8)
    assert share_read("Hello", "") == 0.0


def test_brisque_reads_a_pickle_without_running_it(tmp_path: Path) -> None:
    head = "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nrho -2.5\nSV\n"
    (tmp_path / "svm.txt").write_text(head + "2 1:0.5 36:-1\n-1 2:0.25\n")
    scale = {"min_": [-1.0] * FEATURES, "max_": [1.0] * FEATURES}
    (tmp_path / "normalize.pickle").write_bytes(pickle.dumps(scale, protocol=4))
    found = read_regression(tmp_path)
    x = np.linspace(-1, 1, FEATURES)
    first, second = np.zeros(FEATURES), np.zeros(FEATURES)
    first[[0, 35]], second[1] = (0.5, -1), 0.25
    wanted = 2 * np.exp(-0.05 * ((x - first) ** 2).sum()) - np.exp(-0.05 * ((x - second) ** 2).sum()) + 2.5
    assert found(x) == pytest.approx(wanted)

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / "normalize.pickle").write_bytes(pickle.dumps(Runs(), protocol=4))
    with pytest.raises(CheckpointError, match="is not that of the package brisque"):
        read_regression(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_half_the_size_is_a_cubic_between_the_middle_two() -> None:
    row = np.arange(8.0)[None].repeat(4, axis=0)
    assert halved(row)[0, 1:3] == pytest.approx([2.5, 4.5])
    assert halved(np.ones((6, 4))).shape == (3, 2)
    assert brisque_features(Image.new("RGB", (40, 40), "red")) is None
    assert brisque_features(Image.new("RGB", (3, 3))) is None
