"""A whole training run, as in paper 4.1: dense text-to-image base, upcycle, unified training with L_total.

The run folder holds config.resolved.yaml, metrics.jsonl, checkpoints/, validation/ and, at the end, model/: a pipeline
folder with the averaged weights, and alignment.safetensors (W_tag and H_pred, which inference does not need).
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tagmoe.config import RunConfig
from tagmoe.data.order.rows import bucket_sizes
from tagmoe.errors import ConfigError, TrainingError, UsageError
from tagmoe.files.atomic import put_in_place, write_whole
from tagmoe.files.resumable import FULL
from tagmoe.files.yaml_text import read_yaml, write_yaml
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle, widen
from tagmoe.pipeline.folder import ALIGNMENT
from tagmoe.pipeline.memory.room import memory_room
from tagmoe.pipeline.model_folder import RECORD
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.training_range import WORLD as TAGWORLD_NAME
from tagmoe.pipeline.training_range import is_divided_by_content
from tagmoe.sentences import counted, reason_of
from tagmoe.train.adamw import check_processes, processes
from tagmoe.train.checkpoint import file_hash, of_module
from tagmoe.train.components_folder import Components, components_path, read_components, train_components
from tagmoe.train.frozen import restore_frozen
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.mixture import load_mixture, named_folder, restore_alignment, with_start
from tagmoe.train.plan import check_fits, counts_of
from tagmoe.train.prompts import check_prompts, with_words
from tagmoe.train.stage import FlowStage, Validator
from tagmoe.train.stored import TAGWORLD, StoredRows, batch_kinds, check_rows, newest_version
from tagmoe.train.stream import check_tasks
from tagmoe.train.trained import choose_trained, save_lora
from tagmoe.world import SIZE

PACKAGES = ("tagmoe", "torch", "diffusers", "transformers", "numpy")
LOCK = ".lock"
ABSENT = "not set"
# Settings that a resumed run may change, as no weight depends on them. Not threads: they change the order of sums.
HARMLESS = frozenset(
    {
        "output_dir",
        "cache_dir",
        "save_every",
        "save_minutes",
        "validate_every",
        "validation_cases",
        "keep_checkpoints",
        "tensorboard",
        # Its `spike: skip` leaves later steps out, which is what a run resumes for that a spike has stopped.
        "watch",
    }
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
    check_processes(config.optimizer, processes())
    if not resume:
        _check_new(folder)
    config = _pinned(with_start(config), _recorded(folder) if resume else {})
    settings = config.model_dump(mode="json")
    check_fits(counts_of(config), memory_room())
    if resume:
        _check_resumable(folder, settings)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    # Checked before the folder is made, so that a recipe that names missing components can simply be run again.
    parts = None if config.components is None else read_components(config.components)
    # Components that this run trains itself cannot have encoded the store.
    encoder = None if config.components is None else components_path(config.components)
    stored = None if config.data is None else StoredRows.open(config.data, encoder)
    check_tasks(config)
    with _run_folder(folder, settings, resume):
        run = Run(
            config, folder, settings, versions(), console or Console(stderr=True, soft_wrap=True), _inputs(config)
        )
        if stored is not None and stored.quarantined:
            run.console.print(f"not trained on: {counted(stored.quarantined, 'row')} of the store in quarantine.")
        try:
            return _train(run, parts or train_components(run), validator, stored)
        except (OSError, SafetensorError) as error:
            # safetensors hides the system's error number in a sentence.
            full = getattr(error, "errno", None) in FULL or "os error 28" in str(error)
            reason = "the disk is full" if full else reason_of(error)
            begun = (folder / "metrics.jsonl").exists()
            rest = "add --resume to the same command to go on from the last checkpoint" if begun else "start it again"
            raise TrainingError(
                f"The run in {str(folder)!r} stopped, because {reason}; mend that, then {rest}."
            ) from error


def _pinned(config: RunConfig, recorded: Mapping[str, Any]) -> RunConfig:
    """The config with a fixed version of its store: the given one, that of the run to resume, or the newest."""
    if config.data is None or config.data.version is not None:
        return config
    before = (recorded.get("data") or {}).get("version")
    version = newest_version(config.data) if before is None else before
    return config.model_copy(update={"data": config.data.model_copy(update={"version": version})})


def _train(run: Run, parts: Components, validator: Validator, stored: StoredRows | None) -> Path:
    config = run.config
    parts = with_words(parts, stored, run.console)
    if stored is not None and TAGWORLD not in stored.used:
        run.console.print("The store has no pictures of TagWorld, so its oracle does not judge the model.")
        validator = _no_judge
    transformer = dense_transformer(config, parts) if config.mixture is None else load_mixture(config, parts)
    own_cache = run.folder / "cache"
    cache = own_cache if config.cache_dir is None else Path(config.cache_dir).expanduser()
    stored = check_prompts(assemble(transformer, parts), stored, config, run.console)
    stage = partial(
        FlowStage,
        loss=config.loss,
        optimizer=config.optimizer,
        seed=config.seed,
        cache=cache,
        stored=stored,
        divide=config.divide,
    )
    pipeline_of = partial(assemble, parts=parts, trained_on=_range(config, stored))
    if stored is not None:
        check_rows(stored, config, pipeline_of(transformer).size_multiple)
    if config.mixture is None:
        text_to_image = config.base.model_copy(update={"text_to_image_every": 1})
        if config.dense is None:
            base = stage("base", pipeline_of(transformer), text_to_image, validator=_no_judge)
            _print_all(base.notes(), run)
            transformer.load_state_dict(of_module(run_stage(base, run), "transformer"))
        transformer = unified_transformer(transformer, config)
    choose_trained(transformer, config)
    pipeline = pipeline_of(transformer)
    by_family = config.moe is not None and config.moe.router == "family"
    unified = stage(
        "unified", pipeline, config.unified, validator=validator, conflict=config.conflict, by_family=by_family
    )
    if config.mixture is not None and not restore_alignment(unified.objective, config):
        run.console.print(f"The mixture {config.mixture!r} has no {ALIGNMENT}: W_tag and H_pred start anew.")
    _print_all(unified.notes(), run)
    ema = run_stage(unified, run)
    unified.modules["transformer"].load_state_dict(of_module(ema, "transformer"))
    if config.parameters == "lora":
        save_lora(transformer, run.folder / "lora")
        shutil.rmtree(own_cache, ignore_errors=True)
        return run.folder / "lora"
    restore_frozen(transformer, torch.float32)
    target = run.folder / "model"
    save_model(pipeline, target, alignment=of_module(ema, "objective") or None)  # a dense model has none
    shutil.rmtree(own_cache, ignore_errors=True)
    return target


def _print_all(sentences: Sequence[str], run: Run) -> None:
    for sentence in sentences:
        run.console.print(sentence)


def _no_judge(*_: object) -> dict[str, float]:
    return {}


def unified_transformer(dense: TagMoETransformer2DModel, config: RunConfig) -> TagMoETransformer2DModel:
    """What unified training starts from: the dense transformer, upcycled (`moe`) or with wider FFNs (`wide`)."""
    generator = torch.Generator().manual_seed(config.seed)
    if config.moe is not None:
        transformer = upcycle(dense, **config.moe.model_dump(exclude={"router"}), generator=generator)
    elif config.wide is not None:
        transformer = widen(dense, **config.wide.model_dump(), generator=generator)
    else:
        return dense
    return _prepared(transformer, config)


def _prepared(transformer: TagMoETransformer2DModel, config: RunConfig) -> TagMoETransformer2DModel:
    transformer.set_attn_processor(RealRoPEAttnProcessor())
    if config.compile:
        transformer.compile_repeated_blocks()
    return transformer


def _range(config: RunConfig, stored: StoredRows | None) -> dict[str, Any]:
    """What the model learns from, for its folder: the names of the data sets, and the sizes of their targets."""
    if stored is None:
        return {"pictures": TAGWORLD_NAME, "sizes": [[SIZE, SIZE]], "divide": _divide(config)}
    kinds = batch_kinds(config.unified.text_to_image_every) if config.unified.steps else ["generate"]
    sources = {name: rows for kind in kinds for name, rows in stored.of_kind(kind).items()}
    names = sorted(TAGWORLD_NAME if name == TAGWORLD else name for name in sources)
    sizes = {bucket_sizes(bucket)[0] for rows in sources.values() for bucket in rows.rows}
    return {"pictures": ", ".join(names), "sizes": [list(size) for size in sorted(sizes)]}


def _divide(config: RunConfig) -> str:
    """What keeps TagWorld's test cases from all that the model learned from, its beginnings included."""
    parts = [] if config.components is None else [components_path(config.components)]
    parts += [named_folder(source, name) for name in ("dense", "mixture") if (source := getattr(config, name))]
    return config.divide if all(is_divided_by_content(folder) for folder in parts) else "stream"


