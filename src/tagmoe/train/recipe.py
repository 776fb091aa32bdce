"""A whole training run, as in paper 4.1: dense text-to-image base, upcycle, unified training with L_total.

The run folder holds config.resolved.yaml, metrics.jsonl, checkpoints/, validation/ and, at the end, model/: a pipeline
folder with the averaged weights, and alignment.safetensors (W_tag and H_pred, which inference does not need).
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import QwenImageTransformer2DModel
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from tagmoe.config import MoEConfig, RunConfig
from tagmoe.errors import ConfigError, MissingError, TrainingError, UsageError
from tagmoe.files.atomic import put_in_place, write_whole
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle
from tagmoe.pipeline.components import make_scheduler
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.checkpoint import of_module
from tagmoe.train.components_folder import Components, train_components
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.stage import FlowStage, Validator
from tagmoe.train.stored import TAGWORLD, StoredRows, check_rows, newest_version
from tagmoe.train.text_encoder import TEMPLATE
from tagmoe.world import SIZE, words

PACKAGES = ("tagmoe", "torch", "diffusers", "transformers", "numpy")
DEFAULT_STEPS = 12
DEFAULT_CFG = 3.0
MAX_PROMPT_TOKENS = 64
RECORD = "config.resolved.yaml"
LOCK = ".lock"
# Settings that a resumed run may change, as no weight depends on them. Not threads: they change the order of sums.
HARMLESS = frozenset(
    {"output_dir", "cache_dir", "save_every", "validate_every", "validation_cases", "keep_checkpoints", "tensorboard"}
)


def versions() -> dict[str, str]:
    """The versions of software that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def train(config: RunConfig, *, validator: Validator, resume: bool = False, console: Console | None = None) -> Path:
    """Run every stage of a recipe (paper 4.1); returns the folder of the finished pipeline.

    A new run that fails before its first step leaves no folder behind.

    Raises UsageError when the output folder cannot be used, when it is not empty without `resume`, and when `resume`
    finds no run in it. Raises TrainingError when another process trains there, and when a setting that is not in
    `HARMLESS` differs from that of the run to resume.
    """
    folder = Path(config.output_dir)
    if not resume:
        _check_new(folder)
    config = _pinned(config, _recorded(folder) if resume else {})
    settings = config.model_dump(mode="json")
    if resume:
        _check_resumable(folder, settings)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    # Checked before the folder is made, so that a recipe that names missing components can simply be run again.
    parts = None if config.components is None else _frozen(config.components)
    # Components that this run trains itself cannot have encoded the store.
    encoder = None if config.components is None else _components_folder(config.components)
    stored = None if config.data is None else StoredRows.open(config.data, encoder)
    with _run_folder(folder, settings, resume):
        run = Run(config, folder, settings, versions(), console or Console(stderr=True))
        return _train(run, parts or train_components(run), validator, stored)


def _pinned(config: RunConfig, recorded: Mapping[str, Any]) -> RunConfig:
    """The config with a fixed version of its store: the given one, that of the run to resume, or the newest."""
    if config.data is None or config.data.version is not None:
        return config
    before = (recorded.get("data") or {}).get("version")
    version = newest_version(config.data) if before is None else before
    return config.model_copy(update={"data": config.data.model_copy(update={"version": version})})


def _train(run: Run, parts: Components, validator: Validator, stored: StoredRows | None) -> Path:
    config = run.config
    dense = _transformer(config, parts)
    if config.compile:
        dense.compile_repeated_blocks()
    own_cache = run.folder / "cache"
    cache = own_cache if config.cache_dir is None else Path(config.cache_dir).expanduser()
    stage = partial(
        FlowStage, loss=config.loss, optimizer=config.optimizer, seed=config.seed, cache=cache, stored=stored
    )
    pipeline_of = partial(assemble, parts=parts, any_words=stored is not None and set(stored.sources) != {TAGWORLD})
    if stored is not None:
        check_rows(stored, config, pipeline_of(dense).size_multiple)
    text_to_image = config.base.model_copy(update={"text_to_image_every": 1})
    if config.dense is None:
        base = stage("base", pipeline_of(dense), text_to_image, validator=lambda *_: {})
        dense.load_state_dict(of_module(run_stage(base, run), "transformer"))

    transformer = dense if config.moe is None else _upcycled(dense, config.moe, config)
    pipeline = pipeline_of(transformer)
    ema = run_stage(stage("unified", pipeline, config.unified, validator=validator), run)
    transformer.load_state_dict(of_module(ema, "transformer"))
    target = run.folder / "model"
    save_model(pipeline, target, alignment=of_module(ema, "objective") or None)  # a dense model has none
    shutil.rmtree(own_cache, ignore_errors=True)
    return target


def _upcycled(dense: TagMoETransformer2DModel, moe: MoEConfig, config: RunConfig) -> TagMoETransformer2DModel:
    mixture = upcycle(dense, **moe.model_dump(), generator=torch.Generator().manual_seed(config.seed))
    mixture.set_attn_processor(RealRoPEAttnProcessor())
    if config.compile:
        mixture.compile_repeated_blocks()
    return mixture


