"""A whole training run, as in paper 4.1: dense text-to-image base, upcycle, unified training with L_total.

The run folder holds config.resolved.yaml, metrics.jsonl, checkpoints/, validation/ and, at the end, model/: a pipeline
folder with the averaged weights, and alignment.safetensors (W_tag and H_pred, which inference does not need).
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
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
from tagmoe.errors import ConfigError, TrainingError
from tagmoe.files.atomic import put_in_place
from tagmoe.files.json_files import read_object
from tagmoe.files.resumable import FULL
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle, widen
from tagmoe.pipeline.folder import ALIGNMENT
from tagmoe.pipeline.memory.room import memory_room
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.training_range import WORLD as TAGWORLD_NAME
from tagmoe.pipeline.training_range import is_divided_by_content
from tagmoe.sentences import counted, reason_of
from tagmoe.train.checkpoint import file_hash, fill, of_module
from tagmoe.train.components_folder import (
    ENCODERS,
    Components,
    are_used,
    components_dtype,
    components_folder,
    components_path,
    read_components,
    train_components,
)
from tagmoe.train.engine import check_ranks, prepare_blocks, scratch_folder, train_sharded
from tagmoe.train.frozen import restore_frozen
from tagmoe.train.heap import map_large_blocks
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.mixture import check_components, load_mixture, named_folder, restore_alignment, with_start
from tagmoe.train.plan import check_fits, counts_of, transformer_config
from tagmoe.train.precision import resolve_precision
from tagmoe.train.prompts import check_prompts, with_words
from tagmoe.train.ranks import ALONE, Ranks, processes, ranks_of
from tagmoe.train.run_folder import check_new, check_resumable, open_run_folder, recorded_settings
from tagmoe.train.stage import FlowStage, Validator
from tagmoe.train.start_parts import StartParts, dense_parts, is_read_by_parts, mixture_parts
from tagmoe.train.stored import TAGWORLD, StoredRows, batch_kinds, check_rows, newest_version
from tagmoe.train.stream import check_tasks
from tagmoe.train.trained import choose_trained, save_lora
from tagmoe.weights.layout import DENSE_DEFAULTS
from tagmoe.world import SIZE

PACKAGES = ("tagmoe", "torch", "diffusers", "transformers", "numpy")


def versions() -> dict[str, str]:
    """The versions of software that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def train(config: RunConfig, *, validator: Validator, resume: bool = False, console: Console | None = None) -> Path:
    """Run every stage of a recipe (paper 4.1); returns the folder of the finished pipeline.

    Under torchrun its processes share the unified stage; rank 0 alone trains what comes before it, and writes. A new
    run that fails before its first step leaves no folder behind.

    Raises UsageError when the output folder cannot be used, when it is not empty without `resume`, and when `resume`
    finds no run in it. Raises TrainingError when another process trains there, and when a setting that is not in
    `run_folder.HARMLESS` differs from that of the run to resume. Raises ConfigError for settings that so many processes
    cannot do.
    """
    check_ranks(config, processes())
    with ranks_of(config.device) as ranks:
        config = ranks.from_first(partial(_checked, config, ranks, resume=resume))
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if ranks.device.type == "cpu":
            map_large_blocks()
        return _train_together(config, ranks, validator, resume, console or Console(stderr=True, soft_wrap=True))


def _checked(config: RunConfig, ranks: Ranks, *, resume: bool) -> RunConfig:
    """The config with what its folders decide, once the output folder, the memory and a resumed run allow it."""
    folder = Path(config.output_dir)
    if not resume:
        check_new(folder)
    config = _pinned(with_start(config), recorded_settings(folder) if resume else {})
    # Processes that compute on the host share its memory too.
    shards = ranks.count // config.replicate if ranks.device.type == "cuda" else 1
    check_fits(counts_of(config, ranks.device.type).shared(shards), memory_room(on_gpu=ranks.device.type == "cuda"))
    if resume:
        check_resumable(folder, config.model_dump(mode="json"))
    return config


