"""How each published dataset becomes records: roles, texts, scores, ids and roots, and its own options."""

from __future__ import annotations

import io
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from support.made_published import (
    MAGICBRUSH,
    OMNIEDIT,
    SUBJECTS200K,
    ULTRAEDIT,
    both_views,
    encode,
    image_of,
    instruct_pix2pix,
    instruct_pix2pix_folder,
    magicbrush,
    magicbrush_row,
    omniedit,
    omniedit_row,
    pixels,
    subjects_row,
    ultraedit,
    ultraedit_500k,
    ultraedit_row,
    viton_hd,
    write_shards,
)

from tagmoe.data.sources.registry import open_source
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.record import record_id
from tagmoe.errors import DataError, UsageError


def records(kind, folder, **options):
    return [record for row in open_source(kind, folder, options).rows() for record in row.records]


def opened(picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data))


def array(picture) -> np.ndarray:
    return np.asarray(opened(picture).convert("RGB")).astype(int)


def test_instruct_pix2pix_of_the_hub(tmp_path):
    instruct_pix2pix(tmp_path)
    first = records("instruct-pix2pix", tmp_path)[0]
    assert first.images[0].data == image_of(0, kind="JPEG")["bytes"]
    assert first.target.data == image_of(1, kind="JPEG")["bytes"]
    assert (first.images[0].width, first.images[0].height, first.images[0].role) == (32, 24, "source")
    assert (first.instruction, first.caption_source, first.caption_target) == ("make it a dog 0", "a cat 0", "a dog 0")
    assert first.origin == "data/train-00000-of-00003.parquet:0"
    assert first.root == first.images[0].digest


def test_ids_of_rows_without_one_do_not_depend_on_the_shards(tmp_path):
    rows = [ultraedit_row(number, edit_object=None, mask_image=None) for number in range(6)]
    write_shards(tmp_path / "a", "FreeForm_0", ULTRAEDIT, rows, shards=1)
    write_shards(tmp_path / "b", "FreeForm_7", ULTRAEDIT, rows[::-1], shards=3)
    ids = [{record.id for record in records("ultraedit", tmp_path / name)} for name in "ab"]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 6


def test_instruct_pix2pix_with_seeds(tmp_path):
    instruct_pix2pix_folder(tmp_path)
    found = records("instruct-pix2pix", tmp_path)
    assert [record.origin for record in found] == ["0000001/11", "0000001/13", "0000002/21", "0000003/32"]
    first, last = found[0], found[-1]
    assert first.id == record_id("instruct-pix2pix", "0000001/11")
    assert first.instruction == "make it a dog 0000001"
    assert first.images[0].data == encode(pixels(22), "JPEG")
    assert first.quality == {"clip_sim_0": 0.25, "clip_sim_1": 0.26, "clip_sim_dir": 0.21, "clip_sim_image": 0.8}
    assert last.quality == {}


@pytest.mark.parametrize(
    "text", ["{", "{}x", '{"a": 1}', "[1]", '[["../up", ["1"]]]', '[["..", ["1"]]]', '[["a", ["../1"]]]', "[[1, [1]]]"]
)
def test_a_damaged_list_of_seeds_is_refused(tmp_path, text):
    (tmp_path / "seeds.json").write_text(text)
    with pytest.raises(DataError, match=r"seeds\.json"):
        open_source("instruct-pix2pix", tmp_path)


def test_ultraedit_with_and_without_masks(tmp_path):
    ultraedit(tmp_path)
    found = records("ultraedit", tmp_path)
    regions = [record for record in found if record.native_task == "RegionBase"]
    assert len(regions) == 3
    assert [[picture.role for picture in record.images] for record in regions] == [["source", "mask"]] * 3
    others = [record for record in found if record.native_task == "FreeForm"]
    assert [[picture.role for picture in record.images] for record in others] == [["source"]] * 8
    assert {record.caption_source for record in others} >= {"a field 0", None}
    for record in found:
        # a null and a NaN are no scores
        assert record.quality.keys() == {"clip_sim_source", "clip_sim_target", "clip_sim_dir", "ssim"}
        assert all(math.isfinite(value) for value in record.quality.values())


def test_ultraedit_500k_is_the_same_rows(tmp_path):
    ultraedit_500k(tmp_path / "small")
    write_shards(
        tmp_path / "main", "FreeForm_0", ULTRAEDIT, [ultraedit_row(number, edit_object=None) for number in range(5)]
    )
    small, main = (records("ultraedit", tmp_path / name) for name in ("small", "main"))
    assert [record.id for record in small] == [record.id for record in main]


def test_omniedit_paraphrases_scores_and_tasks(tmp_path):
    omniedit(tmp_path)
    found = {record.id: record for record in records("omniedit", tmp_path)}
    first = found[record_id("omniedit", "task_obj_add_0")]
    assert (first.instruction, first.instructions) == ("add a hat 0", ("put a hat on the head 0",))
    assert first.quality == {"sc_score_1": 9, "sc_score_2": 8, "pq_score": 7, "o_score": 7.5}
    assert first.native_task == "removal"
    second = found[record_id("omniedit", "task_obj_add_2")]
    assert (second.instruction, second.instructions) == ("swap it", ("change it",))
    assert found[record_id("omniedit", "task_obj_add_4")].native_task == "a task of next year"
    assert found[record_id("omniedit", "task_obj_add_5")].native_task == ""


