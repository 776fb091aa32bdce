"""Streaming upcycling of a checkpoint of Qwen-Image's shape: time against a copy, memory, resume after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures import Figure, report

from tagmoe.files.resumable import Made, partial_folder, write_folder
from tagmoe.weights.dtypes import decode, encode
from tagmoe.weights.layout import ffn_layout
from tagmoe.weights.shards import Planned, plan_shards, read_entries, tensor_bytes

DIM, TEXT, HEAD = 3072, 3584, 128
RUNS, SHARD_GB = 3, 1.0
# The process reads its own peak memory, because ru_maxrss of a child starts at its parent's value.
COMMAND = """
import sys
from tagmoe.cli import run
code = run(sys.argv[1:])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr)
sys.exit(code)
"""
LOADED = """
import sys, torch
from tagmoe import TagMoETransformer2DModel
model = TagMoETransformer2DModel.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
print(sum(parameter.numel() for parameter in model.parameters()), model.config.expert_scale)
"""


def layout(blocks: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of Qwen-Image's transformer with its real widths and `blocks` blocks."""
    linear = {
        "time_text_embed.timestep_embedder.linear_1": (DIM, 256),
        "time_text_embed.timestep_embedder.linear_2": (DIM, DIM),
        "img_in": (DIM, 64),
        "txt_in": (DIM, TEXT),
        "norm_out.linear": (2 * DIM, DIM),
        "proj_out": (64, DIM),
    }
    shapes: dict[str, tuple[int, ...]] = {"txt_norm.weight": (TEXT,)}
    for index in range(blocks):
        prefix = f"transformer_blocks.{index}."
        linear |= {f"{prefix}{stream}_mod.1": (6 * DIM, DIM) for stream in ("img", "txt")}
        names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out")
        linear |= {f"{prefix}attn.{name}": (DIM, DIM) for name in names}
        shapes |= {f"{prefix}attn.norm_{name}.weight": (HEAD,) for name in ("q", "k", "added_q", "added_k")}
        for stream in ("img", "txt"):
            shapes |= {f"{prefix}{stream}_mlp.{name}": shape for name, shape in ffn_layout(DIM).items()}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return dict(sorted(shapes.items()))


def make_checkpoint(folder: Path, blocks: int, seed: int) -> int:
    """Write the checkpoint in bf16, several files; returns the size of its largest tensor in bytes."""
    noise = encode(np.random.default_rng(seed).standard_normal(2**21, dtype=np.float32) * np.float32(0.02), "BF16")

    def fill(size: int, start: int) -> Made:
        def chunks() -> Sequence[bytes]:
            # Every tensor repeats the same 4 MB from its own start. That is cheap, and no two tensors are equal.
            turned = noise[start:] + noise[:start]
            return [turned[: min(len(turned), size - at)] for at in range(0, size, len(turned))]

        return Made(size, chunks)

    planned = []
    for number, (name, shape) in enumerate(layout(blocks).items()):
        size = tensor_bytes("BF16", shape)
        planned.append(Planned(name, "BF16", shape, (fill(size, 2 * (7919 * number % 2**20)),)))
    config = {"_class_name": "QwenImageTransformer2DModel", "num_layers": blocks}
    write_folder(folder, plan_shards(planned, config, max_shard_bytes=int(SHARD_GB * 1e9)), fingerprint={})
    return max(tensor.nbytes for tensor in planned)


def arguments(source: Path, target: Path, mixtures: int) -> list[str]:
    options = ["--num-moe-blocks", str(mixtures), "--no-drift", "--json", "--max-shard-gb", str(SHARD_GB)]
    return [sys.executable, "-c", COMMAND, "upcycle", str(source), str(target), *options]


def upcycle(source: Path, target: Path, mixtures: int) -> tuple[float, int, dict]:
    """Wall seconds of the whole command with a sync, its peak resident bytes, and its result."""
    started = time.perf_counter()
    done = subprocess.run(arguments(source, target, mixtures), capture_output=True, text=True, check=True)
    os.sync()
    return time.perf_counter() - started, int(done.stderr.split()[-1]) * 1024, json.loads(done.stdout)


