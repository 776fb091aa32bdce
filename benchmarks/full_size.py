"""The real geometry on this machine: 60 blocks of width 3072, 22.7 B parameters, synthetic weights. By hand.

    python benchmarks/full_size.py --parts upcycle,convert,released,edit [--quick] [--dir DISK] [--memory 8gb,16gb]

upcycle, convert: a sparse checkpoint in the published layout through `tagmoe upcycle` and `tagmoe convert-release`,
beside a plain copy of its bytes; each needs 50 GB of the disk for a while, one at a time. released: an edit at the full
width, few blocks and random weights, from the authors' layout and from its conversion. edit: `tagmoe edit` of the whole
model with weights of zeros, in each budget of memory, its peak beside the plan that it prints. --quick: one block.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, report
from PIL import Image
from sparse_checkpoints import CONFIG, dense, released, taken, write_sparse
from upcycle import COMMAND

from tagmoe.weights.shards import STEM, read_entries, tensor_bytes

BLOCKS, MIXTURES = 60, 10
RELEASED_BLOCKS, RELEASED_MIXTURES = 4, 2
SIDE, STEPS = 256, 2
RATIO, BEYOND = 1.5, 300e6
"""Most time of a plain copy, and bytes of memory beyond the largest tensor."""


def timed(words: Sequence[str]) -> tuple[float, str]:
    """Wall seconds of a command with a sync after it, and what it said on stderr."""
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    os.sync()
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:6])} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - started, done.stderr


def copied(source: Path, target: Path) -> float:
    """Seconds to copy a folder with all its zeros written."""
    seconds, _ = timed(["cp", "-r", "--sparse=never", "--reflink=never", str(source), str(target)])
    shutil.rmtree(target)
    os.sync()
    return seconds


def streamed(
    place: Path, name: str, shapes: dict[str, tuple[int, ...]], command: Callable[[Path, Path], list[str]]
) -> list[Figure]:
    """A sparse checkpoint of these tensors through a command that streams, beside a copy of the same bytes."""
    source, target = place / "source", place / "made"
    total = write_sparse(source / "transformer", shapes)
    (source / "transformer" / "config.json").write_text(json.dumps(CONFIG | {"num_layers": _blocks(shapes)}))
    plain = copied(source, place / "copy")
    seconds, said = timed([sys.executable, "-c", COMMAND, *command(source, target)])
    peak = int(said.split()[-1]) * 1024
    entries = read_entries(target / "transformer")
    written = sum(entry.nbytes for entry in entries.values())
    largest = max(tensor_bytes("BF16", shape) for shape in shapes.values())
    shutil.rmtree(target)
    on_disk = taken(source)
    shutil.rmtree(source)
    ratio = (seconds / written) / (plain / total)
    parameters = sum(int(np.prod(entry.shape)) for entry in entries.values())
    return [
        Figure(f"{name}_source", total / 1e9, "GB", note=f"{len(shapes)} tensors; {on_disk / 1e6:.0f} MB of the disk"),
        Figure(f"{name}_written", written / 1e9, "GB", note=f"{parameters:,} parameters"),
        Figure(f"{name}_seconds", seconds, "s", note=f"whole process and sync, {written / seconds / 1e6:.0f} MB/s"),
        Figure(f"{name}_copy_seconds", plain, "s", note=f"cp of the source and sync, {total / plain / 1e6:.0f} MB/s"),
        Figure(f"{name}_to_copy", ratio, "x", RATIO, note="time a byte written"),
        Figure(
            f"{name}_peak", peak / 1e6, "MB", (largest + BEYOND) / 1e6, note=f"largest tensor {largest / 1e6:.0f} MB"
        ),
    ]


def _blocks(shapes: dict[str, tuple[int, ...]]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("transformer_blocks."))


def write_index(folder: Path, pipeline: str, transformer: tuple[str, str], **settings: Any) -> None:
    """model_index.json of a pipeline of Qwen-Image's parts."""
    index = {
        "_class_name": pipeline,
        "transformer": transformer,
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        **settings,
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def base_pipeline(folder: Path, blocks: int, *, real_autoencoder: bool = False) -> Path:
    """A base's folder: config of the full width, a text encoder of the full width with one layer and few words.

    real_autoencoder: of Qwen-Image's shape with random weights, else the packaged one's shape.
    """
    import torch
    from diffusers import AutoencoderKLQwenImage

    from tagmoe.pipeline.components import make_autoencoder, make_scheduler, make_text_encoder, train_tokenizer

    tokenizer = train_tokenizer(["make the star blue"], 320)
    encoder = make_text_encoder(
        tokenizer, hidden_size=CONFIG["joint_attention_dim"], num_layers=1, num_heads=28, num_kv_heads=4,
        intermediate_size=256,
    )  # fmt: skip
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage() if real_autoencoder else make_autoencoder(base_dim=8, z_dim=16)
    parts: dict[str, Any] = {
        "text_encoder": encoder, "tokenizer": tokenizer, "vae": vae, "scheduler": make_scheduler()
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "transformer").mkdir(exist_ok=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(CONFIG | {"num_layers": blocks}))
    write_index(folder, "QwenImagePipeline", ("diffusers", "QwenImageTransformer2DModel"))
    return folder


def upcycle(place: Path, blocks: int, mixtures: int) -> list[Figure]:
    """Qwen-Image's transformer to a mixture."""

    def command(source: Path, target: Path) -> list[str]:
        # a folder with a config alone is a model's own; with model_index.json it is a pipeline's
        words = ["upcycle", str(source / "transformer"), str(target / "transformer"), "--no-drift"]
        target.mkdir()
        return [*words, "--num-moe-blocks", str(mixtures)]

    return streamed(place, "upcycle", dense(blocks), command)


def convert(place: Path, blocks: int, mixtures: int) -> list[Figure]:
    """The authors' release to a folder of ours; the base's other parts are small here."""
    base = base_pipeline(place / "base", blocks)

    def command(source: Path, target: Path) -> list[str]:
        return ["convert-release", str(source / "transformer"), str(base), str(target)]

    return streamed(place, "convert", released(blocks, mixtures), command)


def same_edit(place: Path, blocks: int, mixtures: int) -> list[Figure]:
    """An edit at the full width with random weights: from the authors' layout, and from its conversion."""
    import torch
    from safetensors.torch import save_file

    from tagmoe import TagMoEPipeline

    base, source, target = (
        base_pipeline(place / "base", blocks, real_autoencoder=True),
        place / "released",
        place / "made",
    )
    source.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator) + (len(shape) == 1)
        for name, shape in released(blocks, mixtures).items()
    }
    save_file(weights, source / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    del weights
    timed([sys.executable, "-m", "tagmoe", "convert-release", str(source), str(base), str(target)])
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))

    def drawn(*where: Path, **options: Any) -> tuple[np.ndarray, float]:
        pipeline = TagMoEPipeline.from_pretrained(*where, dtype=torch.bfloat16, **options)
        started = time.perf_counter()
        made = pipeline(
            "make the star blue", image=photo, height=SIDE, width=SIDE, num_inference_steps=STEPS, true_cfg_scale=1.0,
            seed=0,
        )  # fmt: skip
        return np.asarray(made.images[0]), time.perf_counter() - started

    first, seconds = drawn(source, base=base)
    second, _ = drawn(target)
    note = f"{blocks} blocks of width 3072, {mixtures} of them mixtures, {SIDE}x{SIDE}, {STEPS} steps, bf16"
    return [
        Figure("released_equal", float(np.array_equal(first, second)), "yes", 1, at_least=True, note=note),
        Figure("released_spread", float(first.std()), "levels", 5, at_least=True, note="of the picture's pixels"),
        Figure("released_seconds", seconds, "s", note="an edit"),
    ]