def test_omniedit_dev_only_when_asked(tmp_path):
    omniedit(tmp_path)
    without, with_dev = (records("omniedit", tmp_path, dev=value) for value in ("no", "yes"))
    more = {record.id for record in with_dev} - {record.id for record in without}
    assert more == {record_id("omniedit", f"task_obj_add_{number}") for number in (10, 11, 12)}


def test_magicbrush_turns_share_their_root_and_have_their_own_ids(tmp_path):
    magicbrush(tmp_path)
    found = {record.id: record for record in records("magicbrush", tmp_path)}
    turns = [found[record_id("magicbrush", f"0/{turn}")] for turn in (1, 2)]
    assert turns[0].target.data == turns[1].images[0].data
    assert turns[0].root == turns[1].root
    assert turns[0].split == turns[1].split
    assert len({record.root for record in found.values()}) == 4
    assert [picture.role for picture in turns[0].images] == ["source", "mask"]
    assert [picture.role for picture in turns[1].images] == ["source"]


def test_magicbrush_mask_is_white_where_it_was_transparent(tmp_path):
    magicbrush(tmp_path)
    mask = records("magicbrush", tmp_path)[0].images[1]
    values = np.asarray(opened(mask))
    assert values.shape == (64, 32)
    assert (values[:, :16] == 255).all()
    assert (values[:, 16:] == 0).all()


def test_a_magicbrush_mask_without_alpha_is_kept_as_it_is(tmp_path):
    mask = image_of(5, (32, 64))
    write_shards(tmp_path, "train", MAGICBRUSH, [magicbrush_row(1, 1, mask_img=mask)], shards=1)
    assert records("magicbrush", tmp_path)[0].images[1].data == mask["bytes"]


def test_magicbrush_bottom_rows_are_cut_when_asked(tmp_path):
    magicbrush(tmp_path)
    whole, cut = (records("magicbrush", tmp_path, crop_bottom=value)[0] for value in ("no", "yes"))
    assert whole.target.height == 64
    for before, after in zip((*whole.images, whole.target), (*cut.images, cut.target), strict=True):
        assert (after.width, after.height, after.role) == (32, 62, before.role)
        assert (array(after) == array(before)[:62]).all()
    assert cut.id == whole.id


def test_a_cut_off_picture_is_skipped_where_it_must_be_decoded(tmp_path):
    row = magicbrush_row(1, 1)
    row["source_img"] = {"bytes": row["source_img"]["bytes"][:-500], "path": "cut.png"}
    write_shards(tmp_path, "train", MAGICBRUSH, [row], shards=1)
    assert len(records("magicbrush", tmp_path)) == 1
    (found,) = open_source("magicbrush", tmp_path, {"crop_bottom": "yes"}).rows()
    assert found.skipped == ("damaged picture",)


def test_magicbrush_dev_when_asked_and_its_test_set_never(tmp_path):
    magicbrush(tmp_path)
    with_dev = {record.id for record in records("magicbrush", tmp_path, dev="yes")}
    assert record_id("magicbrush", "7/1") in with_dev
    for turn in (1, 2, 3):
        assert record_id("magicbrush", f"8/{turn}") not in with_dev
    file = next(tmp_path.rglob("test-*.parquet"))
    assert records("magicbrush", file, dev="yes") == []
    (tmp_path / "test").mkdir()
    shutil.copy(file, tmp_path / "test" / "0000.parquet")
    assert records("magicbrush", tmp_path / "test", dev="yes") == []


def test_subjects200k_gives_both_directions(tmp_path):
    write_shards(tmp_path, "train", SUBJECTS200K, [subjects_row(40, image=both_views(40, kind="PNG"))], shards=1)
    left, right = records("subjects200k", tmp_path)
    assert left.id != right.id
    assert left.root == right.root
    assert left.images[0].data == right.target.data
    assert right.images[0].data == left.target.data
    assert {left.images[0].role, right.images[0].role} == {"reference"}
    assert (left.target.width, left.target.height) == (512, 512)
    # the left view is red and the right one blue, up to the edges
    for record, colour in ((left, (200, 40, 0)), (right, (0, 40, 200))):
        assert (array(record.target) == colour).all()
    assert (left.instruction, left.caption_source) == ("a chair in a room 40", "a chair in a cabin 40")
    assert (right.instruction, right.caption_source) == ("a chair in a cabin 40", "a chair in a room 40")
    assert left.caption_target == left.instruction
    assert left.quality == {"compositeStructure": 5, "objectConsistency": 5, "imageQuality": 5}


