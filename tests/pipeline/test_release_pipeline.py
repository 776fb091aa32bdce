"""The authors' weights as a pipeline: in memory or converted to a folder, the same pictures bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from support.released import EXPERTS, dense_state, fake_hub, released_weights, save_base, save_released

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.losses.objective import Objective
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.weights.convert_release import convert_release


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("release") / "base")


@pytest.fixture(scope="module", params=[pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def released(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = released_weights(dense_state(base))
    if request.param == "bf16":
        weights = {name: value.bfloat16() for name, value in weights.items()}
    return save_released(weights, tmp_path_factory.mktemp("release") / "authors", shards=2)


@pytest.fixture(scope="module")
def converted(released: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("release") / "ours"
    convert_release(released, base, target, max_shard_bytes=200_000)
    return target


def picture(pipeline: Any) -> np.ndarray:
    reference = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    answer = pipeline(
        "remove the circle", reference, seed=3, num_inference_steps=2, true_cfg_scale=2.0, width=64, height=48,
        reference_area=3072, output_type="np",
    )  # fmt: skip
    return np.asarray(answer.images[0])


@pytest.mark.slow_but_first
@pytest.mark.parametrize("dtype", [None, pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_a_converted_folder_gives_the_same_pictures_as_loading_in_memory(released, base, converted, dtype) -> None:
    options = {} if dtype is None else {"dtype": dtype}
    in_memory = TagMoEPipeline.from_pretrained(released, base=base, **options)
    folder = TagMoEPipeline.from_pretrained(converted, **options)
    assert in_memory.transformer.dtype == folder.transformer.dtype
    first, second = picture(in_memory), picture(folder)
    assert np.array_equal(first, second)
    assert np.isfinite(first).all()
    assert first.std() > 0.01
    dense = TagMoEPipeline.from_pretrained(base, default_size=1024, **options)
    assert not np.array_equal(first, picture(dense))


@pytest.mark.slow
def test_what_is_kept_for_analysis_is_there_in_both(released, base, converted, tmp_path) -> None:
    in_memory = TagMoEPipeline.from_pretrained(str(released), base=str(base))
    folder = TagMoEPipeline.from_pretrained(converted)
    for pipeline in (in_memory, folder):
        Objective(EXPERTS, 512, head_layers=3).load_state_dict(pipeline.alignment, strict=True)
    assert all(torch.equal(value, folder.alignment[name]) for name, value in in_memory.alignment.items())
    in_memory.save_pretrained(tmp_path / "saved")
    again = TagMoEPipeline.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, again.alignment[name]) for name, value in in_memory.alignment.items())


@pytest.mark.slow
def test_the_release_s_defaults_are_in_both_and_can_be_given(released, base, converted) -> None:
    in_memory = TagMoEPipeline.from_pretrained(released, base=base)
    folder = TagMoEPipeline.from_pretrained(converted)
    for config in (in_memory.config, folder.config):
        assert (config.default_steps, config.default_cfg, config.default_size) == (30, 4.0, 1024)
        assert config.prompt_template == "<|im_start|>{}<|im_end|>"
    assert TagMoEPipeline.from_pretrained(released, base=base, default_size=64).config.default_size == 64


def test_the_converted_folder_names_our_classes_and_has_everything(converted, base) -> None:
    index = json.loads((converted / "model_index.json").read_text())
    assert index["transformer"] == ["tagmoe", "TagMoETransformer2DModel"]
    assert index["_class_name"] == "TagMoEPipeline"
    assert sorted(path.name for path in converted.iterdir()) == [
        "alignment.safetensors", "model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae",
    ]  # fmt: skip
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for file in (base / part).iterdir():
            assert (converted / part / file.name).read_bytes() == file.read_bytes()
    assert len(list((converted / "transformer").glob("*.safetensors"))) > 1


@pytest.mark.slow
def test_what_load_and_save_give_is_what_the_stream_writes(released, base, converted, tmp_path) -> None:
    """Every tensor byte for byte, whatever the file it lies in."""
    stored = next(iter(load_file(next(released.glob("*.safetensors"))).values())).dtype
    TagMoEPipeline.from_pretrained(released, base=base, dtype=stored).transformer.save_pretrained(tmp_path)
    wanted = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    written: dict[str, torch.Tensor] = {}
    for file in (converted / "transformer").glob("*.safetensors"):
        written |= load_file(file)
    assert wanted.keys() == written.keys()
    for name, value in wanted.items():
        assert written[name].dtype == value.dtype, name
        assert torch.equal(written[name], value), name
    ours, theirs = (
        json.loads((folder / "config.json").read_text()) for folder in (converted / "transformer", tmp_path)
    )
    theirs.pop("_name_or_path", None)
    assert ours == theirs


def test_the_authors_folder_alone_says_to_give_a_base(released, base, tmp_path) -> None:
    whole = shutil.copytree(base, tmp_path / "whole")
    shutil.rmtree(whole / "transformer")
    shutil.copytree(released, whole / "transformer")
    shutil.copy(base / "transformer" / "config.json", whole / "transformer" / "config.json")
    for folder in (released, whole):
        with pytest.raises(UsageError, match=r'add base="Qwen/Qwen-Image".*convert-release') as caught:
            TagMoEPipeline.from_pretrained(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["quantization_config", "device_map", "variant", "transformer"])
def test_options_that_need_a_converted_folder(released, base, name) -> None:
    with pytest.raises(UsageError, match=name):
        TagMoEPipeline.from_pretrained(released, base=base, **{name: "cpu"})


def test_bad_folders(released, base, tmp_path) -> None:
    with pytest.raises(MissingError, match="hf download"):
        TagMoEPipeline.from_pretrained(tmp_path / "none", base=base)
    with pytest.raises(MissingError, match="hf download"):
        TagMoEPipeline.from_pretrained(released, base=tmp_path / "none")
    with pytest.raises(CheckpointError, match="does not have the layout"):
        TagMoEPipeline.from_pretrained(base, base=base)
    hollow = shutil.copytree(base, tmp_path / "hollow")
    shutil.rmtree(hollow / "vae")
    with pytest.raises(CheckpointError, match="vae"):
        TagMoEPipeline.from_pretrained(released, base=hollow)


def test_weights_that_are_not_finite_are_named(base, tmp_path) -> None:
    weights = released_weights(dense_state(base))
    name = next(name for name in weights if "experts" in name)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] = float("nan")
    folder = save_released(weights, tmp_path / "authors", shards=2)
    with pytest.raises(CheckpointError, match=r"experts.*holds numbers that are not finite"):
        TagMoEPipeline.from_pretrained(folder, base=base)
    convert_release(folder, base, tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"experts.*holds numbers that are not finite"):
        TagMoEPipeline.from_pretrained(tmp_path / "ours")


@pytest.mark.slow
def test_a_damaged_alignment_file_is_named(converted, tmp_path) -> None:
    copy = shutil.copytree(converted, tmp_path / "copy")
    data = (copy / "alignment.safetensors").read_bytes()
    (copy / "alignment.safetensors").write_bytes(data[:100])
    with pytest.raises(CheckpointError, match="alignment"):
        TagMoEPipeline.from_pretrained(copy)
    (copy / "alignment.safetensors").unlink()
    assert TagMoEPipeline.from_pretrained(copy).alignment is None


@pytest.mark.slow
def test_the_base_needs_no_transformer_weights(released, base, tmp_path) -> None:
    """Hubs are asked for its config only: 40 GB less to download."""
    light = shutil.copytree(base, tmp_path / "light")
    (light / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    whole = TagMoEPipeline.from_pretrained(released, base=base).transformer.state_dict()
    in_memory = TagMoEPipeline.from_pretrained(released, base=light).transformer.state_dict()
    convert_release(released, light, tmp_path / "ours")
    folder = TagMoEPipeline.from_pretrained(tmp_path / "ours").transformer.state_dict()
    assert whole.keys() == in_memory.keys() == folder.keys()
    for name, value in whole.items():
        assert torch.equal(in_memory[name], value), name
        assert torch.equal(folder[name], value), name


# Names on the hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(
    released: Path, base: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """A hub with the release where the authors' own code looks for it, its base, and a converted folder."""
    authors = tmp_path / "authors"
    shutil.copytree(released, authors / "transformer")
    for name in ("evil.py", "transformer/diffusion_pytorch_model.bin", "examples/other.safetensors"):
        (authors / name).parent.mkdir(exist_ok=True)
        (authors / name).write_bytes(b"not wanted")
    asked: list[Any] = []
    repositories = {"YUXU915/TAG-MoE": authors, "Qwen/Qwen-Image": base, "somebody/converted": converted}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_hub(tmp_path / "hub", repositories, asked))
    return SimpleNamespace(folder=tmp_path / "hub", asked=asked)


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_the_release_by_its_names_on_the_hub(hub, released, base) -> None:
    pipeline = TagMoEPipeline.from_pretrained("YUXU915/TAG-MoE", base="Qwen/Qwen-Image", revision="v1", token="t")
    assert np.array_equal(picture(pipeline), picture(TagMoEPipeline.from_pretrained(released, base=base)))
    assert files_in(hub.folder / "YUXU915--TAG-MoE") == {f"transformer/{file.name}" for file in released.iterdir()}
    of_base = files_in(hub.folder / "Qwen--Qwen-Image")
    assert of_base == files_in(base) - {"README.md", "transformer/diffusion_pytorch_model.safetensors"}
    assert dict(hub.asked) == {"YUXU915/TAG-MoE": {"revision": "v1", "token": "t"}, "Qwen/Qwen-Image": {"token": "t"}}


