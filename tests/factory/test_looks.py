"""Checks without a model: true edits pass; one colour, the source again and a moved canvas do not. And licences."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.bad_editors import moved

from tagmoe.data.sources.native_tasks import edit_of
from tagmoe.data.sources.source import Licence
from tagmoe.factory.looks import Limits, faults, numbers
from tagmoe.factory.makers import Maker, family_of, licence_of
from tagmoe.world import sample

NONE = Limits({})


@pytest.fixture(scope="module")
def cases():
    tasks = ("add", "remove", "recolour", "light", "expression", "move")
    return [sample(8, number, task=task) for number, task in enumerate(tasks)]


def wrong(case, output, limits=NONE) -> list[str]:
    edit = edit_of("tagworld", case.task)
    return list(faults(numbers(case.sources[0], output, edit), limits.of(edit)))


def test_true_edits_pass_and_each_fault_is_named(cases) -> None:
    for case in cases:
        source = case.sources[0]
        assert wrong(case, case.target) == []
        assert wrong(case, np.full_like(source, 200))[0] == "blank"
        assert wrong(case, source) == ["copied"]
        assert wrong(case, np.asarray(moved(Image.fromarray(source), -3, 5))) == ["shifted"]


def test_a_picture_from_which_all_is_removed_is_not_blank_on_the_ground_of_its_source() -> None:
    ground = np.full((64, 64, 3), (40, 90, 160), np.uint8)
    source = ground.copy()
    source[20:40, 20:40] = 250
    assert faults(numbers(source, ground, "remove"), NONE.of("remove")) == []
    assert faults(numbers(source, ground, "light"), NONE.of("light")) == ["blank"]
    assert faults(numbers(source, np.full_like(ground, 128), "remove"), NONE.of("remove")) == ["blank"]


def test_a_plan_can_set_a_threshold_or_switch_a_check_off(cases) -> None:
    source = cases[0].sources[0]
    assert wrong(cases[0], source, Limits({"add": {"copied": None}})) == []
    assert wrong(cases[0], source, Limits({"remove": {"copied": None}})) == ["copied"]
    assert wrong(cases[0], cases[0].target, Limits({"all": {"copied": 256.0}})) == ["copied"]


def test_a_large_picture_is_compared_small_and_of_another_size_than_its_source() -> None:
    dice = np.random.default_rng(0)
    coarse = dice.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    source = np.asarray(Image.fromarray(coarse).resize((1280, 960), Image.Resampling.BICUBIC))
    edited = source.copy()
    edited[200:400, 300:600] = 255 - edited[200:400, 300:600]
    half = np.asarray(Image.fromarray(edited).resize((640, 480), Image.Resampling.BOX))
    assert faults(numbers(source, edited), NONE.of(None)) == []
    assert faults(numbers(source, half), NONE.of(None)) == []
    assert faults(numbers(source, np.roll(edited, 24, axis=1)), NONE.of(None)) == ["shifted"]
    assert faults(numbers(source, source), NONE.of(None)) == ["copied"]


def test_a_sample_has_the_licence_of_all_who_made_it() -> None:
    def maker(licence: str, *, may_train: bool = True) -> Maker:
        return Maker(step="1 edit", model="m", licence=licence, may_train=may_train)

    assert licence_of("CC0-1.0", [maker("MIT"), maker("MIT")]) == "CC0-1.0 AND MIT"
    assert licence_of("CC-BY-4.0", [maker("CC0-1.0"), maker("MIT")]) == "CC-BY-4.0 AND MIT"
    assert licence_of("CC0-1.0", [maker("CC0-1.0")]) == "CC0-1.0"
    assert licence_of("CC0-1.0", [maker("none")]) == "none"
    joint = licence_of("CC-BY-NC-4.0", [maker("MIT", may_train=False)])
    assert joint == "CC-BY-NC-4.0 AND MIT AND LicenseRef-no-training"
    assert Licence.named(joint).limits == "no commercial use and no training"
    assert not Licence.named("CC0-1.0 AND MIT").restricted


@pytest.mark.parametrize(
    ("model", "family"), [("Qwen/Qwen3-VL-8B", "qwen"), ("qwen-image-edit", "qwen"), ("my/FLUX.1-Kontext/", "flux")]
)
def test_the_family_of_a_model_is_how_its_name_begins(model, family) -> None:
    assert family_of(model) == family
