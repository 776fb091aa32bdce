"""A whole training run, as in paper 4.1: dense text-to-image base, upcycle, unified training with L_total.

The run folder holds config.resolved.yaml, metrics.jsonl, checkpoints/, validation/ and, at the end, model/: a pipeline
folder with the averaged weights, and alignment.safetensors (W_tag and H_pred, which inference does not need).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from diffusers import QwenImageTransformer2DModel
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from tagmoe.components import make_scheduler
from tagmoe.config import RunConfig
from tagmoe.errors import TrainingError, UsageError
from tagmoe.model.attention import RealRoPEAttnProcessor
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle
from tagmoe.packaged import packaged_folder
from tagmoe.pipeline import TagMoEPipeline
from tagmoe.train.components import Components, train_components
from tagmoe.train.flow import FlowStage, Validator
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.text_encoder import TEMPLATE
from tagmoe.world import SIZE, words

PACKAGES = ("tagmoe", "torch", "diffusers", "transformers", "numpy")
DEFAULT_STEPS = 12
DEFAULT_CFG = 2.0
MAX_PROMPT_TOKENS = 64


def versions() -> dict[str, str]:
    """What a result depends on beside its seed."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def train(config: RunConfig, *, validator: Validator, resume: bool = False, console: Console | None = None) -> Path:
    """Run every stage of a recipe; returns the folder of the finished pipeline.

    Raises UsageError when the output folder exists and `resume` is False, or `resume` finds none; TrainingError when
    the settings differ from those of the run to resume.
    """
    folder = Path(config.output_dir)
    settings = config.model_dump(mode="json")
    _open_folder(folder, settings, resume)
    run = Run(config, folder, settings, versions(), console or Console(stderr=True))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with _only_one(folder):
        return _train(run, validator)


def _train(run: Run, validator: Validator) -> Path:
    config = run.config
    parts = train_components(run) if config.components is None else _frozen(config.components)
    dense = _transformer(config, parts)
    if config.compile:
        dense.compile_repeated_blocks()
    pipeline = assemble(dense, parts)
    base = FlowStage(
        "base",
        pipeline,
        config.base.model_copy(update={"text_to_image_every": 1}),
        config.loss,
        config.optimizer,
        seed=config.seed,
        cache=run.folder / "cache",
        validator=lambda *_: {},
    )
    _adopt(dense, run_stage(base, run))

    generator = torch.Generator().manual_seed(config.seed)
    moe = upcycle(dense, **config.moe.model_dump(), generator=generator)
    moe.set_attn_processor(RealRoPEAttnProcessor())
    if config.compile:
        moe.compile_repeated_blocks()
    pipeline = assemble(moe, parts)
    unified = FlowStage(
        "unified",
        pipeline,
        config.unified,
        config.loss,
        config.optimizer,
        seed=config.seed,
        cache=run.folder / "cache",
        validator=validator,
    )
    ema = run_stage(unified, run)
    _adopt(moe, ema)
    target = run.folder / "model"
    save_model(pipeline, target)
    save_file(
        {
            name.removeprefix("objective."): value.to(torch.bfloat16)
            for name, value in ema.items()
            if name.startswith("objective.")
        },
        target / "alignment.safetensors",
    )
    shutil.rmtree(run.folder / "cache", ignore_errors=True)
    return target


def assemble(transformer: QwenImageTransformer2DModel, parts: Components) -> TagMoEPipeline:
    """A TagWorld pipeline of these parts."""
    return TagMoEPipeline(
        transformer=transformer,
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        scheduler=make_scheduler(),
        prompt_template=TEMPLATE,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        known_words=sorted(words()),
        default_steps=DEFAULT_STEPS,
        default_cfg=DEFAULT_CFG,
        default_size=SIZE,
    )


def save_model(pipeline: TagMoEPipeline, folder: Path) -> None:
    """Write a pipeline folder in bf16, whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.to(torch.bfloat16)
    pipeline.save_pretrained(partial)
    pipeline.to(torch.float32)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _frozen(source: str) -> Components:
    folder = packaged_folder() if source == "packaged" else Path(source)
    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    return Components(pipeline.vae, pipeline.tokenizer, pipeline.text_encoder)


def _transformer(config: RunConfig, parts: Components) -> TagMoETransformer2DModel:
    z_dim = parts.vae.config.z_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        dense = TagMoETransformer2DModel(
            patch_size=2,
            in_channels=4 * z_dim,
            out_channels=z_dim,
            joint_attention_dim=parts.text_encoder.config.text_config.hidden_size,
            **config.transformer.model_dump(),
        )
        # adaLN-zero (Peebles and Xie): every block starts as the identity, and the first prediction is zero
        for block in dense.transformer_blocks:
            for modulation in (block.img_mod[1], block.txt_mod[1]):
                torch.nn.init.zeros_(modulation.weight)
                torch.nn.init.zeros_(modulation.bias)
        torch.nn.init.zeros_(dense.proj_out.weight)
        torch.nn.init.zeros_(dense.proj_out.bias)
    dense.set_attn_processor(RealRoPEAttnProcessor())
    return dense


def _adopt(transformer: TagMoETransformer2DModel, ema: dict[str, Tensor]) -> None:
    prefix = "transformer."
    weights = {name.removeprefix(prefix): value for name, value in ema.items() if name.startswith(prefix)}
    transformer.load_state_dict(weights)


def _open_folder(folder: Path, settings: dict[str, object], resume: bool) -> None:
    record = folder / "config.resolved.yaml"
    if resume:
        if not record.is_file():
            raise UsageError(f"There is no run to resume in {str(folder)!r}; start it without --resume.")
        if yaml.safe_load(record.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
            raise TrainingError(
                f"The settings differ from those in {str(record)!r}; resume with the same recipe and --set, or choose "
                "another output_dir."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"The output folder {str(folder)!r} exists and is not empty; add --resume or choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same run folder; the lock dies with the process."""
    import fcntl

    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"Another process is training in {str(folder)!r}; wait for it or stop it.") from error
        yield