def whole_pipeline(folder: Path, blocks: int, mixtures: int, layers: int) -> Path:
    """A pipeline folder of the released model's shapes; transformer and text encoder are sparse files of zeros."""
    import torch
    from diffusers import AutoencoderKLQwenImage
    from diffusers.models.modeling_utils import no_init_weights
    from transformers import Qwen2_5_VLForConditionalGeneration

    from tagmoe.model.transformer import TagMoETransformer2DModel
    from tagmoe.pipeline.components import make_scheduler, train_tokenizer
    from tagmoe.pipeline.memory.sizes import text_encoder_config

    torch.manual_seed(0)
    AutoencoderKLQwenImage().to(torch.bfloat16).save_pretrained(folder / "vae")
    train_tokenizer(["make the star blue"], 320).save_pretrained(folder / "tokenizer")
    make_scheduler().save_pretrained(folder / "scheduler")
    with torch.device("meta"), no_init_weights():
        transformer = TagMoETransformer2DModel(
            num_layers=blocks, num_moe_blocks=mixtures, gate="linear", expert_bias=False
        )
        encoder = Qwen2_5_VLForConditionalGeneration(text_encoder_config(layers))
    for name, part, stem in (("transformer", transformer, STEM), ("text_encoder", encoder, "model")):
        part.config.save_pretrained(folder / name) if name == "text_encoder" else part.save_config(folder / name)
        shapes = {key: tuple(value.shape) for key, value in part.state_dict().items()}
        write_sparse(folder / name, shapes, stem=stem)
    write_index(folder, "TagMoEPipeline", ("tagmoe", "TagMoETransformer2DModel"), default_size=SIDE)
    return folder


