"""What several ranks start from: each reads its own parts of the weights in a model folder, and no others.

The transformer is made without numbers, shared among the ranks, and then filled. It is the one that a single process
makes of the same folder, to the bit. A dense folder is upcycled on the way: an expert is its block's FFN, and gates are
drawn whole by every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from tagmoe.config import MoEConfig, RunConfig
from tagmoe.errors import CheckpointError
from tagmoe.model.gate import Gate
from tagmoe.sentences import reason_of
from tagmoe.train.mixture import named_folder
from tagmoe.train.ranks import Ranks
from tagmoe.train.sharding import local, spread
from tagmoe.train.shared_checkpoint import agreed
from tagmoe.train.trace import meta_transformer
from tagmoe.weights.layout import is_output_layer, mixture_settings
from tagmoe.weights.shards import read_entries

ADAPTED = ".base_layer."
"""PEFT's mark in the name of a weight that a LoRA is added to."""


@dataclass(frozen=True)
class StartParts:
    """Where the numbers of a transformer come from. folder: its weights. factors: of the numbers of some parameters.
    sources: the names in the folder of parameters that have another there. drawn: parameters that it has not."""

    transformer: Any
    folder: Path
    sources: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


def is_read_by_parts(config: RunConfig) -> bool:
    """Whether ranks can read what a run starts from by parts. Noise, new hidden units and wider FFNs need statistics of
    whole tensors, or draw whole ones; a base that is trained first has no folder."""
    if config.mixture is not None:
        return True
    return (
        config.dense is not None and config.wide is None and not (config.moe and (config.moe.noise or config.moe.drop))
    )


def mixture_parts(source: str, described: Mapping[str, Any]) -> StartParts:
    """The parts of a finished mixture. described: its config."""
    return StartParts(meta_transformer(described), named_folder(source, "mixture") / "transformer")


def dense_parts(source: str, described: Mapping[str, Any], moe: MoEConfig | None, seed: int) -> StartParts:
    """The parts of a dense model, upcycled as `tagmoe.model.upcycle.upcycle` does, where `moe` is given. described: the
    config of the dense model."""
    folder = named_folder(source, "dense") / "transformer"
    if moe is None:
        return StartParts(meta_transformer(described), folder)
    settings = moe.model_dump(include={"num_moe_blocks", "num_experts", "top_k", "gate", "mode"})
    added = mixture_settings(
        num_layers=described["num_layers"], gate_hidden=None, noise=0.0, present=described, **settings
    )
    transformer = meta_transformer({**described, **added, "gate_input": moe.gate_input})
    generator = torch.Generator().manual_seed(seed)
    sources: dict[str, str] = {}
    factors: dict[str, float] = {}
    drawn: dict[str, Tensor] = {}
    for index in range(described["num_layers"] - moe.num_moe_blocks, described["num_layers"]):
        block = f"transformer_blocks.{index}.img_mlp."
        gate = Gate(transformer.inner_dim, moe.num_experts, kind=moe.gate)
        gate.reset_parameters(generator)
        drawn |= {f"{block}gate.{name}": value.detach() for name, value in gate.named_parameters()}
        for name, _ in transformer.get_submodule(f"{block}experts").named_parameters():
            _, _, own = name.partition(".")
            sources[f"{block}experts.{name}"] = f"{block}{own}"
            if is_output_layer(own):
                factors[f"{block}experts.{name}"] = added["expert_scale"]
    return StartParts(transformer, folder, sources, factors, drawn)


def fill_parts(start: StartParts, ranks: Ranks) -> None:
    """Give the transformer, which the ranks share, its numbers. Raises in all of them what `read_parts` raises in
    one."""
    own: dict[str, Tensor] = {}
    agreed(lambda: own.update(read_parts(start, ranks.device)), ranks)
    start.transformer.load_state_dict(own, strict=False, assign=True)


def read_parts(start: StartParts, device: torch.device) -> dict[str, Tensor]:
    """This rank's part of every parameter that the transformer has no numbers of, by its name, sharded as it is.

    Raises CheckpointError for weights that are not those of the transformer, damaged, or not finite.
    """
    wanted = {name: value for name, value in start.transformer.state_dict().items() if local(value).is_meta}
    found: dict[str, Tensor] = {}
    targets: dict[str, list[str]] = {}
    for name, like in wanted.items():
        plain = name.replace(ADAPTED, ".")
        if plain in start.drawn:
            found[name] = spread(start.drawn[plain].to(like.dtype), _on(like, device))
        else:
            targets.setdefault(start.sources.get(plain, plain), []).append(name)
    entries = read_entries(start.folder)
    missing, unknown = (sorted(a - b) for a, b in ((targets.keys(), entries.keys()), (entries.keys(), targets.keys())))
    if missing or unknown:
        raise CheckpointError(
            f"The weights in {str(start.folder)!r} do not match what training starts from; missing: "
            f"{', '.join(missing[:4]) or 'none'}; unexpected: {', '.join(unknown[:4]) or 'none'}."
        )
    by_file: dict[Path, list[str]] = {}
    for source in targets:
        by_file.setdefault(entries[source].file, []).append(source)
    for file, sources in by_file.items():
        try:
            for source in sources:
                # Opened for each tensor: a file stays mapped, and its pages count, for as long as it is open.
                with safe_open(file, framework="pt") as opened:
                    like = wanted[targets[source][0]]
                    if entries[source].shape != tuple(like.shape):
                        raise CheckpointError(
                            f"The weight {source!r} of {str(file)!r} has the shape {entries[source].shape}, not "
                            f"{tuple(like.shape)}."
                        )
                    part = _part(opened, source, like)
                    if part.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(part)):
                        raise CheckpointError(
                            f"The weight {source!r} of {str(file)!r} holds numbers that are not finite; copy or "
                            "download it again."
                        )
                    for name in targets[source]:
                        factor = start.factors.get(name.replace(ADAPTED, "."), 1.0)
                        scaled = part if factor == 1 else part.float() * factor
                        found[name] = _sharded(scaled.to(device, wanted[name].dtype, copy=True), wanted[name])
                del part, scaled
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The weight file {str(file)!r} cannot be read ({reason_of(error)}); copy or download it again."
            ) from error
    return found


def _part(opened: Any, name: str, like: Tensor) -> Tensor:
    """The rows of a stored tensor that this rank keeps; all of one that is not sharded."""
    if not isinstance(like, DTensor):
        whole: Tensor = opened.get_tensor(name)
        return whole
    shape, offset = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
    stored = opened.get_slice(name)
    if not all(shape):
        return torch.empty(shape)
    rows: Tensor = stored[tuple(slice(first, first + size) for first, size in zip(offset, shape, strict=True))]
    return rows


def _sharded(part: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _on(like: Tensor, device: torch.device) -> Tensor:
    """A tensor sharded as `like`, which may have no numbers, on this device."""
    return torch.empty_like(like, device=device)
