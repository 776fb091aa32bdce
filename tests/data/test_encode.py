"""Encoding: the columns are what the pipeline gives, every failure is a counted row, and a stale cache is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoded_stores import SEED, make_store, png, record
from support.stored_content import content_hash

from tagmoe.data.encode import BLANK, COLUMNS, INDICATOR, encode_store
from tagmoe.data.encoded_rows import EncodedStore
from tagmoe.data.encoder import fit, nearest_size
from tagmoe.data.store.store import Store
from tagmoe.errors import CheckpointError, DataError, UsageError
from tagmoe.pipeline.packaged import load_packaged, packaged_folder
from tagmoe.train.encoder import default_sizes, encoder_of
from tagmoe.train.stream import CHUNK, EncodedSamples
from tagmoe.weights.presets import RELEASE
from tagmoe.world import sample

SMALL = [(64, 64), (32, 64), (64, 32)]


@pytest.fixture(scope="module")
def pipeline():
    return load_packaged()


@pytest.fixture(scope="module")
def packaged():
    """(load, fingerprint) of the packaged model; its encoder is made once."""
    load, fingerprint = encoder_of(packaged_folder())
    return Once(load()), fingerprint


@dataclass
class Once:
    encoder: object

    def __call__(self):
        return self.encoder


def buckets_of(store: Store) -> list[str | None]:
    return [bucket for batch in store.scan([INDICATOR]) for bucket in batch[INDICATOR].to_pylist()]


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, packaged):
    store = make_store(tmp_path_factory.mktemp("stores") / "s", (6, 3))
    assert encode_store(store, *packaged).rows == 9
    return store


def test_latents_are_those_that_training_reads(tmp_path, pipeline, packaged):
    """Bit for bit in float16, for a chunk that `EncodedSamples` encodes at once."""
    samples = EncodedSamples(
        pipeline, ("recolour",), batch_size=CHUNK, seed=SEED, unique=CHUNK, folder=tmp_path, name="x"
    )
    drawn = [sample(SEED, number, task=("recolour",)) for number in range(4)]
    changes = {
        number: {"target": png(case.target), "images": (png(case.sources[0]),), "instruction": case.instruction}
        for number, case in enumerate(drawn)
    }
    store = make_store(tmp_path / "s", (4,), changes)
    encode_store(store, *packaged)
    found = EncodedStore(store).read(range(4), blank=[False, True, False, False])
    batch = samples.batch(range(4), blank=[False, True, False, False])
    import torch

    for ours, theirs in ((found.target, batch.target_BTC), (found.references[0], batch.reference_BTC)):
        packed = pipeline.pack_latents(torch.from_numpy(ours.astype(np.float32)))
        assert torch.equal(packed, theirs)
    assert found.text.shape == batch.text_BSD.shape
    assert np.array_equal(found.mask, batch.mask_BS.numpy())
    assert np.allclose(found.text.astype(np.float32), batch.text_BSD.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_rows_read_back_are_what_the_pipeline_gives(encoded, pipeline):
    reader = EncodedStore(encoded)
    buckets = buckets_of(reader.store)
    for row, bucket in enumerate(buckets):
        case = sample(SEED, row)
        assert bucket == " ".join(["64x64"] * (1 + len(case.sources)))
        found = reader.read([row])
        side = pipeline.size_multiple
        cells = case.mask.reshape(64 // side, side, 64 // side, side).any(axis=(1, 3))
        assert np.array_equal(found.edited[0], cells)
        text, _ = pipeline.encode_prompt(case.instruction)
        assert np.allclose(found.text, text.numpy(), rtol=2e-3, atol=2e-3)
    most = Counter(buckets).most_common(1)[0][0]
    rows = [row for row, bucket in enumerate(buckets) if bucket == most]
    together = reader.read(rows[::-1])
    alone = [reader.read([row]) for row in rows[::-1]]
    assert np.array_equal(together.target, np.concatenate([one.target for one in alone]))
    assert all(np.array_equal(together.text[i, : len(one.text[0])], one.text[0]) for i, one in enumerate(alone))
    assert together.mask.sum(axis=1).tolist() == [one.mask.sum() for one in alone]
    blank, _ = pipeline.encode_prompt(BLANK)
    assert np.allclose(reader.blank, blank[0].numpy(), rtol=2e-3, atol=2e-3)
    if len(set(buckets)) > 1:
        with pytest.raises(DataError, match="one bucket"):
            reader.read(range(len(buckets)))


def test_what_cannot_be_encoded_is_counted_and_the_rest_is_there(tmp_path, packaged):
    bad = png(noise(64, 64))
    cut = type(bad)(bad.data[:200], 64, 64)
    rubbish = type(bad)(b"rubbish", 64, 64, "reference")
    changes = {
        0: {"target": cut, "root": "0" * 64},
        1: {"images": (png(noise(64, 64)), rubbish)},
        2: {"instruction": "a zeppelin"},
        3: {"instruction_rewritten": "another zeppelin"},
        4: {"images": (type(bad)(b"rubbish", 64, 64, "mask"),)},
        5: {"instruction_rewritten": record(6).instruction},
    }
    store = make_store(tmp_path / "s", (7,), changes)
    result = encode_store(store, *packaged)
    assert (result.rows, result.unusable, result.left) == (7, 3, 0)
    assert result.errors == {"target": 1, "reference": 1, "instruction": 1, "rewritten": 1, "mask": 1}
    rows = store.take(range(7), COLUMNS).to_pylist()
    assert [bool(row["encoded_bucket"]) for row in rows] == [False] * 3 + [True] * 4
    for row, part in zip(rows, ("target", "reference", "instruction", "rewritten", "mask"), strict=False):
        assert row["encoded_error"].startswith(f"{part}: ")
    assert all(row["encoded_target"] is None and row["encoded_references"] == [] for row in rows[:3])
    assert rows[3]["encoded_rewritten"] is None
    assert rows[4]["encoded_mask"] is None
    assert rows[5]["encoded_error"] is rows[6]["encoded_error"] is None
    reader = EncodedStore(store)
    with pytest.raises(DataError, match="rows with none"):
        reader.read([0])
    own = reader.read([5], share=1.0)
    other = reader.read([6])
    assert np.array_equal(own.text, other.text)
    assert reader.read([4]).edited is None


@pytest.mark.slow
def test_each_picture_goes_to_the_bucket_of_its_aspect(tmp_path, pipeline):
    load, fingerprint = encoder_of(packaged_folder(), SMALL)
    wide = noise(96, 40)
    changes = {
        0: {"target": png(noise(50, 120)), "images": (png(wide), png(noise(200, 190), "reference"))},
        1: {"images": ()},
    }
    changes[0]["images"] += (png(np.full((120, 50), 255, np.uint8), "mask"),)
    store = make_store(tmp_path / "s", (2,), changes)
    encode_store(store, load, fingerprint)
    reader = EncodedStore(store)
    assert buckets_of(reader.store) == ["32x64 64x32 64x64", "64x64"]
    found = reader.read([0])
    factor = pipeline.vae_scale_factor
    assert [a.shape[-2:] for a in (found.target, *found.references)] == [
        (64 // factor, 32 // factor),
        (32 // factor, 64 // factor),
        (64 // factor, 64 // factor),
    ]
    side = pipeline.size_multiple
    assert found.edited.shape == (1, 64 // side, 32 // side)
    assert found.edited.all()
    assert reader.read([1]).references == ()


def test_a_picture_is_scaled_and_cut_in_the_middle():
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    fitted = fit(Image.fromarray(pixels), (40, 40))
    assert np.asarray(fitted).min() == 255
    same = Image.fromarray(pixels)
    assert fit(same, (100, 40)) is same
    assert all(nearest_size(*size, RELEASE.sizes) == RELEASE.nearest(*size) for size in ((640, 480), (1, 9), (3, 3)))


def test_of_sizes_with_one_aspect_the_nearest_area_wins():
    sizes = [(512, 512), (1024, 1024), (256, 512), (512, 1024)]
    for picture, wanted in (
        ((1000, 1000), (1024, 1024)),
        ((500, 520), (512, 512)),
        ((3000, 3000), (1024, 1024)),
        ((20, 20), (512, 512)),
        ((500, 1000), (512, 1024)),
        ((250, 500), (256, 512)),
    ):
        assert nearest_size(*picture, sizes) == nearest_size(*picture, sizes[::-1]) == wanted


def test_a_row_is_trained_on_when_one_of_its_wordings_is_encoded(tmp_path, packaged):
    changes = {
        0: {"instructions": ("make the circle red", "a zeppelin")},
        1: {"instruction": "a zeppelin", "instructions": ("make the circle red",)},
        2: {"instruction": "a zeppelin", "instruction_rewritten": "make the circle red"},
    }
    store = make_store(tmp_path / "s", (3,), changes)
    result = encode_store(store, *packaged)
    assert (result.unusable, result.errors) == (1, {"wording": 1, "instruction": 2})
    reader = EncodedStore(store)
    texts = [reader.read([row], choice=[choice]).text for row, choice in ((0, 0.9), (1, 0.0), (1, 0.9))]
    assert all(np.array_equal(texts[0], text) for text in texts)
    assert not np.array_equal(texts[0], reader.read([0]).text)


def test_a_stale_cache_is_refused_and_made_anew(tmp_path, packaged):
    load, fingerprint = packaged
    store = make_store(tmp_path / "s", (2, 2))
    encode_store(store, load, fingerprint, limit=1)
    first = store.take([0, 1], COLUMNS).to_pylist()
    other = {**fingerprint, "vae": "another", "sizes": [[32, 32]]}
    for call in (lambda: encode_store(store, load, other), lambda: EncodedStore(store, other)):
        with pytest.raises(DataError, match=r"different: sizes, vae\).*--again"):
            call()
    assert store.take([0, 1], COLUMNS).to_pylist() == first
    result = encode_store(store, load, other, again=True)
    assert (result.rows, result.before, result.left) == (4, 0, 0)
    assert store.note("encode") == other
    with pytest.raises(DataError, match="different"):
        EncodedStore(store, fingerprint)
    EncodedStore(store, other)


@pytest.mark.slow
def test_rows_added_later_are_encoded_alone(tmp_path, packaged):
    store = make_store(tmp_path / "s", (2, 2))
    assert encode_store(store, *packaged, limit=2).left == 1
    again = encode_store(store, *packaged)
    assert (again.before, again.rows, again.left) == (1, 2, 0)
    with store.writing():
        store.append([record(9)])
    assert buckets_of(store)[-1] is None
    last = encode_store(store, *packaged)
    assert (last.before, last.rows) == (2, 1)
    whole = make_store(tmp_path / "w", (2, 2))
    with whole.writing():
        whole.append([record(9)])
    encode_store(whole, *packaged)
    assert content_hash(store) == content_hash(whole)


@pytest.mark.slow
def test_the_fingerprint_is_of_weights_and_settings_not_of_places(tmp_path):
    base = encoder_of(packaged_folder())[1]
    copy = tmp_path / "copy"
    shutil.copytree(packaged_folder(), copy)
    assert encoder_of(copy)[1] == base
    assert json.loads(json.dumps(base)) == base
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"prompt_template": "<|im_start|>see {}<|im_end|>"}))
    tokenizer = copy / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    weights = next((copy / "vae").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = encoder_of(copy, SMALL, "bfloat16")[1]
    assert {name for name in base if base[name] != found[name]} == {"prompt", "tokenizer", "vae", "sizes", "dtype"}


def test_sizes_that_the_model_cannot_encode(tmp_path):
    for sizes, message in (([(60, 64)], "60x64"), ([(64, 64)] * 2, "twice"), ([], "no bucket")):
        with pytest.raises(UsageError, match=message):
            encoder_of(packaged_folder(), sizes)
    assert default_sizes({"default_size": 64}) == [(64, 64)]
    assert default_sizes({}) == list(RELEASE.sizes)
    shutil.copytree(packaged_folder(), tmp_path / "m")
    next((tmp_path / "m" / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError):
        encoder_of(tmp_path / "m")


@dataclass(frozen=True)
class Deadly:
    """Makes the encoder, but the first process that does is killed."""

    mark: Path
    load: partial

    def __call__(self):
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.load()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_worker_that_is_killed_changes_nothing(tmp_path, packaged, engine, monkeypatch):
    # Ray's workers import this file
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    load, fingerprint = encoder_of(packaged_folder(), threads=1)
    undisturbed = make_store(tmp_path / "a", (2, 1, 2))
    encode_store(undisturbed, *packaged)
    store = make_store(tmp_path / "b", (2, 1, 2))
    deadly = Deadly(tmp_path / "mark", load)
    result = encode_store(store, deadly, fingerprint, engine=engine, workers=2)
    assert (tmp_path / "mark").exists()
    assert (result.rows, result.left) == (5, 0)
    assert content_hash(Store.open(tmp_path / "b")) == content_hash(undisturbed)


def test_a_fragment_that_fails_does_not_lose_the_others(tmp_path, packaged):
    store = make_store(tmp_path / "s", (1, 1, 1))
    encoder, fingerprint = packaged[0](), packaged[1]
    broken = Once(Broken(encoder, calls=1))
    with pytest.raises(DataError, match=r"1 of the fragments .*out of memory"):
        encode_store(store, broken, fingerprint)
    assert len(store.unfilled("encoded_bucket")) == 1
    assert encode_store(store, *packaged).rows == 1


class Broken:
    """The encoder, but one of its calls fails."""

    def __init__(self, encoder, calls):
        self._encoder, self._calls = encoder, calls

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode_pictures(self, pictures):
        self._calls -= 1
        if self._calls == 0:
            raise RuntimeError("out of memory")
        return self._encoder.encode_pictures(pictures)
