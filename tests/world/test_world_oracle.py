"""The oracle: right on every true target, not fooled by anything less, robust to lossy pictures."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tagmoe.errors import ImageError
from tagmoe.world import TASKS, Background, Sample, Scene, judge, read, render, sample
from tagmoe.world.oracle import ATTRIBUTES, THINGS
from tagmoe.world.scene import BACKGROUNDS, LIGHTS, PATTERNS, STYLES

RNG = np.random.default_rng(0)
SETTING_TASKS = ("style", "destyle", "light", "relight", "background", "pattern")
NEW_PICTURE_TASKS = ("subject", "style_ref")


def cases(count: int, split: str, seed: int = 41) -> list[Sample]:
    return [sample(seed, i, split=split, task=task) for task in TASKS for i in range(count)]  # type: ignore[arg-type]


def edited_places(case: Sample) -> list[int]:
    source, target = case.source_scene, case.target_scene
    if source is None or case.task in NEW_PICTURE_TASKS:
        return [0, 1, 2, 3]
    return [i for i in range(4) if source.cells[i] != target.cells[i]]


def one_attribute_off(scene: Scene, place: int) -> list[Scene]:
    """All scenes that differ in one attribute of one thing (or in there being a thing) so that it can be seen."""
    thing = scene.cells[place]
    if thing is None:
        return [scene.put((place, THINGS[k])) for k in (1, 60, 300)]
    names = ATTRIBUTES[type(thing)]
    near = [t for t in THINGS if type(t) is type(thing) and sum(getattr(t, n) != getattr(thing, n) for n in names) == 1]
    wrong = [scene.put((place, t)) for t in (*near, None)]
    clean = render(scene).astype(float)
    return [w for w in wrong if np.square(render(w) - clean).mean() * 4 > 40]  # per cell: far above the tolerance


def jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file).convert("RGB"))


def noisy(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture + RNG.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def blurred(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.5)))


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_true_target_is_perfect_in_every_task(split: str, count: int) -> None:
    for case in cases(count, split):
        verdict = judge(case, case.target)
        assert verdict.success, (case.instruction, verdict)
        assert verdict.unchanged == 1.0
        assert {verdict.subject, verdict.face, verdict.style} <= {None, 1.0}
        assert verdict.reasons == ()
        assert (verdict.style is not None) == ("style preservation" in case.tags.preservation)
        assert (verdict.face is not None) == ("face preservation" in case.tags.preservation)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_unedited_source_is_no_success(count: int) -> None:
    for case in cases(count, "train"):
        if case.sources:
            verdict = judge(case, case.sources[0])
            assert not verdict.success, case.instruction
            assert verdict.reasons
            if case.task not in (*NEW_PICTURE_TASKS, "structure"):
                assert verdict.unchanged == 1.0


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_another_edit_of_the_same_source_is_no_success(count: int) -> None:
    for case in cases(count, "test"):
        source = case.source_scene
        if source is None:
            continue
        other = next(colour for colour in BACKGROUNDS if colour not in (source.background.colour, "white"))
        wrong = replace(source, background=Background(other, source.background.pattern))
        if case.target_scene.background != source.background:
            wrong = replace(source, cells=(*source.cells[:3], THINGS[10] if source.cells[3] is None else None))
        assert not judge(case, render(wrong)).success, case.instruction


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_one_wrong_attribute_in_the_edit_is_no_success(every: int) -> None:
    tried = 0
    for case in cases(2, "test", seed=42)[::every]:
        for place in edited_places(case):
            wrong = one_attribute_off(case.target_scene, place)
            for scene in [wrong[int(k)] for k in RNG.integers(len(wrong), size=3)] if wrong else []:
                verdict = judge(case, render(scene))
                assert not verdict.success, (case.instruction, scene)
                assert verdict.reasons
                tried += 1
    assert tried > 150 / every


NO_THINGS = tuple((place, None) for place in range(4))


def blend(case: Sample, share: float) -> np.ndarray:
    """The target's pixels with this share, the source's (mid grey where there is none) with the rest."""
    source = case.sources[0].astype(float) if case.source_scene is not None else 128.0
    return (share * case.target.astype(float) + (1 - share) * source).round().astype(np.uint8)


def corrupted(scene: Scene, places: tuple[int, ...]) -> Scene:
    """The scene with one attribute of the thing in each of these places wrong, so that it can be seen."""
    for place in places:
        wrong = [w for w in one_attribute_off(scene, place) if w.cells[place] is not None]
        scene = scene.put((place, wrong[int(RNG.integers(len(wrong)))].cells[place]))
    return scene


def other_things(scene: Scene, places: tuple[int, ...]) -> Scene:
    """The scene with unrelated things in these places."""
    for place in places:
        shape = getattr(scene.cells[place], "shape", None)
        others = [t for t in THINGS[1:] if getattr(t, "shape", None) != shape]
        scene = scene.put((place, others[int(RNG.integers(len(others)))]))
    return scene


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_half_done_edit_is_no_success_and_a_nearly_done_one_is(count: int) -> None:
    chosen = cases(count, "test", seed=52)
    assert not any(judge(case, blend(case, 0.3)).success for case in chosen)
    assert np.mean([judge(case, blend(case, 0.5)).success for case in chosen]) < 0.05
    edits = [case for case in chosen if case.source_scene is not None and case.task not in NEW_PICTURE_TASKS]
    assert np.mean([judge(case, blend(case, 0.85)).success for case in edits]) > 0.9
    assert any("half done" in reason for case in edits for reason in judge(case, blend(case, 0.5)).reasons)


@pytest.mark.parametrize("every", [12, pytest.param(3, marks=pytest.mark.slow)])
def test_targets_of_other_tasks_on_other_scenes_are_no_success(every: int) -> None:
    chosen = [sample(53, i, split="test", task=task) for i, task in enumerate(TASKS)]  # an index each: other scenes
    for case in chosen:
        for other in chosen[::every]:
            if other.task != case.task and not np.array_equal(other.target, case.target):
                assert not judge(case, other.target).success, (case.instruction, other.instruction)


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_targets_of_other_tasks_on_the_same_source_are_no_success(every: int) -> None:
    tried = 0
    for case in cases(1, "test", seed=54):
        source = case.source_scene
        if source is None:
            continue
        ground = source.background
        others = [replace(source, background=replace(ground, colour=c)) for c in BACKGROUNDS]
        others += [replace(source, background=replace(ground, pattern=p)) for p in PATTERNS]
        others += [replace(source, style=s, light="day") for s in STYLES]
        others += [replace(source, style="flat", light=x) for x in LIGHTS]
        for place in range(4):
            others += one_attribute_off(source, place)[::6]
        for other in others[::every]:
            picture = render(other)
            if not np.array_equal(picture, case.target):
                same_edit = case.task not in SETTING_TASKS + NEW_PICTURE_TASKS and all(
                    other.cells[place] == case.target_scene.cells[place] for place in edited_places(case)
                )
                assert same_edit or not judge(case, picture).success, (case.instruction, other)
                tried += 1
    assert tried > 250 / every


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_other_style_light_and_background_is_no_success(count: int) -> None:
    for task in SETTING_TASKS:
        for i in range(count):
            case = sample(55, i, split="test", task=task)
            scene, ground = case.target_scene, case.target_scene.background
            wrong = {
                "background": [replace(scene, background=replace(ground, colour=c)) for c in BACKGROUNDS],
                "pattern": [replace(scene, background=replace(ground, pattern=p)) for p in PATTERNS],
            }.get(task, [replace(scene, style=s, light="day") for s in STYLES])
            if task in ("style", "destyle", "light", "relight"):
                wrong += [replace(scene, style="flat", light=x) for x in LIGHTS]
            for other in wrong:
                assert judge(case, render(other)).success == (other == scene), (case.instruction, other)


@pytest.mark.parametrize("count", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_the_asked_setting_on_another_scene_is_no_success(count: int) -> None:
    for task in SETTING_TASKS:
        for i in range(count):
            case = sample(56, i, split="test", task=task)
            scene = case.target_scene
            for wrong in (corrupted(scene, scene.occupied), other_things(scene, (0, 1, 2, 3)), scene.put(*NO_THINGS)):
                verdict = judge(case, render(wrong))
                assert not verdict.success, (case.instruction, wrong)
                assert verdict.reasons[0] == "too little of the scene is left"


@pytest.mark.parametrize("count", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_an_edit_in_a_destroyed_scene_is_no_success(count: int) -> None:
    tried = 0
    for case in cases(count, "test", seed=57):
        if case.source_scene is None or case.task in SETTING_TASKS + NEW_PICTURE_TASKS:
            continue
        scene = case.target_scene
        rest = tuple(sorted(set(range(4)) - set(edited_places(case))))
        ground = BACKGROUNDS[BACKGROUNDS.index(scene.background.colour) - 1]
        wrong = replace(other_things(scene, rest), background=Background(ground, scene.background.pattern))
        assert not judge(case, render(wrong)).success, case.instruction
        tried += 1
    assert tried > 13 * count


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_damage_outside_the_edit_lowers_unchanged_only(every: int) -> None:
    tried = 0
    for case in cases(2, "train", seed=43)[::every]:
        outside = set(range(4)) - set(edited_places(case))
        things_outside = outside & set(case.target_scene.occupied)
        for place in outside:
            wrong = one_attribute_off(case.target_scene, place)
            for scene in wrong[:: max(1, len(wrong) // 2)]:
                if scene.cells != case.target_scene.cells and any(scene.cells):
                    verdict = judge(case, render(scene))
                    assert verdict.unchanged < 1.0, (case.instruction, scene)
                    if case.task not in SETTING_TASKS and (place not in things_outside or len(things_outside) > 1):
                        assert verdict.edit_done, (case.instruction, verdict)
                    assert not judge(case, render(scene)).success, (case.instruction, scene)
                    tried += 1
    assert tried > 50 / every


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_changed_background_style_or_light_lowers_unchanged(count: int) -> None:
    for case in cases(count, "train", seed=44):
        scene = case.target_scene
        local = case.source_scene is not None and replace(case.source_scene, cells=scene.cells) == scene
        if local and case.task not in NEW_PICTURE_TASKS and (scene.style, scene.light) == ("flat", "day"):
            ground = scene.background
            colour = BACKGROUNDS[BACKGROUNDS.index(ground.colour) - 1]
            for wrong in (
                replace(scene, background=Background(ground.colour, PATTERNS[PATTERNS.index(ground.pattern) - 1])),
                replace(scene, background=Background(colour, ground.pattern)),
                replace(scene, style="negative"),
                replace(scene, light="sunset"),
            ):
                verdict = judge(case, render(wrong))
                assert verdict.unchanged < 1.0
                assert verdict.style in (None, 1.0 if (wrong.style, wrong.light) == ("flat", "day") else 0.5)


def test_a_lost_face_and_a_lost_subject_are_seen() -> None:
    for i in range(15):
        case = sample(45, i, task="expression")
        scene = case.target_scene
        if (scene.style, scene.light) != ("flat", "day"):
            continue
        face = scene.cells[scene.face]  # type: ignore[index]
        other = {"light": "dark", "tan": "dark", "dark": "light"}[face.skin]  # type: ignore[union-attr]
        swapped = scene.put((scene.face, replace(face, skin=other)))  # type: ignore[arg-type,type-var]
        verdict = judge(case, render(swapped))
        assert verdict.face == 0.5
        assert verdict.subject is not None
        assert verdict.subject < 1.0
        gone = judge(case, render(scene.put((scene.face, None))))  # type: ignore[arg-type]
        assert gone.face == 0.0


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_noise_and_blank_pictures_are_no_success(every: int) -> None:
    blanks = [np.full((64, 64, 3), level, dtype=np.uint8) for level in (0, 60, 128, 255)]
    garbage = [RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(2)]
    for case in cases(1, "test")[::every]:
        for picture in garbage:
            verdict = judge(case, picture)
            assert not verdict.success
            assert verdict.unchanged in (0.0, 1.0)  # 1 only where nothing is outside the edit
        if case.target_scene.occupied:
            assert not any(judge(case, picture).success for picture in blanks), case.instruction
        ground = case.target[0, 0]
        for empty in (render(case.target_scene.put(*NO_THINGS)), np.broadcast_to(ground, (64, 64, 3)).copy()):
            assert np.array_equal(empty, case.target) or not judge(case, empty).success, case.instruction
    assert all(read(picture).scene is None for picture in garbage)


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [jpeg, noisy, blurred])
def test_lossy_true_targets_still_succeed(damage, count: int) -> None:  # type: ignore[no-untyped-def]
    verdicts = [judge(case, damage(case.target)) for case in cases(count, "test", seed=46)]
    assert np.mean([verdict.success for verdict in verdicts]) >= 0.98
    assert np.mean([verdict.unchanged for verdict in verdicts]) >= 0.98


def test_reading_returns_the_scene_where_the_picture_tells_it() -> None:
    for i in range(60):
        scene = sample(47, i).target_scene
        seen = read(render(scene))
        assert seen.scene is not None
        assert np.array_equal(render(seen.scene), render(scene))
        assert max(seen.errors) < 0.1


@pytest.mark.parametrize(("style", "light"), [*((s, "day") for s in STYLES), *(("flat", x) for x in LIGHTS[1:])])
def test_style_and_light_are_always_told_apart(style: str, light: str) -> None:
    for i in range(6):
        reading = read(render(replace(sample(48, i).target_scene, style=style, light=light)))
        assert {(setting.style, setting.light) for setting in reading.settings} == {(style, light)}


def test_pictures_of_other_kinds_and_sizes() -> None:
    case = sample(49, 0, task="add")
    assert judge(case, Image.fromarray(case.target)).success
    assert judge(case, Image.fromarray(case.target).resize((256, 256), Image.Resampling.BICUBIC)).success
    with pytest.raises(ImageError, match="float64"):
        read(case.target / 255.0)
    with pytest.raises(ImageError, match="uint8"):
        read(case.target[..., 0])


def test_reasons_name_the_place_and_what_was_found() -> None:
    case = sample(50, 0, task="recolour")
    reason = judge(case, case.sources[0]).reasons[0]
    assert "expected a" in reason
    assert "found a" in reason


def test_a_verdict_takes_less_than_thirty_milliseconds() -> None:
    chosen = [sample(51, i, split="test") for i in range(20)]
    for case in chosen:
        judge(case, case.target)
    start = time.process_time()
    for case in chosen:
        judge(case, case.target)
    assert (time.process_time() - start) / len(chosen) < 0.030
