"""Each rank reads its own parts of the weights that it starts from, and gets what a single process makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.rank_cases import in_ranks
from support.tiny_model import build_dense
from support.tiny_training import tiny_config, train_quietly
from torch import nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tagmoe.config import MoEConfig, RunConfig, check_config
from tagmoe.errors import CheckpointError
from tagmoe.losses import Objective
from tagmoe.model.upcycle import upcycle
from tagmoe.train import start_parts
from tagmoe.train.ranks import Ranks
from tagmoe.train.sharding import local, shard
from tagmoe.train.start_parts import StartParts, dense_parts, is_read_by_parts, mixture_parts, read_parts
from tagmoe.train.trained import choose_trained

Make = Callable[..., RunConfig]
WEIGHTS = "diffusion_pytorch_model.safetensors"
MOE = MoEConfig(num_moe_blocks=1)
SEED = 3


@pytest.fixture
def four() -> Iterator[Ranks]:
    """Rank 1 of 4."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield Ranks(1, 4, torch.device("cpu"), dist.group.WORLD)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dense model in fp32, and what it is upcycled to, in bf16 and in files of 60 KB."""
    root = tmp_path_factory.mktemp("start")
    dense = build_dense(3)
    dense.save_pretrained(root / "dense" / "transformer")
    upcycled(dense).to(torch.bfloat16).save_pretrained(root / "mixture" / "transformer", max_shard_size="60KB")
    assert len(list((root / "mixture" / "transformer").glob("*.safetensors"))) > 3
    return {name: root / name for name in ("dense", "mixture")}


def upcycled(dense: Any) -> Any:
    return upcycle(dense, num_moe_blocks=1, generator=torch.Generator().manual_seed(SEED))


def described(folder: Path) -> dict[str, Any]:
    import json

    saved = json.loads((folder / "transformer" / "config.json").read_text())
    return {name: value for name, value in saved.items() if not name.startswith("_")}


def started(kind: str, folders: dict[str, Path]) -> StartParts:
    folder = folders[kind]
    if kind == "mixture":
        return mixture_parts(str(folder), described(folder))
    return dense_parts(str(folder), described(folder), MOE, SEED)


def settings(**changes: Any) -> RunConfig:
    return check_config({"output_dir": "unused", "base": {"steps": 0}, "unified": {"steps": 1}, **changes})


class Counted:
    """`safe_open`, and how many numbers were read from it."""

    def __init__(self) -> None:
        self.numbers = 0

    def __call__(self, *given: Any, **options: Any) -> Any:
        counter, opened = self, safe_open(*given, **options)

        class Handle:
            def __enter__(self) -> Any:
                opened.__enter__()
                return self

            def __exit__(self, *error: Any) -> None:
                opened.__exit__(*error)

            def get_slice(self, name: str) -> Any:
                whole = opened.get_slice(name)

                class Slice:
                    def __getitem__(self, rows: Any) -> torch.Tensor:
                        counter.numbers += (part := whole[rows]).numel()
                        return part

                return Slice()

        return Handle()


