"""The arithmetic: exact counts of the full-size model, the choice among plans, estimates that hold where measured."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.errors import CheckpointError, MissingError, TagMoEError, UsageError
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.memory import room as room_module
from tagmoe.pipeline.memory.plans import BUDGETS, CPU_PLANS, CPU_RESERVE, PLANS, RESERVE, choose_plan, fits
from tagmoe.pipeline.memory.room import memory_room
from tagmoe.pipeline.memory.sizes import GB, ModelSizes, PartSize, full_size, read_sizes
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.weights.shards import read_file

HOST = 128 * GB


@pytest.fixture(scope="module")
def full() -> ModelSizes:
    return full_size()


@pytest.mark.slow
def test_the_full_size_model_is_counted_exactly(full: ModelSizes) -> None:
    with torch.device("meta"):
        dense = sum(p.numel() for p in QwenImageTransformer2DModel().parameters())
        moe = TagMoETransformer2DModel(num_moe_blocks=10, gate="linear", expert_bias=False)
        rounded = sum(2 ** math.ceil(math.log2(p.numel())) for p in moe.parameters())
    assert dense == 20_430_401_088
    width, hidden = 3072, 4 * 3072
    expert, ffn = 2 * width * hidden, 2 * width * hidden + width + hidden
    assert full.transformer.parameters == dense + 10 * (4 * expert + 4 * width - ffn)
    assert full.transformer.parameters == pytest.approx(22.696e9, rel=1e-4)
    assert full.transformer.pinned == rounded
    assert full.text_encoder.parameters == 8_292_166_656
    assert full.vae.parameters == 126_892_531
    assert full.transformer.bytes_as("full", 2) == 2 * full.transformer.parameters
    # Nearly all of it lies in layers that are quantised; a block with experts is the largest.
    assert 0.997 < full.transformer.quantised / full.transformer.parameters < 1
    assert full.transformer.bytes_as("4-bit", 2) / full.transformer.quantised == pytest.approx(0.5625, rel=0.01)
    assert full.transformer.bytes_as("8-bit", 2) / full.transformer.quantised == pytest.approx(1, rel=0.01)
    assert 3 * expert < full.transformer.largest_group < full.transformer.parameters / 30
    # Input and output embeddings of the text encoder are not.
    assert full.text_encoder.parameters - full.text_encoder.quantised > 2 * 152064 * 3584


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("budget", "host", "name"),
    [
        (BUDGETS["80gb"] - RESERVE, HOST, "resident"),
        (BUDGETS["48gb"] - RESERVE, HOST, "8-bit"),
        (BUDGETS["24gb"] - RESERVE, HOST, "4-bit"),
        (48 * 2**30 - RESERVE, HOST, "component-offload"),
        (48 * 2**30 - RESERVE, 32 * GB, "8-bit"),
        (16 * GB, HOST, "4-bit-component-offload"),
        (8 * GB, HOST, "group-offload"),
    ],
)
def test_what_a_card_gets(full: ModelSizes, budget: float, host: float, name: str) -> None:
    assert choose_plan(full, budget, host).name == name


@pytest.mark.parametrize(
    ("memory", "value", "name"),
    [
        ("24gb", 2, "4-bit"),
        ("16gb", 2, "4-bit-in-turns"),
        ("8gb", 2, "blocks-from-disk"),
        # without units for bf16 all that is not packed is fp32
        ("24gb", 4, "4-bit-in-turns"),
        ("16gb", 4, "blocks-from-disk"),
        ("8gb", 4, None),
    ],
)
def test_what_a_processor_gets(full: ModelSizes, memory: str, value: int, name: str | None) -> None:
    sizes = replace(full, value_bytes=4, quantised_value_bytes=value)
    budget = BUDGETS[memory] - CPU_RESERVE
    if name is None:
        with pytest.raises(TagMoEError, match="the smallest needs"):
            choose_plan(sizes, budget, math.inf, CPU_PLANS)
    else:
        assert choose_plan(sizes, budget, math.inf, CPU_PLANS).name == name


@pytest.mark.parametrize(("budget", "host"), [(8 * GB, 32 * GB), (2 * GB, HOST)])
def test_when_nothing_fits_one_sentence_says_what_is_needed(full: ModelSizes, budget: float, host: float) -> None:
    with pytest.raises(TagMoEError, match=r"4\.2 GB on the device and 89\.5 GB of host memory") as caught:
        choose_plan(full, budget, host)
    assert str(caught.value).count(". ") == 0


def test_weights_alone_are_what_is_left_without_activations(full: ModelSizes) -> None:
    """The sums are the sums of their lines, moment by moment."""
    for plan in PLANS:
        estimate = plan.estimate(full)
        lines = {line.what: line.bytes for line in estimate.lines}
        assert estimate.device == max(estimate.moments.values())
        weights = [lines[name] for name in ("transformer", "text encoder", "autoencoder")]
        work = lines["activations, transformer"]
        if plan.offload == "none":
            assert estimate.moments["denoise"] == sum(weights) + work
        elif plan.offload == "component":
            assert estimate.moments["denoise"] == weights[0] + weights[2] + work
            assert estimate.host == sum(weights)
        else:
            assert estimate.moments["denoise"] < weights[0] / 8
            assert sum(weights) < estimate.host == lines["transformer, on the host"] + sum(weights[1:])


counts = st.integers(min_value=1, max_value=10**11)


@st.composite
def parts(draw: Any) -> PartSize:
    parameters = draw(counts)
    quantised = draw(st.integers(min_value=0, max_value=parameters))
    group = draw(st.integers(min_value=0, max_value=parameters))
    packed = {"8-bit": quantised + quantised // 64, "4-bit": quantised // 2 + quantised // 16}
    return PartSize(parameters, quantised, packed, group, parameters - group, quantised, parameters)


models = st.builds(
    ModelSizes,
    name=st.just("a model"),
    transformer=parts(),
    text_encoder=parts(),
    vae=parts(),
    value_bytes=st.sampled_from([2, 4]),
    width=st.integers(1, 4096),
    text_width=st.integers(1, 4096),
    text_layers=st.integers(1, 64),
    vae_width=st.integers(1, 128),
    side=st.integers(16, 2048),
    image_tokens=st.integers(1, 20_000),
    text_tokens=st.integers(1, 1024),
    batch=st.integers(1, 2),
)
memories = st.floats(min_value=0, max_value=1e12)


@given(models, memories, memories, memories, st.sampled_from([PLANS, CPU_PLANS]))
def test_the_choice_stays_within_and_grows_with_the_budget(
    sizes: ModelSizes, budget: float, more: float, host: float, plans: Any
) -> None:
    def choice(size: float) -> int | None:
        try:
            plan = choose_plan(sizes, size, host, plans)
        except TagMoEError:
            assert not any(fits(plan, sizes, size, host) for plan in plans)
            return None
        estimate = plan.estimate(sizes)
        assert estimate.device <= size
        assert estimate.host <= host
        return plans.index(plan)

    small, large = choice(budget), choice(budget + more)
    if small is not None:
        assert large is not None
        assert large <= small


@pytest.mark.slow
def test_a_folder_is_counted_from_its_headers(tmp_path: Path) -> None:
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    pipeline = TagMoEPipeline.from_pretrained(packaged_folder(), dtype=torch.float32)
    sizes = read_sizes(packaged_folder(), value_bytes=4)
    for name in ("transformer", "vae", "text_encoder"):
        assert getattr(sizes, name).parameters == sum(p.numel() for p in getattr(pipeline, name).parameters())
    assert (sizes.width, sizes.vae_width, sizes.text_width, sizes.side) == (
        pipeline.transformer.inner_dim,
        pipeline.vae.config.base_dim,
        pipeline.text_encoder.config.text_config.hidden_size,
        pipeline.config.default_size,
    )
    assert sizes.image_tokens == 2 * (sizes.side // pipeline.size_multiple) ** 2
    entries = read_file(next((packaged_folder() / "vae").glob("*.safetensors")))
    # Its files hold fp16: the plan is about what is loaded, not about what is stored.
    assert sum(entry.nbytes for entry in entries.values()) == 2 * sizes.vae.parameters


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere"):
        read_sizes(tmp_path / "nowhere")
    copy = Path(shutil.copytree(packaged_folder(), tmp_path / "copy"))
    config = copy / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_dim": "many"}))
    with pytest.raises(CheckpointError, match="base_dim is 'many'"):
        read_sizes(copy)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"vae.config\.json"):
        read_sizes(copy)


def test_a_part_that_its_file_holds_quantised_keeps_its_bytes(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(packaged_folder(), tmp_path / "copy"))
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {}}))
    part = read_sizes(copy).transformer
    stored = {part.bytes_as(form, value) for form in ("full", "8-bit", "4-bit") for value in (2, 4)}
    assert stored == {2 * read_sizes(packaged_folder()).transformer.parameters}
    assert "in the file" in PLANS[3].estimate(read_sizes(copy)).lines[0].how


def test_the_room_is_that_of_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "host_memory", lambda: 7 * GB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = memory_room()
    assert (here.device, here.budget, here.plans, here.value_bytes) == ("cpu", 7 * GB, CPU_PLANS, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(20 * GB), int(24 * GB)))
    gpu = memory_room()
    assert (gpu.device, gpu.budget, gpu.host, gpu.plans) == ("cuda", 20 * GB - RESERVE, 7 * GB, PLANS)
    assert gpu.value_bytes == 2
    assert memory_room("80gb").budget == 80 * GB - RESERVE
    with pytest.raises(UsageError, match="8gb, 16gb, 24gb, 48gb, 80gb"):
        memory_room("32gb")


def test_host_memory_is_what_the_machine_has() -> None:
    import psutil

    assert 0.1 * GB < room_module.host_memory() <= psutil.virtual_memory().total


@pytest.mark.slow
@pytest.mark.parametrize("tiling", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
def test_the_autoencoder_needs_no_more_than_estimated(benchmark: Any, tiling: bool) -> None:
    """Qwen-Image's own shape at a sixth of its width; the factors are per channel."""
    side, width = (512, 4) if tiling else (64, 16)
    vae = AutoencoderKLQwenImage(base_dim=width, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    vae = torch.nn.Module.to(vae, torch.bfloat16).eval()
    if tiling:
        vae.enable_tiling()
    peaks = {}
    with benchmark.LiveBytes() as live:
        vae.decode(torch.randn(1, 4, 1, side // 8, side // 8, dtype=torch.bfloat16)).sample.sum()
    peaks["decoder"] = live.peak
    with benchmark.LiveBytes() as live:
        vae.encode(torch.randn(1, 3, 1, side, side, dtype=torch.bfloat16)).latent_dist.mode().sum()
    peaks["encoder"] = live.peak
    empty = PartSize(0, 0, {"8-bit": 0, "4-bit": 0}, 0, 0, 0, 0)
    sizes = ModelSizes("autoencoder", empty, empty, empty, 2, 1, 1, 1, width, side, 1, 1, 1)
    lines = replace(PLANS[0], vae_tiling=tiling).estimate(sizes).lines
    bounds = {line.what.split(", ")[1]: line.bytes for line in lines if line.what.startswith("activations")}
    for name, peak in peaks.items():
        assert 0.25 * bounds[name] < peak <= bounds[name], (name, peak, bounds[name])