def copy(source: Path, target: Path) -> float:
    """Wall seconds of `cp -r` with a sync."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    os.sync()
    return time.perf_counter() - started


def resume(source: Path, target: Path, whole: Path, mixtures: int) -> tuple[int, bool]:
    """Kill the command with -9 in the middle of its second file, then run it again.

    Returns how many files were kept, and whether they stayed untouched and the result equals `whole`.
    """
    partial = partial_folder(target)
    process = subprocess.Popen(
        arguments(source, target, mixtures), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (list(partial.glob("*.safetensors")) and list(partial.glob("*.tmp"))):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_ino for path in partial.glob("*.safetensors")}
    result = upcycle(source, target, mixtures)[2]
    same = set(before) == set(result["kept"]) and all((target / name).stat().st_ino == before[name] for name in before)
    same = same and subprocess.run(["diff", "-r", str(whole), str(target)], check=False).returncode == 0
    return len(before), same


def values_hold(source: Path, target: Path, mixtures: int, blocks: int) -> bool:
    """Whether every tensor equals the dense one, and each expert's output layer is four times the dense one."""
    dense, made = read_entries(source), read_entries(target)
    for name, entry in dense.items():
        prefix, _, own = name.partition(".img_mlp.")
        mixture = own and int(prefix.split(".")[1]) >= blocks - mixtures
        for copy_name in [f"{prefix}.img_mlp.experts.{i}.{own}" for i in range(4)] if mixture else [name]:
            for first, second in zip(entry.read(1 << 16), made[copy_name].read(1 << 16), strict=True):
                scaled = encode(4 * decode(first, "BF16"), "BF16") if mixture and own.startswith("net.2.") else first
                if second != scaled:
                    return False
    return True


def measure(dir: Path, blocks: int, mixtures: int, seed: int) -> Sequence[Figure]:
    """Streaming upcycling of a synthetic Qwen-Image-shaped checkpoint."""
    place = Path(tempfile.mkdtemp(prefix="upcycle-benchmark-", dir=dir))
    try:
        source, target = place / "dense", place / "moe"
        largest = make_checkpoint(source, blocks, seed)
        dense_bytes = sum(path.stat().st_size for path in source.iterdir())
        commands, copies, peaks, nbytes = [], [], [], 0
        for run in range(RUNS + 1):
            shutil.rmtree(target, ignore_errors=True)
            seconds, peak, result = upcycle(source, target, mixtures)
            copied = copy(target, place / "copy")
            shutil.rmtree(place / "copy")
            os.sync()
            nbytes = result["bytes_written"]
            if run:
                commands.append(seconds)
                copies.append(copied)
                peaks.append(peak)
        kept, same = resume(source, place / "resumed", target, mixtures)
        right = values_hold(source, target, mixtures, blocks)
        loaded = subprocess.run(
            [sys.executable, "-c", LOADED, str(target)], capture_output=True, text=True, check=False
        )
        parameters = int(loaded.stdout.split()[0]) if loaded.returncode == 0 else 0
        stored = sum(entry.nbytes // 2 for entry in read_entries(target).values())
    finally:
        shutil.rmtree(place, ignore_errors=True)
    ratio = statistics.median(ours / plain for ours, plain in zip(commands, copies, strict=True))
    bound = 1.5 * largest + 300e6
    shape = f"{blocks} blocks, {mixtures} of them mixtures, bf16"
    return [
        Figure("source_bytes", dense_bytes / 1e9, "GB", 2.0, at_least=True, note=f"synthetic, {shape}"),
        Figure("written_bytes", nbytes / 1e9, "GB", note=f"files of at most {SHARD_GB} GB"),
        Figure("upcycle_seconds", statistics.median(commands), "s", runs=RUNS, note="whole process and sync, median"),
        Figure("copy_seconds", statistics.median(copies), "s", runs=RUNS, note="cp -r of the result and sync, median"),
        Figure("time_ratio", ratio, "x", 1.5, runs=RUNS, note="pairs in turn after a warm-up, median of the ratios"),
        Figure(
            "peak_memory", max(peaks) / 1e6, "MB", bound / 1e6, runs=RUNS, note=f"largest tensor {largest / 1e6:.0f} MB"
        ),
        Figure("files_kept_after_kill", kept, "files", 1, at_least=True, note="kill -9 in the middle of a file"),
        Figure("resumed_is_equal", same, "yes", 1, at_least=True, note="kept files untouched, result as uninterrupted"),
        Figure("values_hold", right, "yes", 1, at_least=True, note="each tensor against the dense one, all but gates"),
        Figure(
            "loads", parameters == stored, "yes", 1, at_least=True, note=f"from_pretrained: {parameters:,} parameters"
        ),
    ]


if __name__ == "__main__":
    report(
        measure,
        {
            "dir": {"type": Path, "default": Path(__file__).parents[1], "help": "disk to use; about 12 GB for a while"},
            "blocks": {"type": int, "default": 4, "help": "blocks of the synthetic checkpoint, 0.68 GB each"},
            "mixtures": {"type": int, "default": 1, "help": "how many of them become mixtures"},
            "seed": {"type": int, "default": 0, "help": "seed of its weights"},
        },
    )
