"""Each check finds what it is for, and nothing in sound records."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.made_pictures import encoded, picture, scene, sound, with_patch

from tagmoe.data.check import checks
from tagmoe.data.check.checks import CHECKS, DEFAULT, Policy, examine
from tagmoe.data.store.record import PARTIAL, Picture, Record, TagProvenance, record_id, to_row
from tagmoe.errors import UsageError
from tagmoe.tags import TaskDescriptor
from tagmoe.world import TASKS, sample


def found(record: Record, *, policy: Policy = DEFAULT, **columns) -> set[str]:
    names = {finding.check for finding in examine({**to_row(record), **columns}, policy)}
    assert names <= CHECKS.keys()
    return names


def with_source(data: bytes | Picture, **changes) -> Record:
    return sound(1, images=(data if isinstance(data, Picture) else picture(data),), **changes)


def white_mask(width: int = 128, height: int = 128, value: int = 255) -> Picture:
    mask = Image.new("L", (width, height))
    mask.paste(value, (10, 10, 40, 40))
    return picture(mask, "mask", "PNG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
def test_nothing_is_wrong_with_sound_records(kind, number):
    pixels = scene(seed=number, height=160, width=128)
    pair = {
        "images": (picture(pixels, kind=kind), white_mask(128, 160)),
        "target": picture(with_patch(pixels, number), kind=kind),
    }
    assert found(sound(number, **pair)) == set()
    assert found(sound(number, images=(), tags=(17,), instruction="A red balloon.")) == set()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_wrong_with_tagworld(task):
    for index in range(12):
        case = sample(5, index, task=task)
        images = tuple(picture(pixels, kind="PNG") for pixels in case.sources)
        record = Record(
            id=record_id("tagworld", str(index)),
            dataset="tagworld",
            images=images,
            target=picture(case.target, kind="PNG"),
            instruction=case.instruction,
            licence="Apache-2.0",
            tags=case.tags.indices,
        )
        assert found(record) == set(), (task, index)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_picture_is_found_wherever_it_is_cut(kind, progressive):
    data = encoded(scene(600, 512), kind, **({"progressive": progressive} if kind == "JPEG" else {}))
    for share in np.linspace(0.02, 0.995, 25):
        cut = Picture(data[: int(len(data) * share)], 512, 600)
        assert "undecodable" in found(with_source(cut)), share


def test_a_damaged_file_is_undecodable():
    data = bytearray(encoded(scene(), "PNG"))
    data[len(data) // 2] ^= 255
    for damaged in (bytes(data), b"", b"<html>404 not found</html>", b"\xff\xd8\xff"):
        assert "undecodable" in found(with_source(Picture(damaged, 128, 128)))
    assert "undecodable" in found(sound(1, images=(sound(1).images[0], Picture(b"no mask", 128, 128, "mask"))))


@pytest.mark.parametrize("role", ["source", "reference", "target"])
def test_absurd_sizes(role):
    def of(pixels) -> set[str]:
        made = picture(pixels, "source" if role == "target" else role, "PNG")
        return found(sound(1, target=made, images=()) if role == "target" else with_source(made))

    assert "tiny" in of(scene(128, 63))
    assert "extreme aspect" in of(scene(64, 260))
    assert not {"tiny", "extreme aspect"} & of(scene(64, 256))


@pytest.mark.slow
def test_a_huge_picture_is_found_without_decoding_it(monkeypatch):
    monkeypatch.setattr(checks, "_view", lambda *_: pytest.fail("decoded"))
    buffer = io.BytesIO()
    Image.new("1", (10_000, 8_000)).save(buffer, "PNG")
    assert found(sound(1, images=(), target=picture(buffer.getvalue()))) == {"huge"}
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert found(sound(1, images=(), target=Picture(bomb.getvalue(), 20_000, 20_000))) == {"huge"}


def test_a_picture_of_one_colour():
    blank = np.full((128, 128, 3), 90, np.uint8)
    assert "single colour" in found(with_source(picture(blank)))
    assert "single colour" in found(with_source(picture(blank, "reference")))
    assert "single colour" in found(sound(1, images=(), target=picture(blank)))
    alone = blank.copy()
    alone[20:60, 30:70] = scene(40, 40)
    # Taking the only thing off a plain ground leaves one colour, and that is right.
    assert found(sound(1, images=(picture(alone),), target=picture(blank))) == set()
    assert found(sound(1, images=(picture(blank),), target=picture(alone))) == set()


def test_the_recorded_size():
    right = sound(1).images[0]
    assert found(with_source(replace(right, width=64))) == {"recorded size"}
    turned = Image.fromarray(scene(128, 200))
    exif = turned.getexif()
    exif[0x0112] = 6
    data = encoded(turned, exif=exif)
    upright = picture(with_patch(np.rot90(scene(128, 200), -1)))
    for size in ((200, 128), (128, 200)):
        assert found(sound(1, images=(Picture(data, *size),), target=upright)) == set()
    assert "aspect mismatch" in found(sound(1, images=(Picture(data, 200, 128),), target=picture(scene(128, 200))))


@pytest.mark.slow
def test_sizes_of_a_pair():
    pixels = scene(256, 192)
    assert found(sound(1, images=(picture(pixels),), target=picture(scene(512, 384)))) == set()
    assert found(sound(1, images=(picture(pixels),), target=picture(scene(192, 192)))) == {"aspect mismatch"}
    # Rounding to multiples of 16 is no other aspect; a reference may have any size.
    assert found(sound(1, images=(picture(scene(768, 1024)),), target=picture(scene(752, 1008)))) == set()
    assert found(sound(1, images=(picture(pixels, "reference"),), target=picture(scene(192, 192)))) == set()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("number", range(3))
def test_nothing_was_edited(number):
    pixels = scene(seed=number, height=300, width=500)
    source = picture(pixels, kind="PNG")
    assert found(sound(1, images=(source,), target=source)) == {"same bytes"}
    other = picture(encoded(pixels, "PNG", compress_level=1))
    assert found(sound(1, images=(source,), target=other)) == {"same pixels"}
    nearly = pixels.copy()
    nearly[3, 5] += 1
    assert found(sound(1, images=(source,), target=picture(nearly, kind="PNG"))) == set()
    kept = picture(encoded(Image.open(io.BytesIO(encoded(pixels))), "PNG"))
    assert found(sound(1, images=(picture(encoded(pixels)),), target=kept)) == {"same pixels"}


@pytest.mark.parametrize("right", [1, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 8))])
def test_a_shifted_pair(right):
    whole = scene(256, 280, right)
    source, target = whole[:, 12:268], with_patch(whole[:, 12 - right : 268 - right], right)
    assert found(sound(1, images=(picture(source),), target=picture(target))) == {"shifted"}
    (finding,) = examine(to_row(sound(1, images=(picture(source),), target=picture(target))))
    assert abs(float(finding.detail.split("lies ")[1].split()[0]) - right) < 0.5
    view = TaskDescriptor.from_tags(["viewpoint editing", "identity preservation"]).indices
    assert found(sound(1, images=(picture(source),), target=picture(target), tags=view)) == set()


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"instruction": " \n"}, "empty instruction"),
        ({"instructions": ["Add it.", ""]}, "empty instruction"),
        ({"instruction_rewritten": ""}, "empty instruction"),
        ({"instruction": "a" * 2001}, "long instruction"),
        ({"tags": [0, 6, 18]}, "unknown tag"),
        ({"tags": [-1]}, "unknown tag"),
        ({"tags": [0, 6, 6, 13]}, "unknown tag"),
        ({"tags": [0, 1, 6, 13]}, "tag rules"),
        ({"tags": [0, 6]}, "tag rules"),
        ({"tags": []}, "tag rules"),
    ],
)
def test_instructions_and_tags(columns, name):
    assert found(sound(1), **columns) == {name}


def test_preservation_that_is_still_to_be_judged_breaks_no_rule():
    open_ = TagProvenance("inverse", status=PARTIAL)
    assert found(sound(1, tags=(0, 6), tag_provenance=open_)) == set()
    assert found(sound(1, tags=(0,), tag_provenance=open_)) == {"tag rules"}
    assert found(sound(1, tags=None)) == set()


def test_a_policy_names_each_check_and_its_limit():
    pixels = scene(256, 192)
    larger = sound(1, images=(picture(pixels),), target=picture(scene(512, 384)))
    assert found(larger, policy=Policy.of({"size mismatch": "on"})) == {"size mismatch"}
    # What editors publish: a photograph of 4:3, and an edit of 1184x864.
    pair = sound(1, images=(picture(scene(683, 1024)),), target=picture(scene(832, 1248)))
    assert found(pair) == set()
    assert found(pair, policy=Policy.of({"aspect mismatch": "0"})) == {"aspect mismatch"}
    assert found(larger, policy=Policy.of({"tiny": "200"})) == {"tiny"}
    assert found(sound(1, instruction=" "), policy=Policy.of({"empty instruction": "off"})) == set()
    for name, value in (("colour", "off"), ("tiny", "large"), ("tiny", "-1"), ("same bytes", "3"), ("tiny", "nan")):
        with pytest.raises(UsageError, match=name):
            Policy.of({name: value})


def test_a_photograph_is_no_mask():
    image = sound(1).images[0]
    assert found(sound(1, images=(image, picture(scene(128, 128), "mask")))) == {"no mask"}
    soft = Image.new("L", (128, 128))
    soft.paste(255, (30, 30, 90, 90))
    blurred = picture(soft.filter(ImageFilter.GaussianBlur(4)), "mask", "PNG")
    assert found(sound(1, images=(image, blurred))) == set()
    photograph = Image.fromarray(scene(128, 128)).convert("RGBA")
    alpha = Image.new("L", (128, 128), 255)
    alpha.paste(0, (0, 0, 64, 128))
    photograph.putalpha(alpha)
    assert "no mask" in found(sound(1, images=(image, picture(photograph, "mask", "PNG"))))


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (120, 128)])
def test_a_mask_of_another_size_and_one_aspect_fits(size):
    assert found(sound(1, images=(sound(1).images[0], white_mask(*size)))) == set()


def test_masks():
    image = sound(1).images[0]
    assert found(sound(1, images=(image, white_mask()))) == set()
    assert found(sound(1, images=(image, white_mask(value=0)))) == {"empty mask"}
    assert found(sound(1, images=(image, white_mask(64, 128)))) == {"mask size"}
    one = Image.new("L", (128, 128))
    one.putpixel((77, 3), 255)
    assert found(sound(1, images=(image, picture(one, "mask", "PNG")))) == set()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_pictures_of_all_modes(mode):
    if mode == "I;16":
        image = Image.fromarray(scene()[:, :, 0].astype(np.uint16) * 256)
    else:
        image = Image.fromarray(scene()).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert found(sound(1, images=(picture(image, "reference", kind),))) == set()
