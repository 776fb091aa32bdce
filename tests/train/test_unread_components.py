"""A run on an encoded store that nobody judges reads no autoencoder and no text encoder before it saves its model."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.stored_changes import changed
from support.tiny_training import SETTINGS

from tagmoe.config import RunConfig, check_config
from tagmoe.data.encode import encode_store
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.pipeline.components import make_autoencoder, make_text_encoder, train_tokenizer
from tagmoe.pipeline.memory.plans import CPU_PLANS, PLANS
from tagmoe.pipeline.memory.room import Room
from tagmoe.train import recipe
from tagmoe.train.components_folder import Components, components_dtype, read_components
from tagmoe.train.encoder import encoder_of
from tagmoe.train.plan import Part, plan_training
from tagmoe.train.plan_components import encoders_of
from tagmoe.train.plan_shapes import shapes_of
from tagmoe.train.recipe import assemble, dense_transformer, save_model
from tagmoe.train.text_encoder import instructions
from tagmoe.train.trace import Traced

Make = Callable[..., RunConfig]
NAME = "autoencoder and text encoder"
CPU, GPU = Room("cpu", 1e12, math.inf, CPU_PLANS), Room("cuda", 1e12, 1e12, PLANS)


@pytest.fixture(scope="module")
def encoded(tagworld: Path, components: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoded store whose pictures are not TagWorld's by name, so that its oracle judges no model."""

    def photograph(record: Record) -> Record:
        return replace(record, dataset="photographs")

    place = changed(tagworld, tmp_path_factory.mktemp("photographs") / "store", photograph)
    encode_store(Store.open(place), *encoder_of(Path(components), threads=1))
    return place


def numbers_of(parts: Components) -> int:
    return sum(p.numel() for module in (parts.vae, parts.text_encoder) for p in module.parameters())


def test_without_use_only_settings_are_read_until_the_weights_are_saved(components: str) -> None:
    parts, whole = read_components(components, used=False), read_components(components)
    assert parts.unread == Path(components)
    assert whole.unread is None
    assert whole.complete() is whole
    assert parts.settings == whole.settings
    read = parts.complete()
    assert read.unread is None
    for name in ("vae", "text_encoder"):
        unread, filled, wanted = (getattr(one, name) for one in (parts, read, whole))
        if name == "text_encoder":
            # Equal folders are read once for all tests: the path may be that of another copy.
            assert unread.config.to_dict() | {"_name_or_path": ""} == wanted.config.to_dict() | {"_name_or_path": ""}
        assert all(value.is_meta for value in unread.parameters())
        assert type(unread) is type(wanted)
        state = wanted.state_dict()
        assert state.keys() == filled.state_dict().keys()
        for key, value in filled.state_dict().items():
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, state[key].to(torch.bfloat16)), key


@pytest.mark.slow_but_first
def test_a_run_on_an_encoded_store_saves_what_it_did_not_read(
    encoded: Path, components: str, config: Make, run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Components] = []

    def noted(*arguments: Any, **options: Any) -> Components:
        read.append(read_components(*arguments, **options))
        return read[-1]

    monkeypatch.setattr(recipe, "read_components", noted)
    run = config(data={"store": str(encoded), "validation_rows": 0}, base={"steps": 1}, unified={"steps": 1})
    model = run_training(run)
    assert all(value.is_meta for value in read[0].text_encoder.parameters())
    for name in ("vae/diffusion_pytorch_model", "text_encoder/model"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (model, Path(components)))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key].to(ours[key].dtype)) for key in theirs)
    named = config(
        "named", data={"store": str(encoded)}, loss={"tag_embedding": "text", "semantic_dim": 32}, base={"steps": 0}
    )
    run_training(named.model_copy(update={"unified": named.unified.model_copy(update={"steps": 1})}))
    assert read[1].unread is None, "the names of tags are read by the text encoder"