def _train_together(config: RunConfig, ranks: Ranks, validator: Validator, resume: bool, console: Console) -> Path:
    folder, settings = Path(config.output_dir), config.model_dump(mode="json")
    # Checked before the folder is made, so that a recipe that names missing components can simply be run again.
    # Components that this run trains itself cannot have encoded the store.
    encoder = None if config.components is None else components_folder(config.components)
    stored = None if config.data is None else StoredRows.open(config.data, encoder)
    parts = None if config.components is None else _read_components(config, stored, ranks)
    check_tasks(config)
    with open_run_folder(folder, settings, resume) if ranks.is_first else scratch_folder() as scratch:
        if scratch is None:
            run = Run(config, folder, settings, versions(), console, _inputs(config, ranks))
        else:
            run = Run(config, scratch, settings, versions(), Console(quiet=True), _inputs(config, ranks))
        if stored is not None and stored.quarantined:
            run.console.print(f"not trained on: {counted(stored.quarantined, 'row')} of the store in quarantine.")
        try:
            if parts is None:
                parts = ranks.from_first(partial(train_components, run, ranks.device))
            return _train(run, parts, validator, stored, ranks)
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


def _train(run: Run, parts: Components, validator: Validator, stored: StoredRows | None, ranks: Ranks = ALONE) -> Path:
    config = run.config
    parts = with_words(parts, stored, run.console)
    if not _is_judged(stored):
        run.console.print("The store has no pictures of TagWorld, so its oracle does not judge the model.")
        validator = _no_judge
    if parts.unread is None:
        parts.to(ranks.device)
    start = _start_by_parts(config, parts) if not ranks.is_alone and is_read_by_parts(config) else None
    if start is not None:
        transformer = _prepared(start.transformer, config)
    elif config.mixture is None:
        transformer = dense_transformer(config, parts)
    else:
        transformer = _prepared(load_mixture(config, parts), config)
    own_cache = Path(config.output_dir) / "cache"
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
    if config.mixture is None and start is None:
        text_to_image = config.base.model_copy(update={"text_to_image_every": 1})
        if config.dense is None:
            base = stage("base", pipeline_of(transformer), text_to_image, validator=_no_judge)
            _print_all(base.notes(), run)
            average = ranks.from_first(partial(run_stage, base, run, Ranks(device=ranks.device)))
            transformer.load_state_dict(of_module(average, "transformer"))
        transformer = unified_transformer(transformer, config)
    choose_trained(transformer, config)
    pipeline = pipeline_of(transformer)
    by_family = config.moe is not None and config.moe.router == "family"
    unified = stage(
        "unified",
        pipeline,
        config.unified,
        validator=validator,
        conflict=config.conflict,
        by_family=by_family,
        ranks=ranks,
    )
    if config.mixture is not None and not restore_alignment(unified.objective, config):
        run.console.print(f"The mixture {config.mixture!r} has no {ALIGNMENT}: W_tag and H_pred start anew.")
    _print_all(unified.notes(), run)
    if ranks.is_alone:
        trained, ema = transformer, run_stage(unified, run, ranks)
        fill(unified.modules, ema)
    else:
        trained, ema = train_sharded(unified, run, ranks, start)
    target = run.folder / ("lora" if config.parameters == "lora" else "model")
    if ranks.is_first:
        if config.parameters == "lora":
            save_lora(trained, target)
        else:
            restore_frozen(trained, torch.bfloat16)
            pipeline_of = partial(pipeline_of, parts=parts.complete())
            # A dense model has no heads.
            save_model(pipeline_of(trained), target, alignment=of_module(ema, "objective") or None)
        shutil.rmtree(own_cache, ignore_errors=True)
    return Path(config.output_dir) / target.name


def _is_judged(stored: StoredRows | None) -> bool:
    """Whether TagWorld's oracle can judge the model: it has learned from pictures of that world."""
    return stored is None or TAGWORLD in stored.used


def _read_components(config: RunConfig, stored: StoredRows | None, ranks: Ranks) -> Components:
    assert config.components is not None
    precision = resolve_precision(config.precision, ranks.device.type)
    return read_components(
        config.components,
        dtype=components_dtype(precision, ranks.device.type),
        device=ranks.device,
        used=are_used(config, encoded=stored is not None and stored.encoded is not None, judged=_is_judged(stored)),
    )


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
    prepare_blocks(transformer, config)
    return transformer