def assemble(transformer: QwenImageTransformer2DModel, parts: Components, *, any_words: bool = False) -> TagMoEPipeline:
    """A TagWorld pipeline of these components. any_words: it accepts words that TagWorld does not use."""
    return TagMoEPipeline(
        transformer=transformer,
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        scheduler=make_scheduler(),
        prompt_template=TEMPLATE,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        known_words=None if any_words else sorted(words()),
        default_steps=DEFAULT_STEPS,
        default_cfg=DEFAULT_CFG,
        default_size=SIZE,
    )


def save_model(pipeline: TagMoEPipeline, folder: Path, *, alignment: Mapping[str, Tensor] | None = None) -> None:
    """Write a pipeline folder in bf16, completely or not at all. alignment: W_tag and H_pred, if there are any.

    An older folder of that name is replaced only when the new one is complete.
    """
    new = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    pipeline.to(torch.bfloat16)
    try:
        pipeline.save_pretrained(new)
    finally:
        pipeline.to(torch.float32)
    if alignment is not None:
        weights = {name: value.to(torch.bfloat16).contiguous() for name, value in alignment.items()}
        save_file(weights, new / "alignment.safetensors")
    put_in_place(new, folder)


def _components_folder(source: str) -> Path:
    return packaged_folder() if source == "packaged" else Path(source).expanduser()


def _frozen(source: str) -> Components:
    folder = _components_folder(source)
    if not folder.is_dir():
        raise MissingError(
            f"There is no components folder {source!r}, which the recipe names; train it first with "
            '"tagmoe train tagworld/components", or set components to packaged.'
        )
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
        # adaLN-zero (Peebles and Xie): every block starts as the identity, and the first prediction is zero.
        modulations = [mod[1] for block in dense.transformer_blocks for mod in (block.img_mod, block.txt_mod)]
        for layer in (*modulations, dense.proj_out):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    if config.dense is not None:
        _start_from(dense, config.dense)
    dense.set_attn_processor(RealRoPEAttnProcessor())
    return dense


def _start_from(transformer: TagMoETransformer2DModel, source: str) -> None:
    """Copy the weights of a dense model folder. Raises MissingError or ConfigError naming the folder."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise MissingError(f"There is no model folder {source!r}, which the setting 'dense' names; train it first.")
    trained = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32).transformer
    # Settings of mixtures such as expert_scale may differ. Only those that build a dense model must agree.
    wanted, found = transformer.config, trained.config
    for name in ("num_layers", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "num_moe_blocks"):
        if wanted[name] != found.get(name, 0):
            raise ConfigError(
                f"The setting 'dense' names {source!r}, whose {name} is {found.get(name, 0)}, but this run needs "
                f"{wanted[name]}; name a dense model of the recipe's size."
            )
    transformer.load_state_dict(trained.state_dict())


def _check_new(folder: Path) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"The output folder {str(folder)!r} is a file; choose another output_dir.")
        # A process that was refused or killed at once leaves nothing but its lock file.
        taken = folder.exists() and any(path.name != LOCK for path in folder.iterdir())
    except OSError as error:
        raise _unusable(folder, error) from error
    if taken:
        raise UsageError(f"The output folder {str(folder)!r} exists and is not empty; add --resume or choose another.")


def _recorded(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder. Raises UsageError when there is none, TrainingError when it is damaged."""
    record = folder / RECORD
    try:
        recorded = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"There is no run to resume in {str(folder)!r}; start it without --resume.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _damaged(record) from error
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    if not isinstance(recorded, dict) or not recorded:
        raise _damaged(record)
    return recorded


def _check_resumable(folder: Path, settings: Mapping[str, Any]) -> None:
    before, now = _flat(_recorded(folder)), _flat(settings)
    for name in [*now, *(before.keys() - now.keys())]:
        if name not in HARMLESS and before.get(name, "not recorded") != now.get(name, "not set"):
            raise TrainingError(
                f"The settings differ from those in {str(folder / RECORD)!r}: {name!r} is {now.get(name, 'not set')!r} "
                f"and was {before.get(name, 'not recorded')!r}; resume with the same recipe and --set, or choose "
                "another output_dir."
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _unusable(folder: Path, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"The output folder {str(folder)!r} cannot be used ({reason}); choose another output_dir.")


def _damaged(record: Path) -> TrainingError:
    return TrainingError(
        f"The settings of the run, {str(record)!r}, cannot be read; restore the file, or start again in another "
        "output_dir."
    )


@contextmanager
def _run_folder(folder: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Lock the run's folder and write its settings. If a new run trains nothing, what it made is removed."""
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    with _only_one(folder):
        if not resume:
            _check_new(folder)  # checked again, because no other process can start here now
        try:
            write_whole(folder / RECORD, yaml.safe_dump(settings, sort_keys=False))
            yield
        except BaseException:
            if not resume and not (folder / "metrics.jsonl").exists():
                _empty(folder, made)
            raise


def _empty(folder: Path, made: list[Path]) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in made:
        with suppress(OSError):  # another process has put a file into it
            path.rmdir()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same run folder. The lock ends with its process."""
    import fcntl

    try:
        handle = (folder / LOCK).open("w")
    except OSError as error:
        raise _unusable(folder, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"Another process is training in {str(folder)!r}; wait for it or stop it.") from error
        yield