@dataclass
class Peak:
    """Most bytes of a process while it ran. own: its anonymous memory. resident: with the files that it had mapped."""

    own: int = 0
    resident: int = 0
    seconds: float = 0.0
    said: str = ""


def watched(words: Sequence[str]) -> Peak:
    """Run a command and look at its memory every 20 ms."""
    found, started = Peak(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                values = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
                found.own = max(found.own, 1024 * int(values.get("RssAnon", 0)))
                found.resident = max(found.resident, 1024 * int(values.get("VmRSS", 0)))
            time.sleep(0.02)
        found.seconds = time.perf_counter() - started
        said.seek(0)
        found.said = said.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words[:6])} failed: {found.said[-2000:]}")
    return found


def edits(place: Path, blocks: int, mixtures: int, memory: str) -> list[Figure]:
    """`tagmoe edit` of the whole model in each budget."""
    folder = whole_pipeline(place / "model", blocks, mixtures, 1 if blocks == 1 else 28)
    photo = place / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(photo)
    tagmoe = [sys.executable, "-m", "tagmoe"]
    base = watched([*tagmoe, "edit", "example:scene", "-p", "make the star blue", "-o", str(place / "base.png")])
    plans = json.loads(
        subprocess.run(
            [*tagmoe, "info", "--memory", "--model", str(folder), "--json"], capture_output=True, text=True, check=True
        ).stdout
    )
    by_name = {row["name"]: row for row in plans["plans"]}
    found = [Figure("edit_base", base.own / 1e6, "MB", note="`tagmoe edit` of the packaged model, 26 MB of weights")]
    for size in memory.split(","):
        plan = by_name[plans["chosen"][size]]
        steps = STEPS if size == "24gb" else 1
        out = place / f"{size}.png"
        words = ["edit", str(photo), "-p", "make the star blue", "-m", str(folder), "-o", str(out), "--seed", "0"]
        words += ["--memory", size, "--steps", str(steps), "--cfg", "1", "--size", f"{SIDE}x{SIDE}"]
        peak = watched([*tagmoe, *words])
        planned = plan["device_bytes"]
        off = (peak.own - base.own) / planned - 1
        note = f"{plan['name']}: {(peak.own - base.own) / 1e9:.2f} GB, {planned / 1e9:.2f} planned; {steps} step(s)"
        found += [
            Figure(f"edit_{size}_off_the_plan", abs(off), "of the plan", 0.1, note=note),
            Figure(f"edit_{size}_resident", peak.resident / 1e9, "GB", note="with the files that were mapped"),
            Figure(f"edit_{size}_seconds", peak.seconds, "s", note="the whole command"),
        ]
    return found


PARTS: dict[str, Callable[[Path, int, int], list[Figure]]] = {
    "upcycle": upcycle, "convert": convert, "released": same_edit
}  # fmt: skip


def measure(parts: str, memory: str, dir: Path, quick: bool) -> Sequence[Figure]:
    """The real geometry, with synthetic weights."""
    found: list[Figure] = []
    for name in parts.split(","):
        blocks, mixtures = (RELEASED_BLOCKS, RELEASED_MIXTURES) if name == "released" else (BLOCKS, MIXTURES)
        if quick:
            blocks = mixtures = 1
        with tempfile.TemporaryDirectory(prefix="tagmoe-full-size-", dir=dir) as place:
            if name == "edit":
                found += edits(Path(place), blocks, mixtures, memory)
            else:
                found += PARTS[name](Path(place), blocks, mixtures)
    return found


if __name__ == "__main__":
    report(
        measure,
        {
            "parts": {"default": ",".join([*PARTS, "edit"]), "help": "separated by commas"},
            "memory": {"default": "24gb,16gb,8gb", "help": "budgets of the part edit"},
            "dir": {"type": Path, "default": Path(__file__).parents[1], "help": "disk to use"},
            "quick": {"action": "store_true", "help": "one block at full width"},
        },
    )
