"""Running a model: the crossed controls are what they say, and switching experts is paired and undone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.made_recordings import about

from tagmoe.errors import UsageError
from tagmoe.laboratory.routing import controls
from tagmoe.laboratory.routing.controls import FREE_TASKS, tagworld_controls
from tagmoe.laboratory.routing.interventions import all_interventions, difference, run_interventions
from tagmoe.laboratory.routing.recorder import draw, image_digest, record_cases, tagworld_cases
from tagmoe.routing.reading import read_recording
from tagmoe.routing.recording import RecordingWriter
from tagmoe.routing.summary import summarise
from tagmoe.world import judge


def test_every_picture_gets_every_instruction_and_each_is_an_edit_of_it() -> None:
    seed = 4
    cases = tagworld_controls(2, seed)
    crossed = [case for case in cases if case.facts.seed == seed]
    pictures = Counter(case.facts.image for case in crossed)
    words = Counter(case.facts.instruction for case in crossed)
    assert set(pictures.values()) == {2 * len(FREE_TASKS)}
    assert set(words.values()) == {2}
    assert len(words) == 2 * len(FREE_TASKS)
    again = [case for case in cases if case.facts.seed != seed]
    assert {case.facts.seed for case in again} == {seed + 1}
    assert Counter(case.facts.task for case in again) == dict.fromkeys(FREE_TASKS, 2)
    for case in crossed:
        assert case.facts.control
        assert case.sample is not None
        assert judge(case.sample, case.sample.target).success
        assert not judge(case.sample, case.sample.sources[0]).success
        changed = (case.sample.target != case.sample.sources[0]).any(axis=-1)
        assert not changed[~case.sample.mask].any()


def test_equal_pixels_have_an_equal_digest_and_no_others() -> None:
    one = np.zeros((4, 4, 3), dtype=np.uint8)
    assert image_digest([one]) == image_digest([one.copy()])
    assert len({image_digest(p) for p in ([], [one], [one + 1], [one, one], [one.reshape(2, 8, 3)])}) == 5


@pytest.mark.slow
def test_recording_in_batches_is_recording_one_by_one(pipeline: Any, tmp_path: Path) -> None:
    cases = tagworld_cases(1, 5, ["generate", "recolour", "add", "structure"])
    signatures = []
    for batch in (1, 3):
        folder = tmp_path / str(batch)
        folder.mkdir()
        writer = RecordingWriter(folder, about())
        seen: list[int] = []
        ids = record_cases(pipeline, cases, writer, batch=batch, on_case=seen.append)
        writer.close()
        assert seen == [1, 2, 3, 4]
        recording = read_recording(folder)
        by_id = {one.case.id: one for one in summarise(recording)}
        for index, name in ids.items():
            assert by_id[name].case.facts == cases[index].facts
        signatures.append(np.stack([by_id[ids[i]].signature_LN for i in range(4)]))
        assert [case.has_mask for case in recording.cases] == [
            cases[i].mask is not None for i in sorted(ids, key=ids.get)
        ]
    assert np.allclose(*signatures, atol=1e-5)


@pytest.mark.slow
def test_conditions_are_paired_shown_and_undone(pipeline: Any, tmp_path: Path) -> None:
    cases = dict(zip(["a", "b"], tagworld_cases(1, 5, ["recolour", "add"]), strict=True))
    weights = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    writer = RecordingWriter(tmp_path, about())
    done: list[tuple[int, int]] = []
    before = [one.image for one in draw(pipeline, list(cases.values()), steps=1, batch=2, return_routing=False)]
    found = run_interventions(pipeline, cases, writer, steps=1, batch=2, on_condition=lambda *now: done.append(now))
    after = [one.image for one in draw(pipeline, list(cases.values()), steps=1, batch=2, return_routing=False)]
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in pipeline.transformer.state_dict().items())
    assert len(found.conditions) == 1 + len(all_interventions(2, 4)) == 25
    assert done[-1] == (26, 26)
    noise = found.conditions[0]
    assert noise.mode == "noise"
    assert min(noise.change) > 0
    assert found.cases == ("a", "b")
    for one in found.conditions:
        assert len(one.change) == 2
        assert set(one.pictures) == {"a", "b"}
        assert all((tmp_path / name).is_file() for name in one.pictures.values())
    # Both noise seeds and the verdicts are those of the cases themselves.
    assert found.success == tuple(judge(c.sample, i).success for c, i in zip(cases.values(), before, strict=True))


def test_the_difference_of_pictures_is_between_none_and_all() -> None:
    black, white = np.zeros((2, 2, 3), dtype=np.uint8), np.full((2, 2, 3), 255, dtype=np.uint8)
    assert difference(black, white) == difference(white, black) == 1.0
    assert difference(white, white) == 0.0


def test_control_pictures_that_are_not_found_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "_TRIES", 40)
    monkeypatch.setattr(controls, "_instructions", lambda seed: [])
    with pytest.raises(UsageError, match="take fewer"):
        tagworld_controls(41, 0)