@pytest.mark.parametrize(("kind", "parts"), [("mixture", 4), ("dense", 2)], ids=["mixture", "dense, two models"])
def test_a_rank_reads_its_part_and_gets_the_numbers_of_the_whole(
    four: Ranks, folders: dict[str, Path], kind: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a dense folder among ranks that keep two models, half of each."""
    start, counted = started(kind, folders), Counted()
    assert all(parameter.is_meta for parameter in start.transformer.parameters())
    shard(start.transformer, Objective(4, 64), four, precision="fp32", replicate=4 // parts)
    monkeypatch.setattr(start_parts, "safe_open", counted)
    found = read_parts(start, four.device)
    start.transformer.load_state_dict(found, strict=False, assign=True)
    whole = upcycled(build_dense(3))
    if kind == "mixture":
        whole = whole.to(torch.bfloat16)
    stored = whole if kind == "mixture" else build_dense(3)
    count = sum(value.numel() for value in stored.state_dict().values())
    assert 0.9 * count / parts < counted.numbers < 1.1 * count / parts
    own = start.transformer.state_dict()
    assert own.keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        part = local(own[name])
        assert isinstance(own[name], DTensor)
        assert part.dtype == torch.float32
        rows = -(-len(value) // parts)
        assert torch.equal(part, value[rows : 2 * rows].float()), name


@pytest.mark.parametrize("parameters", ["moe", "lora"])
def test_what_is_frozen_is_read_in_its_dtype_and_a_lora_is_drawn(
    four: Ranks, folders: dict[str, Path], parameters: str
) -> None:
    start, whole = started("mixture", folders), upcycled(build_dense(3)).to(torch.bfloat16)
    config = settings(parameters=parameters)
    for model in (start.transformer, whole):
        choose_trained(model, config)
    shard(start.transformer, Objective(4, 64), four, precision="fp32", replicate=1)
    start.transformer.load_state_dict(read_parts(start, four.device), strict=False, assign=True)
    own = start.transformer.state_dict()
    expected: dict[str, torch.Tensor] = whole.state_dict()
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        if value.ndim:
            rows = -(-len(value) // 4)
            value = value[rows : 2 * rows]
        assert local(own[name]).dtype == value.dtype, name
        assert torch.equal(local(own[name]), value), name
    trained = {name for name, parameter in start.transformer.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in whole.named_parameters() if parameter.requires_grad}


def broken(folder: Path, change: str) -> None:
    file = folder / "transformer" / WEIGHTS
    tensors = load_file(file)
    name = "transformer_blocks.0.attn.to_q.weight"
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-1])
        return
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][:-1].contiguous()
    else:
        tensors[name][-1] = float("nan")
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", "missing: transformer_blocks.0.attn.to_q.weight; unexpected: none"),
        ("shape", "has the shape"),
        ("nan", "not finite"),
        ("cut", "cut short"),
    ],
)
def test_weights_that_are_none_of_the_model_are_refused(tmp_path: Path, change: str, said: str) -> None:
    build_dense(2).save_pretrained(tmp_path / "transformer")
    broken(tmp_path, change)
    start = dense_parts(str(tmp_path), described(tmp_path), None, SEED)
    with pytest.raises(CheckpointError, match=said):
        read_parts(start, torch.device("cpu"))


def test_what_needs_whole_tensors_is_read_whole() -> None:
    assert is_read_by_parts(settings(mixture="a", moe={}))
    assert is_read_by_parts(settings(dense="a"))
    assert not is_read_by_parts(settings(dense="a", moe={"noise": 0.1}))
    assert not is_read_by_parts(settings(dense="a", moe={"drop": 0.1}))
    assert not is_read_by_parts(settings())


# ---- in ranks ------------------------------------------------------------------------------------------------------
STARTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "run": {},
    "moe": {"parameters": "moe"},
    "lora": {"parameters": "lora", "lora": {"rank": 2}},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", list(STARTS))
def test_two_ranks_that_start_from_a_folder_train_as_one(
    name: str, components: str, latents: str, whole: RunConfig, tmp_path: Path
) -> None:
    folder = components if name == "dense" else whole.output_dir
    given = {"start": folder, "base": {"steps": 0}, "optimizer": {"name": "adamw", "lr": 1e-3}, **STARTS[name]}
    one, two = (tiny_config(tmp_path / count, components, latents, **given) for count in ("one", "two"))
    expected = train_quietly(one)
    in_ranks(tmp_path / "ranks", lambda: train_quietly(two), 2)
    files = [file.relative_to(expected) for file in expected.rglob("*.safetensors") if "encoder" not in str(file)]
    assert files
    for file in files:
        mine, theirs = load_file(Path(two.output_dir) / expected.name / file), load_file(expected / file)
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            distance = (mine[key].float() - value.float()).norm()
            assert distance <= 4e-3 * value.float().norm().clamp_min(1e-3), key


WIDE = {"num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 64, "axes_dims_rope": (16, 24, 24)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_needs_memory_for_its_part_alone(tmp_path: Path) -> None:
    """Of a model of 155 MB in fp32. Pages of the file that are mapped count too."""
    from tagmoe.model.transformer import TagMoETransformer2DModel

    model = TagMoETransformer2DModel(**WIDE, joint_attention_dim=64)
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    assert size > 150e6
    model.save_pretrained(tmp_path / "transformer")
    config = described(tmp_path)

    def fill() -> None:
        from tagmoe.train.ranks import ranks_of
        from tagmoe.train.start_parts import fill_parts

        with ranks_of("cpu") as ranks:
            start = dense_parts(str(tmp_path), config, None, SEED)
            shard(start.transformer, nn.Linear(2, 2), ranks, precision="fp32", replicate=1)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, kept = memory("VmRSS"), memory("RssAnon")
            fill_parts(start, ranks)
            found = memory("VmHWM") - before, memory("RssAnon") - kept
            (tmp_path / f"{ranks.rank}.bytes").write_text(json.dumps(found))

    in_ranks(tmp_path / "ranks", fill, 2)
    for rank in range(2):
        used, kept = json.loads((tmp_path / f"{rank}.bytes").read_text())
        print(f"rank {rank}: at most {used / 1e6:.0f} MB, in the end {kept / 1e6:.0f} of {size / 1e6:.0f}")
        # Its half of the numbers, one more tensor, and the pages that this is read from.
        assert kept < 0.6 * size
        assert used < 0.7 * size


def memory(name: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