def test_the_release_s_name_alone_downloads_no_weights(hub) -> None:
    with pytest.raises(CheckpointError, match=r'no model_index\.json.*base="Qwen/Qwen-Image"'):
        TagMoEPipeline.from_pretrained("YUXU915/TAG-MoE")
    assert files_in(hub.folder) == set()


@pytest.mark.slow
def test_a_whole_pipeline_by_its_name(hub, converted) -> None:
    pipeline = TagMoEPipeline.from_pretrained("somebody/converted")
    assert np.array_equal(picture(pipeline), picture(TagMoEPipeline.from_pretrained(converted)))
    assert len(pipeline.alignment) == 7


@pytest.mark.parametrize("names", [("nobody/none", "Qwen/Qwen-Image"), ("YUXU915/TAG-MoE", "nobody/none")])
def test_a_name_that_is_nowhere(hub, names) -> None:
    with pytest.raises(MissingError, match=r"nobody/none.*hf download"):
        TagMoEPipeline.from_pretrained(names[0], base=names[1])


def test_the_command_line_takes_names_too(hub, converted, tmp_path) -> None:
    from tagmoe.cli import run

    assert run(["convert-release", "YUXU915/TAG-MoE", "Qwen/Qwen-Image", str(tmp_path / "ours")]) == 0
    assert (tmp_path / "ours" / "model_index.json").read_bytes() == (converted / "model_index.json").read_bytes()
    assert run(["convert-release", "nobody/none", "Qwen/Qwen-Image", str(tmp_path / "other")]) == 3
