"""The arithmetic of a training run before anything is loaded: parameters, bytes on the device and the host, FLOPs.

Weights, gradients and optimizer states are counted to the byte, from the shapes of the model. Activations and FLOPs are
those of a trace (`tagmoe.train.trace`). GB is 1e9 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tagmoe.config import OptimizerConfig, RunConfig
from tagmoe.config.fit import SCRATCH
from tagmoe.errors import TrainingError
from tagmoe.files.json_files import read_object
from tagmoe.losses.objective import Objective
from tagmoe.model.gate import Float32Linear
from tagmoe.pipeline.memory.plans import TRANSFORMER_VALUES
from tagmoe.pipeline.memory.room import Room
from tagmoe.pipeline.memory.sizes import GB
from tagmoe.train.components_folder import components_dtype, components_path
from tagmoe.train.frozen import frozen_linears, kept_bytes
from tagmoe.train.mixture import named_folder, with_start
from tagmoe.train.optimizer import state_bytes
from tagmoe.train.plan_components import SAVED_BYTES, Encoders, encoders_of
from tagmoe.train.precision import resolve_precision
from tagmoe.train.start_parts import is_read_by_parts
from tagmoe.train.trace import Shapes, Traced, meta_transformer, trace
from tagmoe.train.trained import choose_trained, mark_trained
from tagmoe.weights.layout import DENSE_DEFAULTS

DEVICE, HOST = "device", "host"
QWEN_IMAGE = ("in_channels", "out_channels", "joint_attention_dim")
COPIES = "copies of trained weights to compute with"
TRAINED, GRADIENTS, STATES, AVERAGE = "trained weights", "gradients", "states of", "moving average"
REPLACED = "activations whose place gradients take"


@dataclass(frozen=True)
class Part:
    """Memory of one kind. place: "device" or "host". dtype: in words. numbers: parameters that it
    is of, 0 for what is not counted by parameter."""

    what: str
    place: str
    dtype: str
    numbers: int
    bytes: int


@dataclass(frozen=True)
class Counts:
    """Parameters of the transformer and the heads of the loss, and the memory that they take."""

    parameters: int
    trained: int
    parts: tuple[Part, ...]

    @property
    def frozen(self) -> int:
        """Parameters that do not train."""
        return self.parameters - self.trained

    def shared(self, shards: int) -> Counts:
        """What one of so many ranks keeps, among which every weight is sharded (FSDP)."""
        parts = (replace(part, bytes=math.ceil(part.bytes / shards)) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def bytes_on(self, place: str) -> int:
        """Bytes of the parts in this place."""
        return sum(part.bytes for part in self.parts if part.place == place)


@dataclass(frozen=True)
class TrainingPlan:
    """What a run of stage unified needs, in one of `ranks` processes. alternatives: bytes on the device with other
    dtypes, without activations. replaced: bytes of activations whose place gradients take in backward."""

    counts: Counts
    shapes: Shapes
    accumulate: int
    precision: str
    traced: Traced
    working: int
    alternatives: Mapping[str, int]
    notes: tuple[str, ...] = ()
    ranks: int = 1
    replaced: int = 0

    @property
    def device(self) -> int:
        """Bytes on the device at the peak of a step."""
        return self.counts.bytes_on(DEVICE) + self.activations

    @property
    def activations(self) -> int:
        """Bytes at the peak of a step beside those of the counts."""
        return self.traced.saved + self.traced.block + self.working - self.replaced

    @property
    def host(self) -> int:
        """Bytes of host memory at its peak, where the device is another."""
        return self.counts.bytes_on(HOST)

    @property
    def flops(self) -> dict[str, int]:
        """FLOPs of a step by kind, of one rank. recompute: of activation checkpointing."""
        return {
            "forward": self.accumulate * self.traced.forward,
            "backward": self.accumulate * self.traced.backward,
            "recompute": self.accumulate * self.traced.recompute,
        }

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return {
            "parameters": {
                "all": self.counts.parameters,
                "trained": self.counts.trained,
                "frozen": self.counts.frozen,
            },
            "precision": self.precision,
            "ranks": self.ranks,
            "batch": asdict(self.shapes) | {"accumulate": self.accumulate},
            "parts": [
                *(asdict(part) for part in self.counts.parts),
                asdict(Part("activations", DEVICE, self.precision, 0, self.traced.saved)),
                asdict(Part("activations of a recomputed block", DEVICE, self.precision, 0, self.traced.block)),
                asdict(Part("working memory", DEVICE, self.precision, 0, self.working)),
                asdict(Part(REPLACED, DEVICE, self.precision, 0, -self.replaced)),
            ],
            "device_bytes": self.device,
            "host_bytes": self.host,
            "flops": self.flops,
            "alternatives": dict(self.alternatives),
            "notes": list(self.notes),
        }


def plan_training(config: RunConfig, room: Room, shapes: Shapes, ranks: int = 1) -> TrainingPlan:
    """The plan of stage unified for one of so many ranks. shapes: of its part of a micro-batch.

    Raises the errors of `with_start` and of settings that do not fit the model."""
    config, notes = _known(config)
    precision = precision_on(config, room)
    described = transformer_config(config)
    transformer = meta_transformer(described)
    mark_trained(transformer, config)
    heads = objective(config, described)
    counted = whole = counts(transformer, heads, config, precision)
    if ranks > 1:
        counted = sharded(counted, transformer, config, precision, ranks // config.replicate)
    encoders = encoders_of(config)
    counted = _with_passing(counted, whole, config, room.device, ranks, encoders)
    counted = _with_components(counted, encoders, components_dtype(precision, room.device), room.device)
    notes += [] if encoders.note is None else [encoders.note]
    # The bits of nf4 are no torch dtype. What is kept for backward beside the weights is that of bf16.
    traced_config = config.model_copy(update={"frozen_dtype": "bf16"} if config.frozen_dtype == "nf4" else {})
    traced = trace(
        described,
        shapes,
        precision,
        prepare=lambda model: choose_trained(model, traced_config),
        device=room.device,
        recompute=config.activation_checkpointing,
    )
    tokens = shapes.batch * (shapes.image_tokens + shapes.text_tokens)
    working = TRANSFORMER_VALUES * tokens * transformer.inner_dim * (2 if precision == "bf16" else 4)
    return TrainingPlan(
        counted, shapes, config.unified.accumulate, precision, traced, working,
        alternatives(transformer, heads, config, precision, ranks // config.replicate), tuple(notes), ranks,
        _replaced(counted, traced, transformer, config),
    )  # fmt: skip


def _replaced(counted: Counts, traced: Traced, transformer: nn.Module, config: RunConfig) -> int:
    """Bytes of activations whose place gradients take: of all, and of a block that is computed again by those of the
    block. With several micro-batches a step gradients are there already."""
    if config.unified.accumulate > 1:
        return 0
    gradients = sum(part.bytes for part in counted.parts if part.what == GRADIENTS)
    blocks = list(transformer.transformer_blocks)  # type: ignore[arg-type]
    trained = [sum(p.numel() for p in block.parameters() if p.requires_grad) for block in blocks]
    largest = gradients * max(trained) // max(1, counted.trained)
    return min(gradients, traced.saved) + min(largest, traced.block)


def counts_of(config: RunConfig, device: str = "cpu") -> Counts:
    """What a run keeps beside its activations on a device of this type, from settings whose `start` is resolved."""
    described = transformer_config(config)
    transformer = meta_transformer(described)
    mark_trained(transformer, config)
    return counts(transformer, objective(config, described), config, resolve_precision(config.precision, device))


def check_fits(plan: TrainingPlan | Counts, room: Room) -> None:
    """Raise TrainingError when the memory is too small, naming the largest parts. Without a GPU the host is the device.

    Of `Counts` alone, activations are left out.
    """
    parts = [*(plan.counts.parts if isinstance(plan, TrainingPlan) else plan.parts)]
    if isinstance(plan, TrainingPlan):
        parts.append(Part("activations", DEVICE, plan.precision, 0, plan.activations))
    for place, budget in ((DEVICE, room.budget), (HOST, room.host)):
        here = [part for part in parts if part.place == place or (room.device == "cpu" and place == DEVICE)]
        needed = sum(part.bytes for part in here)
        if needed > budget:
            largest = sorted(here, key=lambda part: -part.bytes)[:3]
            raise TrainingError(
                f"Training needs {needed / GB:.1f} GB on the {place}, which has {max(budget, 0) / GB:.1f} GB: "
                f"{', '.join(f'{part.what} {part.bytes / GB:.1f}' for part in largest)}; train fewer parameters, keep "
                "them in fewer bits (frozen_dtype, optimizer.states, optimizer.gradients), or take a smaller batch."
            )


def precision_on(config: RunConfig, room: Room) -> str:
    """The precision of a run on this device: "auto" is bf16 on a GPU."""
    if room.device == "cuda" and config.precision == "auto":
        return "bf16"
    return resolve_precision(config.precision)


def counts(transformer: nn.Module, heads: nn.Module | None, config: RunConfig, precision: str) -> Counts:
    """Count a transformer whose trained parameters are marked (`mark_trained`), and the heads of the loss."""
    optimizer = config.optimizer
    named = [("transformer", transformer), *([] if heads is None else [("objective", heads)])]
    every = [(f"{owner}.{name}", p) for owner, module in named for name, p in module.named_parameters()]
    trained = [(name, p) for name, p in every if p.requires_grad]
    numbers = sum(p.numel() for _, p in trained)
    parts = [*_frozen_parts(transformer, heads, config, precision)]
    parts.append(Part(TRAINED, DEVICE, "fp32", numbers, 4 * numbers))
    if precision == "bf16":
        copied = sum(p.numel() for p in _copied(transformer))
        parts.append(Part(COPIES, DEVICE, "bf16", copied, 2 * copied))
    size = 2 if optimizer.gradients == "bf16" else 4
    parts.append(Part(GRADIENTS, DEVICE, optimizer.gradients, numbers, size * numbers))
    states = sum(state_bytes(name, p, optimizer) for name, p in trained)
    kind = {"fp32": "fp32", "bf16": "bf16", "8bit": "8 bits"}[optimizer.states]
    parts.append(Part(f"{STATES} {optimizer.name}", DEVICE, kind, numbers, states))
    place = HOST if optimizer.ema_offload else DEVICE
    parts.append(Part(AVERAGE, place, "fp32", numbers, 4 * numbers))
    return Counts(sum(p.numel() for _, p in every), numbers, tuple(parts))


def sharded(counted: Counts, transformer: nn.Module, config: RunConfig, precision: str, shards: int) -> Counts:
    """What one of so many ranks keeps (FSDP2): its part of everything, and whole blocks while they are computed.

    The blocks are an estimate: two of the largest, as the next one is gathered ahead, and the gradients of one. They
    take the place of copies in bf16.
    """
    size = 2 if precision == "bf16" else 4
    blocks = list(transformer.transformer_blocks)  # type: ignore[arg-type]
    numbers = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    trained = max(sum(p.numel() for p in block.parameters() if p.requires_grad) for block in blocks)
    kept = replace(counted, parts=tuple(part for part in counted.parts if part.what != COPIES)).shared(shards)
    gathered = Part("blocks gathered to be computed (estimate)", DEVICE, precision, 2 * numbers, 2 * size * numbers)
    gradients = Part("gradients of a block to be summed (estimate)", DEVICE, "fp32", trained, 4 * trained)
    return replace(kept, parts=(*kept.parts, gathered, *([gradients] if trained else [])))


def _with_passing(
    counted: Counts, whole: Counts, config: RunConfig, device: str, ranks: int, encoders: Encoders
) -> Counts:
    """With the most that the host holds for a while: when the model is read, when it is saved, or at the end.

    whole: the counts of one process. A model that is read by parts passes through the host a tensor at a time. On a CPU
    what is read is what trains, and is counted already.
    """
    weights = sum(part.bytes for part in whole.parts if part.what.startswith("frozen") or part.what == TRAINED)
    state = [part for part in counted.parts if part.what in (TRAINED, AVERAGE) or part.what.startswith(STATES)]
    moments = {"copy of the state while it is saved": sum(part.bytes for part in state)}
    unread = 0 if encoders.used or config.parameters == "lora" else SAVED_BYTES * encoders.numbers
    if unread:
        moments["autoencoder and text encoder when the model is saved"] = unread
    if ranks > 1:
        average = sum(part.bytes for part in whole.parts if part.what == AVERAGE)
        moments["whole model at the end (rank 0)"] = weights + average + unread
    if device != "cpu" and (ranks == 1 or not is_read_by_parts(config)):
        # As `load_mixture` reads it. A dense model is upcycled beside itself, both in fp32.
        in_fp32 = config.parameters == "all" or config.frozen_dtype == "fp32"
        read = (4 if in_fp32 else 2) * whole.frozen + 4 * whole.trained
        made = 2 * 4 * whole.parameters
        is_made = config.dense is not None or config.base.steps > 0
        moments["whole model while it is read or made"] = made if is_made else read
    what, size = max(moments.items(), key=lambda moment: moment[1])
    return replace(counted, parts=(*counted.parts, Part(f"at most: {what}", HOST, "mixed", 0, size)))


def _with_components(counted: Counts, encoders: Encoders, dtype: torch.dtype, device: str) -> Counts:
    """With the frozen autoencoder and text encoder where they are used: every process has its own."""
    if not encoders.numbers or not encoders.used:
        return counted
    place, kind = DEVICE if device == "cuda" else HOST, "bf16" if dtype == torch.bfloat16 else "fp32"
    part = Part("autoencoder and text encoder", place, kind, encoders.numbers, dtype.itemsize * encoders.numbers)
    return replace(counted, parts=(*counted.parts, part))


def _frozen_parts(transformer: nn.Module, heads: nn.Module | None, config: RunConfig, precision: str) -> Iterator[Part]:
    kept = [layer for _, _, layer in frozen_linears(transformer)] if config.frozen_dtype != "fp32" else []
    packed = {id(p) for layer in kept for p in (layer.weight, layer.bias) if p is not None}
    if kept:
        size = sum(kept_bytes(layer.weight.shape, config.frozen_dtype) for layer in kept)
        biases = sum(layer.bias.numel() for layer in kept if layer.bias is not None)
        numbers = biases + sum(layer.weight.numel() for layer in kept)
        # bitsandbytes turns a bias into the dtype of the first input.
        bias_bytes = 4 if config.frozen_dtype == "nf4" and precision == "fp32" else 2
        yield Part("frozen linear layers", DEVICE, config.frozen_dtype, numbers, size + bias_bytes * biases)
    modules = [transformer, *([] if heads is None else [heads])]
    others = [p for m in modules for p in m.parameters() if not p.requires_grad and id(p) not in packed]
    if others:
        numbers = sum(p.numel() for p in others)
        yield Part("frozen gates, norms, first and last layers", DEVICE, "fp32", numbers, 4 * numbers)


def _copied(transformer: nn.Module) -> Iterator[Tensor]:
    """The trained parameters that autocast copies to bf16."""
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear) and not isinstance(layer, Float32Linear):
            yield from (p for p in layer.parameters(recurse=False) if p.requires_grad)


def alternatives(
    transformer: nn.Module, heads: nn.Module | None, config: RunConfig, precision: str, shards: int = 1
) -> dict[str, int]:
    """Bytes on the device without activations, by the dtypes of AdamW's states, gradients and the frozen base.

    shards: ranks that share a model. What several processes cannot do is left out.
    """
    rows = [("fp32", "fp32", "bf16"), ("8bit", "fp32", "bf16"), ("8bit", "bf16", "bf16")]
    rows += [("8bit", "fp32", "fp8"), ("8bit", "bf16", "fp8"), ("8bit", "bf16", "nf4")]
    if shards > 1:
        rows = [("fp32", "fp32", "bf16"), ("8bit", "fp32", "bf16"), ("8bit", "bf16", "bf16")]
    found = {}
    for states, gradients, frozen in rows:
        if config.parameters == "all" and frozen != "bf16":
            continue
        dtypes = {"name": "adamw", "states": states, "gradients": gradients, "ema_offload": True}
        optimizer: OptimizerConfig = config.optimizer.model_copy(update=dtypes)
        other = config.model_copy(update={"optimizer": optimizer, "frozen_dtype": frozen})
        base = "" if config.parameters == "all" else f", frozen {frozen}"
        counted = counts(transformer, heads, other, precision)
        if shards > 1:
            counted = sharded(counted, transformer, other, precision, shards)
        found[f"states {states}, gradients {gradients}{base}"] = counted.bytes_on(DEVICE)
    return found


def transformer_config(config: RunConfig) -> dict[str, Any]:
    """The config of the transformer that stage unified trains: of the folder it starts from, or of the settings."""
    if config.mixture is not None:
        return _of_folder(named_folder(config.mixture, "mixture"))
    if config.dense is not None:
        dense = _of_folder(named_folder(config.dense, "dense"))
    else:
        dense = {**DENSE_DEFAULTS, **_dimensions(config), **config.transformer.model_dump()}
    if config.moe is not None:
        names = ("num_moe_blocks", "num_experts", "top_k", "gate", "gate_input")
        return dense | {name: getattr(config.moe, name) for name in names}
    if config.wide is not None:
        return dense | {"num_wide_blocks": config.wide.num_blocks, "wide_factor": config.wide.factor}
    return dense


def _of_folder(folder: Path) -> dict[str, Any]:
    saved = read_object(folder / "transformer" / "config.json")
    return {name: value for name, value in saved.items() if not name.startswith("_")}


def _dimensions(config: RunConfig) -> dict[str, int]:
    """What the components say about the transformer. Those of Qwen-Image where they are not there yet."""
    if config.components is None:
        z_dim, width = config.autoencoder.z_dim, config.text_encoder.hidden_size
    elif (folder := components_path(config.components)).is_dir():
        z_dim = read_object(folder / "vae" / "config.json")["z_dim"]
        text = read_object(folder / "text_encoder" / "config.json")
        width = text.get("text_config", text)["hidden_size"]
    else:
        return {name: DENSE_DEFAULTS[name] for name in QWEN_IMAGE}
    return {"in_channels": 4 * z_dim, "out_channels": z_dim, "joint_attention_dim": width}


def objective(config: RunConfig, described: Mapping[str, Any]) -> nn.Module | None:
    """The heads of the loss that train with a mixture; None for a dense model."""
    layers = described.get("num_moe_blocks", 0)
    if not layers:
        return None
    loss = config.loss
    return Objective(
        described["num_experts"], loss.semantic_dim, tag_embedding=loss.tag_embedding, head_hidden=loss.head_hidden,
        head_layers=loss.head_layers, signature=loss.signature, num_layers=layers,
    )  # fmt: skip


def _known(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """(the config, notes), with `start` resolved. A folder that is not there yet is planned by the settings."""
    missing = [
        (name, folder)
        for name in ("start", "dense", "mixture", "components")
        if (folder := getattr(config, name)) not in (None, SCRATCH, "packaged")
        and not Path(folder).expanduser().is_dir()
    ]
    if not missing:
        return with_start(config), []
    changes = {name: SCRATCH if name == "start" else None for name, _ in missing if name != "components"}
    notes = [
        f"There is no folder {folder!r} yet ('{name}'), so the sizes are those of the recipe's settings"
        f"{', and its parts are not counted' if name == 'components' else ''}."
        for name, folder in missing
    ]
    return config.model_copy(update=changes), notes