def test_views_of_a_jpeg_stay_close_to_it(tmp_path):
    write_shards(tmp_path, "train", SUBJECTS200K, [subjects_row(40)], shards=1)
    left, _ = records("subjects200k", tmp_path)
    assert opened(left.target).format == "JPEG"
    # the colours of the two sides run into each other at the edges of the published picture itself
    assert np.abs(array(left.target)[16:-16, 16:-16] - (200, 40, 0)).max() <= 3


def test_subjects200k_options(tmp_path):
    rows = [subjects_row(1, (3, 4, 5), image=both_views(1, 40, 4, "PNG")), subjects_row(2, quality_assessment=None)]
    rows[1]["image"] = both_views(2, 40, 4, "PNG")
    write_shards(tmp_path, "train", SUBJECTS200K, rows, shards=1)
    sizes = {"image_size": "40", "padding": "4"}
    assert records("subjects200k", tmp_path, **sizes) == []
    assert len(records("subjects200k", tmp_path, **sizes, min_quality="3")) == 2
    found = records("subjects200k", tmp_path, **sizes, min_quality="0")
    assert len(found) == 4
    assert (found[0].target.width, found[0].target.height) == (40, 40)
    assert found[2].quality == {}


def test_collection3_has_no_licence(tmp_path):
    import pyarrow as pa

    columns = SUBJECTS200K | {"raw_json": pa.string()}
    write_shards(tmp_path, "train", columns, [subjects_row(1, raw_json="{}")], shards=1)
    source = open_source("subjects200k", tmp_path)
    assert source.licence == Licence("none")
    assert {record.licence for row in source.rows() for record in row.records} == {"none"}


def test_viton_hd_as_two_references(tmp_path):
    viton_hd(tmp_path)
    first = records("viton-hd", tmp_path)[0]
    person, garment = first.images
    assert (person.role, garment.role) == ("person", "garment")
    assert first.target.data == (tmp_path / "train" / "image" / "00000_00.jpg").read_bytes()
    assert garment.data == (tmp_path / "train" / "cloth" / "00000_00.jpg").read_bytes()
    # grey where the garment was, the person elsewhere
    assert np.abs(array(person)[:15] - 128).mean() < 5
    assert np.abs(array(person)[17:] - array(first.target)[17:]).mean() < 12
    assert first.root == first.target.digest


def test_viton_hd_as_one_canvas(tmp_path):
    viton_hd(tmp_path)
    two, one = (records("viton-hd", tmp_path, layout=layout)[0] for layout in ("references", "canvas"))
    (canvas,) = one.images
    assert (canvas.width, canvas.height) == (48, 32)
    assert np.abs(array(canvas)[:, :24] - array(two.images[0])).mean() < 12
    assert np.abs(array(canvas)[:, 24:] - array(two.images[1])).mean() < 12
    assert (one.target, one.root) == (two.target, two.root)
    assert one.id != two.id
    assert one.instruction != two.instruction


def test_viton_hd_names_of_garments(tmp_path):
    viton_hd(tmp_path)
    tags = [
        {"tag_name": "item", "tag_category": "t-shirt"},
        {"tag_name": "neckLine", "tag_category": None},
        {"tag_name": "sleeveLength", "tag_category": "short sleeve"},
    ]
    tagged = {"data": [{"file_name": "00000_00.jpg", "tag_info": tags}]}
    (tmp_path / "train" / "vitonhd_train_tagged.json").write_text(json.dumps(tagged))
    found = records("viton-hd", tmp_path)
    assert found[0].instructions[0].endswith(": short sleeve t-shirt.")
    assert found[1].instructions == ()
    (tmp_path / "train" / "vitonhd_train_tagged.json").write_text('{"data": [{}]}')
    with pytest.raises(DataError, match="tagged"):
        open_source("viton-hd", tmp_path)


@pytest.mark.parametrize("gone", ["train_pairs.txt", "train/cloth", "train/agnostic-mask"])
def test_viton_hd_without_its_training_part_is_refused(tmp_path, gone):
    viton_hd(tmp_path)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=f"has no {gone}"):
        open_source("viton-hd", tmp_path)


def test_no_picture_of_the_viton_hd_test_list_is_read(tmp_path):
    viton_hd(tmp_path)
    last = list(open_source("viton-hd", tmp_path).rows(10))
    assert [row.skipped for row in last] == [("test list, unpaired and without target",)] * 2


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("omniedit", {"dev": "maybe"}, "give yes or no"),
        ("magicbrush", {"crop_bottom": "5"}, "give yes or no"),
        ("subjects200k", {"image_size": "0"}, "at least 1"),
        ("subjects200k", {"padding": "a"}, "at least 0"),
        ("subjects200k", {"min_quality": "4.5"}, "whole number"),
        ("viton-hd", {"layout": "collage"}, "references, canvas"),
        ("ultraedit", {"dev": "yes"}, "no option 'dev'"),
    ],
)
def test_wrong_options_are_said(tmp_path, kind, options, message):
    write_shards(tmp_path, "train", OMNIEDIT, [omniedit_row(0)])
    with pytest.raises(UsageError, match=message):
        open_source(kind, tmp_path, options)