def assemble(
    transformer: QwenImageTransformer2DModel,
    parts: Components,
    *,
    trained_on: Mapping[str, Any] | None = None,
) -> TagMoEPipeline:
    """A pipeline of these components, with their settings and scheduler."""
    return TagMoEPipeline(
        transformer=transformer,
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        scheduler=parts.scheduler,
        **parts.settings,
        trained_on=trained_on,
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


def _inputs(config: RunConfig) -> dict[str, str]:
    """SHA-256 of the parts that a run takes from other folders, by setting."""
    folders: dict[str, tuple[Path, Sequence[str]]] = {}
    if config.components is not None:
        folders["components"] = (components_path(config.components), ("vae", "text_encoder", "tokenizer"))
    if config.dense is not None:
        folders["dense"] = (named_folder(config.dense, "dense"), ("transformer",))
    if config.mixture is not None:
        folders["mixture"] = (named_folder(config.mixture, "mixture"), ("transformer", ALIGNMENT))
    return {name: _content_hash(folder, parts) for name, (folder, parts) in folders.items()}


def _content_hash(folder: Path, parts: Sequence[str]) -> str:
    found = (path for part in parts for path in (folder / part, *(folder / part).rglob("*")))
    files = sorted(path for path in found if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {file_hash(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def dense_transformer(config: RunConfig, parts: Components) -> TagMoETransformer2DModel:
    """A dense transformer for these components in fp32: new, or with the weights of `dense`."""
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
    return _prepared(dense, config)


def _start_from(transformer: TagMoETransformer2DModel, source: str) -> None:
    """Copy the weights of a dense model folder. Raises MissingError or ConfigError naming the folder."""
    trained = TagMoEPipeline.from_pretrained(named_folder(source, "dense"), dtype=torch.float32).transformer
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
        text = record.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"There is no run to resume in {str(folder)!r}; start it without --resume.") from error
    except UnicodeDecodeError as error:
        raise _damaged(record) from error
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    try:
        recorded = read_yaml(text, str(record))
    except ConfigError as error:
        raise _damaged(record) from error
    if not isinstance(recorded, dict) or not recorded:
        raise _damaged(record)
    return recorded


def _check_resumable(folder: Path, settings: Mapping[str, Any]) -> None:
    record = folder / RECORD
    # A record from before the setting existed names no divide; its run has that of the stream.
    recorded = {"divide": "stream", **_recorded(folder)}
    for name, before, now in _differences(recorded, settings):
        if name.partition(".")[0] not in HARMLESS:
            raise TrainingError(
                f"The settings differ from those in {str(record)!r}: {name!r} is {_shown(now)} and was "
                f"{_shown(before)}; resume with the same recipe and --set, or choose another output_dir."
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, value before, value now) of every setting that differs. A section that is new or gone is one setting."""
    for name in [*now, *(before.keys() - now.keys())]:
        was, is_ = before.get(name, ABSENT), now.get(name, ABSENT)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            yield from _differences(was, is_, f"{prefix}{name}.")
        elif was != is_:
            yield f"{prefix}{name}", was, is_


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a section ({', '.join(f'{name}: {inner}' for name, inner in list(value.items())[:3])}, ...)"
    return value if value is ABSENT else "null" if value is None else repr(value)


def _unusable(folder: Path, error: Exception) -> UsageError:
    reason = reason_of(error)
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
            write_whole(folder / RECORD, write_yaml(settings))
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