def test_the_plan_counts_them_where_they_are_used(
    encoded: Path, tagworld: Path, components: str, config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tagmoe.train.plan.trace", lambda *_, **__: Traced(0, 1, 1))
    numbers = numbers_of(read_components(components))

    def plan(room: Room, **changes: Any) -> tuple[list[Part], tuple[str, ...], int]:
        run = config(base={"steps": 0}, optimizer={"name": "adamw"}, precision="bf16", **changes)
        made = plan_training(run, room, shapes_of(run, (64, 64), 1))
        return [part for part in made.counts.parts if part.what == NAME], made.notes, made.host

    stream, store = {}, {"data": {"store": str(tagworld)}}
    for changes in (stream, store):
        assert plan(CPU, **changes)[0] == [Part(NAME, "host", "fp32", numbers, 4 * numbers)]
        assert plan(GPU, **changes)[0] == [Part(NAME, "device", "bf16", numbers, 2 * numbers)]
    assert plan(CPU, data={"store": str(encoded)})[0] == []
    assert plan(CPU, data={"store": str(encoded)}, loss={"tag_embedding": "text"})[0]
    elsewhere = plan(CPU, data={"store": str(tmp_path / "none")})
    assert elsewhere[0]
    assert "cannot be opened here" in elsewhere[1][-1]


def test_a_store_with_tagworld_is_judged_and_so_they_are_used(tagworld: Path, components: str, tmp_path: Path) -> None:
    place = shutil.copytree(tagworld, tmp_path / "store")
    encode_store(Store.open(place), *encoder_of(Path(components), threads=1))
    stages = {"base": {"steps": 0}, "unified": {"steps": 1}}
    for weights, used in ((None, True), ({"tagworld": 1.0}, True), ({"tagworld": 0.0, "others": 1.0}, False)):
        data = {"store": str(place), "weights": weights}
        run = check_config({"output_dir": "unused", "components": components, "data": data, **stages})
        assert encoders_of(run).used == used


def test_on_a_gpu_they_compute_in_bf16_where_training_does() -> None:
    assert components_dtype("bf16", "cuda") == torch.bfloat16
    assert components_dtype("fp32", "cuda") == torch.float32
    assert components_dtype("bf16", "cpu") == torch.float32


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_holds_what_the_plan_says_while_it_reads(tmp_path: Path) -> None:
    """Of a text encoder of 160 MB in fp32. Pages of its file that are mapped count too."""
    tokenizer = train_tokenizer(instructions(0, 500), vocab_size=420)
    vae = make_autoencoder(base_dim=4, z_dim=4, dim_mult=(1, 1, 2, 2))
    made = make_text_encoder(
        tokenizer, hidden_size=768, num_layers=6, num_heads=8, num_kv_heads=4, intermediate_size=2048
    )
    config = check_config({**SETTINGS, "output_dir": "unused"})
    parts = Components(vae, tokenizer, made)
    save_model(assemble(dense_transformer(config, parts), parts), tmp_path / "model")
    numbers = numbers_of(parts)
    assert 4 * numbers > 150e6
    planned = encoders_of(check_config({**SETTINGS, "output_dir": "unused", "components": str(tmp_path / "model")}))
    assert planned.numbers == numbers

    files = [file for name in ("vae", "text_encoder") for file in (tmp_path / "model" / name).iterdir()]
    disk = sum(file.stat().st_size for file in files)
    for how, most in (("unread", 0), ("saved", 2 * numbers), ("used", 4 * planned.numbers)):
        # A process of its own: one that is forked counts what it shares.
        command = [sys.executable, "-c", READ, str(tmp_path / "model"), how]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, own = json.loads(done.stdout.splitlines()[-1])
        print(f"{how}: at most {peak / 1e6:.0f} MB, its own in the end {own / 1e6:.0f}, planned {most / 1e6:.0f}")
        # Pages of the files are mapped meanwhile, which the system takes back when it needs them.
        assert peak < 1.1 * most + (disk if how == "used" else 0) + 15e6
        assert own < 1.1 * most + 15e6


READ = """
import json, sys
from pathlib import Path
from tagmoe.train.components_folder import read_components

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

read_components("packaged")  # the libraries are loaded
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before, kept = memory("VmRSS"), memory("RssAnon")
parts = read_components(sys.argv[1], used=sys.argv[2] == "used")
if sys.argv[2] == "saved":
    parts = parts.complete()
print(json.dumps([memory("VmHWM") - before, memory("RssAnon") - kept]))
"""