def _range(config: RunConfig, stored: StoredRows | None) -> dict[str, Any]:
    """What the model learns from, for its folder: the names of the data sets, and the sizes of their targets."""
    if stored is None:
        return {"pictures": TAGWORLD_NAME, "sizes": [[SIZE, SIZE]], "divide": _divide(config)}
    # Imported here: TagWorld is trained on without the extra `data`.
    from tagmoe.data.order.rows import bucket_sizes

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

    An older folder of that name is replaced only when the new one is complete. The transformer stays in bf16: in fp32
    one whose frozen weights were kept in fewer bits would be larger than while it trained.
    """
    new = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    before = {name: pipeline.part(name).dtype for name in ENCODERS}
    pipeline.to(torch.bfloat16)
    try:
        pipeline.save_pretrained(new)
    finally:
        for name, dtype in before.items():
            pipeline.part(name).to(dtype)
    if alignment is not None:
        weights = {name: value.to(torch.bfloat16).contiguous() for name, value in alignment.items()}
        save_file(weights, new / "alignment.safetensors")
    put_in_place(new, folder)


def _inputs(config: RunConfig, ranks: Ranks) -> dict[str, str]:
    """SHA-256 of the parts that a run takes from other folders, by setting. Each rank reads some of the files."""
    folders: dict[str, tuple[Path, Sequence[str]]] = {}
    if config.components is not None:
        folders["components"] = (components_path(config.components), ("vae", "text_encoder", "tokenizer"))
    if config.dense is not None:
        folders["dense"] = (named_folder(config.dense, "dense"), ("transformer",))
    if config.mixture is not None:
        folders["mixture"] = (named_folder(config.mixture, "mixture"), ("transformer", ALIGNMENT))
    return {name: _content_hash(folder, parts, ranks) for name, (folder, parts) in folders.items()}


def _content_hash(folder: Path, parts: Sequence[str], ranks: Ranks) -> str:
    found = (path for part in parts for path in (folder / part, *(folder / part).rglob("*")))
    files = sorted(path for path in found if path.is_file())
    own = {path: file_hash(path) for path in files[ranks.rank :: ranks.count]}
    hashes = {path: value for one in ranks.all(own) for path, value in one.items()}
    lines = [f"{path.relative_to(folder).as_posix()} {hashes[path]}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _start_by_parts(config: RunConfig, parts: Components) -> StartParts:
    """What the ranks of a run read of its folder. Raises MissingError or ConfigError naming a folder that does not
    fit."""
    if config.mixture is not None:
        described = transformer_config(config)
        check_components(described, config, parts)
        return mixture_parts(config.mixture, described)
    assert config.dense is not None
    found = read_object(named_folder(config.dense, "dense") / "transformer" / "config.json")
    wanted = DENSE_DEFAULTS | _dense_config(config, parts)
    _check_dense(wanted, found, config.dense)
    return dense_parts(config.dense, wanted, config.moe, config.seed)


def _dense_config(config: RunConfig, parts: Components) -> dict[str, Any]:
    """What decides the tensors of a dense transformer for these components."""
    z_dim = parts.vae.config.z_dim
    width = parts.text_encoder.config.text_config.hidden_size
    own = config.transformer.model_dump()
    return {"patch_size": 2, "in_channels": 4 * z_dim, "out_channels": z_dim, "joint_attention_dim": width, **own}


def dense_transformer(config: RunConfig, parts: Components) -> TagMoETransformer2DModel:
    """A dense transformer for these components in fp32: new, or with the weights of `dense`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        dense = TagMoETransformer2DModel(**_dense_config(config, parts))
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
    _check_dense(transformer.config, trained.config, source)
    transformer.load_state_dict(trained.state_dict())


def _check_dense(wanted: Mapping[str, Any], found: Mapping[str, Any], source: str) -> None:
    # Settings of mixtures such as expert_scale may differ. Only those that build a dense model must agree.
    layers = ("num_layers", "num_attention_heads", "attention_head_dim", "num_moe_blocks")
    for name in ("in_channels", "joint_attention_dim", *layers):
        if wanted.get(name, 0) != found.get(name, 0):
            raise ConfigError(
                f"The setting 'dense' names {source!r}, whose {name} is {found.get(name, 0)}, but this run needs "
                f"{wanted.get(name, 0)}; name a dense model of the recipe's size."
            )
