"""Specialists: what each makes of a photograph, who is named for it, and what becomes of what fails."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cut_outs import folders
from support.made_pictures import encoded
from support.photograph_stores import photographs
from support.stored_content import content_hash
from support.syntheses import synthesize
from support.tiny_editors import controlnet, evaluated, inpainting
from support.tiny_onnx_maps import bright_map, two_styles

from tagmoe.data.sources.native_tasks import edit_of
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import CheckpointError, ConfigError, DataError, MissingError, UsageError
from tagmoe.factory.folder import Folder
from tagmoe.factory.plan import Plan, plan_of
from tagmoe.factory.specialists import remove
from tagmoe.factory.specialists.networks import MapNetwork
from tagmoe.factory.specialists.settings import Network
from tagmoe.files.yaml_text import read_yaml
from tagmoe.pictures import load_image, load_mask
from tagmoe.tags import TAGS, TaskDescriptor


def a_plan(store: Store, *steps: dict, unit: int = 4, **more) -> Plan:
    return plan_of({"name": "tried", "roots": {"store": store.uri, "unit": unit}, "steps": list(steps), **more})


def made(folder: Path, name: str = "store") -> list[Record]:
    store = Store.open(folder / name)
    return list(store.records(range(len(store))))


def lineages(folder: Path, name: str = "store") -> list[list[dict]]:
    return [json.loads(row["made_by"]) for b in Store.open(folder / name).scan(["made_by"]) for row in b.to_pylist()]


def pixels(picture) -> np.ndarray:
    return np.asarray(load_image(picture.data)).astype(np.float32)


def test_restore_damages_a_photograph_and_aims_at_it(tmp_path) -> None:
    roots = photographs(tmp_path / "roots")
    by_id = {root.id: root for root in roots.records(range(4))}
    step = {"step": "make", "by": "restore", "damage": ["grey", "blur", "noise", "small", "jpeg"]}
    steps = (step, {"step": "pick"}, {"step": "dedupe"}, {"step": "split"})
    found = synthesize(tmp_path / "a", a_plan(roots, *steps))
    assert found.kept == 20, "pairs that share their target are no duplicates"
    assert found.licences == {"CC0-1.0": 20}
    for record, (maker,) in zip(made(tmp_path / "a"), lineages(tmp_path / "a"), strict=True):
        root = by_id[record.parent]
        assert record.target.digest == root.target.digest, "the target has the photograph's own bytes"
        assert edit_of(record.dataset, record.native_task) == "restore"
        assert TaskDescriptor.from_tags([TAGS[one].name for one in record.tags]).violations() == ()
        source, target, damage = pixels(record.inputs[0]), pixels(record.target), maker["settings"]["variant"]
        assert maker["model"] == f"tagmoe {damage}"
        if damage == "noise":
            assert np.std(source - target) == pytest.approx(maker["settings"]["noise"], rel=0.25)
        elif damage == "grey":
            assert np.ptp(source, axis=2).max() <= 1
        elif damage in ("blur", "small"):
            assert np.abs(np.diff(source, axis=1)).mean() < 0.8 * np.abs(np.diff(target, axis=1)).mean()
        else:
            assert 1 < np.abs(source - target).mean() < 40


def test_a_photograph_without_colour_is_listed_and_not_coloured(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 2)
    grey = list(made_grey(roots.records(range(2))))
    with roots.writing():
        roots.append(grey)
    found = synthesize(tmp_path / "a", a_plan(roots, {"step": "make", "by": "restore", "damage": ["grey"]}))
    assert found.kept == 2
    reason = "the photograph has hardly any colour"
    assert found.steps[1].dropped == {reason: 2}
    assert {row["root"] for row in Folder(tmp_path / "a").failed("1-restore")} == {record.id for record in grey}


def made_grey(records):
    for record in records:
        grey = load_image(record.target.data).convert("L")
        yield replace(
            record, id=record_id("grey", record.id), target=Picture.of(encoded(grey, "PNG")), root="", origin="grey"
        )


def test_control_goes_both_ways_and_names_its_network(tmp_path) -> None:
    roots, network = photographs(tmp_path / "roots", 2), bright_map(tmp_path / "bright.onnx")
    step = {
        "step": "make",
        "by": "control",
        "maps": ["canny", "line", "colour", "blur", "depth"],
        "networks": {"depth": {"file": str(network), "licence": "MIT", "name": "tiny-depth"}},
    }
    found = synthesize(tmp_path / "a", a_plan(roots, step))
    assert found.kept == 20
    assert found.licences == {"CC0-1.0": 16, "CC0-1.0 AND MIT": 4}
    both: dict[tuple[str, str], list[Record]] = {}
    for record, (maker,) in zip(made(tmp_path / "a"), lineages(tmp_path / "a"), strict=True):
        name = maker["settings"]["variant"].replace(" to image", "").replace("image to ", "")
        both.setdefault((record.parent, name), []).append(record)
        assert (maker["model"], maker.get("weights") is None) == (
            ("tiny-depth", False) if name == "depth" else (f"tagmoe {name}", True)
        )
    for (_, name), pair in both.items():
        (to,) = [one for one in pair if one.images[0].role == "control"]
        (back,) = [one for one in pair if one.images[0].role == "source"]
        assert to.images[0].data == back.target.data, name
        assert to.target.data == back.images[0].data
        assert edit_of(to.dataset, to.native_task) == "control map"
        assert {TAGS[one].name for one in to.tags} == {"image generation", "structure preservation"}
        assert any(word in to.instruction for word in ("ball", "lamp")), "the caption says what is to be seen"


def test_a_thing_is_painted_over_and_the_photograph_is_the_target(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 3, with_masks=True)
    step = {"step": "make", "by": "remove", "directions": ["add", "remove"]}
    found = synthesize(tmp_path / "a", a_plan(roots, step))
    assert found.kept == 6
    for record in made(tmp_path / "a"):
        hole = np.asarray(load_mask(record.images[1].data)) > 128
        before, after = pixels(record.images[0]), pixels(record.target)
        assert np.array_equal(before[~hole], after[~hole])
        with_thing, painted = (after, before) if record.native_task == "add" else (before, after)
        assert with_thing[hole].mean() > 2 * painted[hole].mean(), "the thing is bright, its ground is dark"
        assert record.instruction.startswith(
            {"add": ("Add", "Put", "There"), "remove": ("Re", "Take", "De")}[record.native_task]
        )
    words = " ".join(record.instruction for record in made(tmp_path / "a"))
    assert "red ball" in words
    assert "grass" not in words


def test_a_thing_of_unsure_outlines_is_left_alone(tmp_path) -> None:
    roots, network = photographs(tmp_path / "roots", 2), bright_map(tmp_path / "bright.onnx", steepness=4)
    step = {"step": "make", "by": "remove", "mask": {"file": str(network), "licence": "MIT"}}
    found = synthesize(tmp_path / "a", a_plan(roots, step))
    assert (found.kept, found.steps[1].dropped) == (0, {"the network is not sure where the thing is": 2})
    assert synthesize(tmp_path / "b", a_plan(roots, {**step, "unsure": 100})).kept == 2


def test_what_a_specialist_finds_wrong_with_its_pair_goes_to_the_negatives(tmp_path, monkeypatch) -> None:
    roots, network = photographs(tmp_path / "roots", 3), bright_map(tmp_path / "bright.onnx")
    given = {"step": "make", "by": "remove", "grow": 0.02, "mask": {"file": str(network), "licence": "MIT"}}
    assert synthesize(tmp_path / "good", a_plan(roots, given, {"step": "check"})).kept == 3
    # A painter that paints nothing: the network finds the thing again.
    monkeypatch.setattr(remove.Remover, "_painted", lambda self, pixels, hole, seed: pixels)
    found = synthesize(tmp_path / "bad", a_plan(roots, given, {"step": "check"}))
    assert (found.kept, len(made(tmp_path / "bad", "negatives"))) == (0, 3)
    assert (found.steps[1].title, found.steps[1].after) == ("1 remove", 0)
    assert found.steps[1].dropped == {"the thing is still to be seen": 3}
    assert found.steps[2].before == 0, "later steps do not look at it"
    assert [maker["model"] for maker in lineages(tmp_path / "bad", "negatives")[0]] == [
        "bright",
        "opencv inpaint telea",
    ]


def test_style_draws_and_goes_back(tmp_path) -> None:
    roots, network = photographs(tmp_path / "roots", 4), two_styles(tmp_path / "styles.onnx")
    step = {
        "step": "make",
        "by": "style",
        "draws": 1,
        "styles": ["a mosaic of square tiles"],
        "network": {
            "file": str(network),
            "licence": "MIT",
            "side": 64,
            "styles": {"a photographic negative": 0, "a dark print": 1},
        },
    }
    found = synthesize(tmp_path / "a", a_plan(roots, step))
    assert found.kept == 8
    models: Counter[str] = Counter()
    for record, (maker,) in zip(made(tmp_path / "a"), lineages(tmp_path / "a"), strict=True):
        way, name = maker["settings"]["variant"].split(" ", 1)
        models[maker["model"]] += 1
        photograph, drawn = (record.images[0], record.target) if way == "to" else (record.target, record.images[0])
        if name == "a photographic negative":
            assert np.abs(255 - pixels(photograph) - pixels(drawn)).mean() < 12, "drawn at 64 pixels"
        elif name == "a dark print":
            assert np.abs(pixels(photograph) / 4 - pixels(drawn)).mean() < 6
        assert name.split()[-1] in record.instruction or way == "from"
    assert set(models) <= {"styles", "tagmoe style a mosaic of square tiles"}
    assert models["styles"] > 0


def test_things_are_composed_on_the_photograph(tmp_path) -> None:
    roots, (_, cutouts) = photographs(tmp_path / "roots", 3), folders(tmp_path / "things")
    step = {
        "step": "make",
        "by": "compose",
        "cutouts": str(cutouts),
        "licence": "CC-BY-4.0",
        "size": 64,
        "tasks": ["add", "remove"],
    }
    found = synthesize(tmp_path / "a", a_plan(roots, step))
    assert (found.kept, found.licences) == (6, {"CC0-1.0 AND CC-BY-4.0": 6})
    for record in made(tmp_path / "a"):
        mask = np.asarray(load_mask(record.images[-1].data)) > 128
        before, after = pixels(record.images[0]), pixels(record.target)
        assert np.array_equal(before[~mask], after[~mask])
        assert np.abs(before - after)[mask].mean() > 5
    (maker,) = lineages(tmp_path / "a")[0]
    assert maker["weights"], "the cut-outs are named by their digest"


def test_no_thing_is_composed_on_a_photograph_of_its_kind(tmp_path) -> None:
    (_, cutouts) = folders(tmp_path / "things")
    roots = photographs(tmp_path / "roots", 6)
    step = {"step": "make", "by": "compose", "cutouts": str(cutouts), "licence": "MIT", "size": 64, "tasks": ["remove"]}
    found = synthesize(tmp_path / "a", a_plan(roots, {**step, "seeds": 6}, unit=6))
    captions = {root.id: root.instruction for root in roots.records(range(6))}
    assert found.kept == 36
    for record in made(tmp_path / "a"):
        noun = record.instruction.lower().removesuffix(".").removesuffix(" away").partition(" the ")[2]
        assert noun, record.instruction
        assert noun not in captions[record.parent], record.instruction


STEPS = (
    {"step": "make", "by": "restore", "seeds": 2},
    {"step": "make", "by": "control", "maps": ["canny", "blur"]},
    {"step": "make", "by": "style", "draws": 2},
    {"step": "check"},
    {"step": "pick"},
    {"step": "dedupe"},
    {"step": "annotate", "by": "rules"},
    {"step": "split"},
)


def test_the_same_plan_makes_the_same_pairs_whatever_the_unit_and_another_seed_others(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 2)
    one = synthesize(tmp_path / "one", a_plan(roots, *STEPS, unit=2))
    other = synthesize(tmp_path / "other", a_plan(roots, *STEPS, unit=1))
    third = synthesize(tmp_path / "third", a_plan(roots, *STEPS, unit=2, seed=5))
    assert one.kept == other.kept > 15
    assert third.kept > 15
    digests = [content_hash(Store.open(tmp_path / name / "store")) for name in ("one", "other", "third")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_two_workers_make_the_same_pairs(tmp_path) -> None:
    roots, network = photographs(tmp_path / "roots", 4), bright_map(tmp_path / "bright.onnx")
    remove_it = {"step": "make", "by": "remove", "mask": {"file": str(network), "licence": "MIT"}}
    plan = a_plan(roots, remove_it, *STEPS, unit=1)
    one = synthesize(tmp_path / "one", plan)
    two = synthesize(tmp_path / "two", plan, workers=2)
    assert one.kept == two.kept > 30
    assert content_hash(Store.open(tmp_path / "one/store")) == content_hash(Store.open(tmp_path / "two/store"))


def test_roots_that_look_alike_are_one_when_specialists_use_their_pictures(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 3)
    with roots.writing():
        roots.append(list(doubled(roots.records(range(2)))))
    plan = a_plan(roots, {"step": "make", "by": "restore", "damage": ["noise"]}, {"step": "dedupe"})
    found = synthesize(tmp_path / "a", plan)
    assert (found.steps[0].before, found.steps[0].after, found.kept) == (5, 3, 3)


def doubled(records):
    for record in records:
        yield replace(record, id=record_id("again", record.id), instruction="other words")


def test_a_metric_drops_what_is_out_of_bounds(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 3)
    step = {"step": "make", "by": "restore", "damage": ["noise", "small"], "noise": [30, 40], "small": [1.5, 1.6]}
    bound = {"step": "measure", "by": "source", "value": "l1_raw", "most": 0.05, "tasks": ["denoise"]}
    found = synthesize(tmp_path / "a", a_plan(roots, step, bound))
    assert found.steps[2].dropped == {"source is too high": 3}
    assert {record.native_task for record in made(tmp_path / "a")} == {"enlarge"}
    assert {record.native_task for record in made(tmp_path / "a", "negatives")} == {"denoise"}
    with pytest.raises(UsageError, match="no value 'l1'"):
        synthesize(tmp_path / "b", a_plan(roots, step, {**bound, "value": "l1"}))


def test_a_metric_whose_network_is_damaged_drops_nothing_and_stops(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 1)
    (tmp_path / "sscd").mkdir()
    (tmp_path / "sscd" / "sscd.onnx").write_bytes(b"no network")
    step = {"step": "make", "by": "restore", "damage": ["noise"]}
    bound = {"step": "measure", "by": "subject-ref:sscd", "weights": str(tmp_path / "sscd"), "least": 0.5}
    with pytest.raises(DataError, match=r"'sscd.onnx' cannot be read"):
        synthesize(tmp_path / "a", a_plan(roots, step, bound))


def test_other_settings_need_another_folder(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 2)
    step = {"step": "make", "by": "restore", "damage": ["noise"]}
    synthesize(tmp_path / "a", a_plan(roots, step))
    with pytest.raises(UsageError, match="begun with other specialists"):
        synthesize(tmp_path / "a", a_plan(roots, {**step, "noise": [1, 2]}))


def test_quotas_count_specialists_too(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 6)
    step = {"step": "make", "by": "restore", "damage": ["noise", "blur"]}
    plan = a_plan(roots, step, unit=1, quotas={"least": {"denoise": 2, "deblur": 3}, "round": 1})
    found = synthesize(tmp_path / "a", plan)
    assert found.quotas == {"denoise": [2, 2], "deblur": [3, 3]}
    assert found.steps[0].before == 3


COMPOSE = {"step": "make", "by": "compose", "cutouts": "x", "licence": "MIT"}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"step": "make"}], "names no specialist"),
        ([{"step": "make", "by": "paint"}], "is by 'paint'; choose one of restore, control"),
        ([{"step": "make", "by": "restore", "noise": [9, 3]}], "noise is [9, 3]"),
        ([{"step": "make", "by": "restore", "damage": ["blur", "blur"]}], "twice"),
        ([{"step": "make", "by": "control", "maps": ["depth"]}], "the map depth needs a network"),
        ([{"step": "make", "by": "control", "maps": ["heat"]}], "there is no map 'heat'"),
        ([{"step": "make", "by": "style", "styles": ["cubism"]}], "there is no style 'cubism'"),
        ([{"step": "make", "by": "style", "styles": []}], "there are no styles"),
        ([{**COMPOSE, "tasks": ["background"]}], "no task 'background'"),
        ([{"step": "make", "by": "restore"}, {"step": "measure", "by": "source"}], "give least, or most"),
        ([{"step": "propose", "tasks": ["add"]}, {"step": "make", "by": "restore"}], "writes words for the step edit"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_one_clear_sentence(steps, words) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of({"name": "a", "roots": {"store": "x"}, "steps": steps})
    assert words in str(caught.value)


def test_what_a_specialist_lacks_is_said_before_anything_is_made(tmp_path) -> None:
    roots = photographs(tmp_path / "roots", 1)
    network = {"file": str(tmp_path / "none.onnx"), "licence": "MIT"}
    for step, words in (
        ({"by": "control", "maps": ["hed"], "networks": {"hed": network}}, "no network"),
        ({"by": "compose", "cutouts": str(tmp_path / "none"), "licence": "MIT"}, "no folder"),
    ):
        with pytest.raises(MissingError, match=words):
            synthesize(tmp_path / "a", a_plan(roots, {"step": "make", **step}))
    forbidding = {
        "step": "make",
        "by": "remove",
        "mask": {"file": str(bright_map(tmp_path / "b.onnx")), "licence": "MIT", "may_train": False},
    }
    with pytest.raises(UsageError, match="forbid training"):
        synthesize(tmp_path / "a", a_plan(roots, forbidding))
    assert not (tmp_path / "a").exists()
    (tmp_path / "none.onnx").write_bytes(b"no network")
    with pytest.raises(DataError, match=r"'none.onnx' cannot be read"):
        synthesize(tmp_path / "a", a_plan(roots, {"step": "make", "by": "remove", "mask": network}))


def test_a_network_of_another_shape_is_named(tmp_path) -> None:
    two = MapNetwork(Network(file=str(bright_map(tmp_path / "two.onnx", channels=2)), licence="MIT"))
    with pytest.raises(CheckpointError, match="one finite number for each pixel"):
        two(Image.new("RGB", (64, 64)))
    one = Network(file=str(bright_map(tmp_path / "one.onnx")), licence="MIT", output=1)
    with pytest.raises(CheckpointError, match="has 1 outputs and no 1"):
        MapNetwork(one)(Image.new("RGB", (64, 64)))


@pytest.mark.slow
def test_pipelines_of_diffusers_draw_from_a_map_and_fill_a_hole(tmp_path) -> None:
    """Tiny random weights of the real classes: what is drawn means nothing, and where it stands does."""
    roots = photographs(tmp_path / "roots", 2, with_masks=True)
    for name, build in (("controlnet", controlnet), ("inpaint", inpainting)):
        evaluated(build).save_pretrained(tmp_path / name)
    given = {"licence": "LicenseRef-tiny", "steps": 2}
    control = {"by": "control", "maps": ["canny"], "directions": ["to"]}
    control["controlnet"] = {"canny": {"model": str(tmp_path / "controlnet"), **given}}
    fill = {"by": "remove", "paint": {"model": str(tmp_path / "inpaint"), **given}}
    plan = a_plan(roots, {"step": "make", **control}, {"step": "make", **fill})
    found = synthesize(tmp_path / "a", plan)
    assert (found.kept, found.steps[1].dropped, found.steps[2].dropped) == (6, {}, {})
    models = Counter(tuple(maker["model"] for maker in makers) for makers in lineages(tmp_path / "a"))
    assert models == {("tagmoe canny",): 2, ("tagmoe canny", "controlnet"): 2, ("inpaint",): 2}
    by_id = {root.id: root for root in roots.records(range(2))}
    for record, makers in zip(made(tmp_path / "a"), lineages(tmp_path / "a"), strict=True):
        root, last = by_id[record.parent], makers[-1]["model"]
        assert (record.target.digest == root.target.digest) == (last != "controlnet")
        if last == "inpaint":
            hole = np.asarray(load_mask(record.images[1].data)) > 128
            assert np.array_equal(pixels(record.images[0])[~hole], pixels(root.target)[~hole])
            assert np.abs(pixels(record.images[0]) - pixels(root.target))[hole].mean() > 5
    synthesize(tmp_path / "b", plan)
    assert content_hash(Store.open(tmp_path / "a/store")) == content_hash(Store.open(tmp_path / "b/store"))
    fill["paint"] = {"model": str(tmp_path / "controlnet"), **given}
    with pytest.raises(UsageError, match="StableDiffusionControlNetPipeline; give one of the kind Inpaint"):
        synthesize(tmp_path / "c", a_plan(roots, {"step": "make", **fill}))


def test_the_plans_of_the_documentation_can_be_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "factory.md").read_text(encoding="utf-8")
    plans = [block.split("```")[0] for block in text.split("```yaml")[1:]]
    assert len(plans) == 2
    names = [plan_of(read_yaml(plan, "the plan")).name for plan in plans]
    assert names == ["my-edits", "my-pairs"]
