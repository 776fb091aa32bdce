"""The pictures of a benchmark stay out, also when they were encoded again, resized or cropped; others come in."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from support.edit_files import jsonl_folder, picture_bytes

from tagmoe.data.sources.benchmark_pictures import BenchmarkPictures, benchmark_pictures
from tagmoe.data.sources.importing import BENCHMARK, LIKE_BENCHMARK, import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.store.record import Picture
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError


def source(path: Path) -> JsonlSource:
    return JsonlSource(path, licence="CC-BY-4.0")


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    return jsonl_folder(tmp_path / "edits", 10)


def test_benchmark_pictures_stay_out(tmp_path, edits):
    listed = tmp_path / "hashes.txt"
    digests = [hashlib.sha256(picture_bytes(number)).hexdigest() for number in (0, 7)]
    listed.write_text(f"# benchmark\n{digests[0]}\n\n{digests[1].upper()}  some/picture.png # a target\n")
    refused = benchmark_pictures(listed)
    assert refused.digests == set(digests)
    found = import_source(Store.create(tmp_path / "s"), source(edits), refused_pictures=refused)
    assert (found.accepted, found.skipped) == (8, {BENCHMARK: 2})


def test_the_pictures_of_a_benchmark_on_the_disk(tmp_path, edits):
    bench = tmp_path / "bench"
    (bench / "deep").mkdir(parents=True)
    (bench / "deep" / "0.PNG").write_bytes(picture_bytes(0))
    (bench / "readme.txt").write_text("nothing")
    rows = {"id": ["a"], "image": [{"bytes": picture_bytes(7), "path": "7.png"}], "more": [[{"bytes": b"x"}]]}
    pq.write_table(pa.table(rows), bench / "test.parquet")
    refused = benchmark_pictures(bench)
    assert refused.digests == {hashlib.sha256(data).hexdigest() for data in (picture_bytes(0), picture_bytes(7), b"x")}
    found = import_source(Store.create(tmp_path / "s"), source(edits), refused_pictures=refused)
    assert (found.accepted, found.skipped) == (8, {BENCHMARK: 2})


def photographs() -> list[Image.Image]:
    """Parts of photographs that packages ship, each a picture of its own."""
    folder = Path(matplotlib.get_data_path()) / "sample_data"
    whole = [Image.open(folder / "grace_hopper.jpg"), *map(Image.fromarray, load_sample_images().images)]
    return [
        image.convert("RGB").crop(
            (x * image.width // 2, y * image.height // 2, (x + 1) * image.width // 2, (y + 1) * image.height // 2)
        )
        for image in whole
        for x in range(2)
        for y in range(2)
    ]


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cropped(image: Image.Image, share: float, right: float, down: float) -> Image.Image:
    width, height = (round(side * (1 - share)) for side in image.size)
    left, top = round((image.width - width) * right), round((image.height - height) * down)
    return image.crop((left, top, left + width, top + height))


CHANGED = {
    "encoded again": lambda image: saved(image, "JPEG", quality=40),
    "resized": lambda image: saved(image.resize((image.width // 2, image.height // 2))),
    "cropped in the middle": lambda image: saved(cropped(image, 0.05, 0.5, 0.5)),
    "cropped at a corner": lambda image: saved(cropped(image, 0.1, 1.0, 0.0)),
    "all of it": lambda image: saved(cropped(image, 0.06, 0.3, 0.7).resize((160, 160)), "WEBP", quality=50),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGED.values(), ids=list(CHANGED))
def test_a_benchmark_picture_is_known_when_it_was_changed(tmp_path, change):
    found = photographs()
    for number, image in enumerate(found):
        (tmp_path / f"{number}.png").write_bytes(saved(image))
    refused = benchmark_pictures(tmp_path)
    assert all(refused.has_like(Picture.of(change(image))) for image in found)
    assert not any(refused.has(Picture.of(change(image))) for image in found)
    exact = BenchmarkPictures.union([refused], 0)
    assert not any(exact.has_like(Picture.of(change(image))) for image in found)


@pytest.mark.slow
def test_other_photographs_are_no_benchmark_pictures(tmp_path):
    found = photographs()
    for number, image in enumerate(found[::2]):
        (tmp_path / f"{number}.png").write_bytes(saved(image))
    refused = benchmark_pictures(tmp_path)
    assert not any(refused.has_like(Picture.of(saved(image))) for image in found[1::2])
    assert not refused.has_like(Picture.of(saved(Image.new("RGB", (64, 64), "grey"))))


def test_a_record_with_a_picture_like_one_of_a_benchmark_stays_out(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.png").write_bytes(saved(photographs()[0]))
    folder = jsonl_folder(tmp_path / "e", 2)
    (folder.parent / "pictures" / "0-after.png").write_bytes(CHANGED["resized"](photographs()[0]))
    refused = benchmark_pictures(tmp_path / "bench")
    found = import_source(Store.create(tmp_path / "s"), source(folder), refused_pictures=refused)
    assert (found.accepted, found.skipped) == (1, {LIKE_BENCHMARK: 1})


def test_a_folder_that_is_no_benchmark(tmp_path):
    with pytest.raises(UsageError, match="no pictures and no Parquet files"):
        benchmark_pictures(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(UsageError, match="cannot be read"):
        benchmark_pictures(tmp_path)


@pytest.mark.parametrize(("text", "part"), [("abc\n", "Line 1"), ("\n" + "g" * 64, "Line 2"), (b"\xff\xfe", "UTF-8")])
def test_a_bad_file_of_hashes(tmp_path, text, part):
    path = tmp_path / "hashes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=part):
        benchmark_pictures(path)
    with pytest.raises(UsageError, match="cannot be read"):
        benchmark_pictures(tmp_path / "none")
