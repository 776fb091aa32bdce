"""Fit a LoRA of dense Qwen-Image to a mixture: the update of an image FFN goes to every expert made from that FFN.

diffusers alone would drop those layers with a warning. The result is exact as long as the experts are the copies that
upcycling made. For trained experts it is an approximation, because the LoRA was not trained on them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models import QwenImageTransformer2DModel
from diffusers.utils import logging
from torch import Tensor, nn

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.extras import require
from tagmoe.model.loading import HUB_OPTIONS
from tagmoe.model.lora_file import LoraFile, LoraLayer, is_dora_of, read_lora
from tagmoe.sentences import counted

logger = logging.get_logger(__name__)

TRANSFORMER = "transformer."
FILE_OPTIONS = ("weight_name", "subfolder")
DENSE_FFN = re.compile(r"(transformer_blocks\.\d+\.img_mlp)\.(net\.(?:0\.proj|2))")
EXPERT = re.compile(r"(transformer_blocks\.\d+\.img_mlp)\.experts\.0\.(net\.(?:0\.proj|2))")


@dataclass(frozen=True)
class LoraReport:
    """What happened to the layers in a LoRA file. Each layer is counted as loaded, broadcast or dropped.

    loaded: layers applied to the layer of the same name. broadcast: layers of a dense image FFN, applied to all experts
    made from it. experts: how many layers of experts those became. dropped: names of layers the model does not have.
    alpha: where the file states alpha, from which the strength of each layer is computed once; see
    `tagmoe.model.lora_file`. strengths: the smallest and the largest strength, alpha / rank.
    """

    adapter: str
    loaded: int
    broadcast: int
    experts: int
    dropped: tuple[str, ...] = ()
    alpha: str = ""
    strengths: tuple[float, float] = (1.0, 1.0)

    def __str__(self) -> str:
        dropped = f" ({', '.join(self.dropped[:3])}{', ...' if len(self.dropped) > 3 else ''})" if self.dropped else ""
        low, high = (f"{strength:.4g}" for strength in self.strengths)
        return (
            f"LoRA {self.adapter!r}: {counted(self.loaded, 'layer')} loaded, {self.broadcast} broadcast to "
            f"{counted(self.experts, 'layer')} "
            f"of experts, {len(self.dropped)} dropped{dropped}; strength {low if low == high else f'{low} to {high}'} "
            f"(alpha: {self.alpha})"
        )

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {**asdict(self), "dropped": list(self.dropped), "strengths": list(self.strengths)}


def read_and_fit(
    source: str | Path | Mapping[str, Tensor],
    transformer: QwenImageTransformer2DModel,
    adapter_name: str | None,
    *,
    hotswap: bool,
    use_safetensors: bool | None,
    **file_options: Any,
) -> tuple[dict[str, LoraLayer], LoraReport]:
    """Read a LoRA and fit it to this model: (layers by module, report). A missing name becomes "default_0" and so on.

    Raises MissingError without the file or without peft. Raises UsageError for a pickle, a name in use or an option
    that does not apply. Raises CheckpointError as `read_lora` and `fit_to_mixture` do.
    """
    require("lora", purpose="Loading a LoRA")
    if use_safetensors is False:
        raise UsageError("use_safetensors=False asks for a pickle, which can run code; only safetensors are loaded.")
    unknown = [name for name in file_options if name not in (*FILE_OPTIONS, *HUB_OPTIONS)]
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} is no option of loading a LoRA; give {', '.join((*FILE_OPTIONS, *HUB_OPTIONS))}."
        )
    file = read_lora(source, module_names(transformer), **file_options)
    in_use = getattr(transformer, "peft_config", {})
    if adapter_name is None:
        adapter_name = next(name for name in (f"default_{i}" for i in range(len(in_use) + 1)) if name not in in_use)
    elif adapter_name in in_use and not hotswap:
        raise UsageError(f"The adapter name {adapter_name!r} is in use; give another, or delete_adapters first.")
    if hotswap and adapter_name not in in_use:
        raise UsageError(f"hotswap replaces an adapter that is loaded, and {adapter_name!r} is not; load it first.")
    layers, report = fit_to_mixture(file, transformer, adapter_name)
    if report.broadcast or report.dropped:
        logger.warning(str(report))
    return layers, report


class LoraAdapterMixin:
    """`load_lora_adapter` of a transformer, which reads alpha and knows experts; the rest is diffusers'."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        prefix: str | None = TRANSFORMER.rstrip("."),
        hotswap: bool = False,
        *,
        adapter_name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        network_alphas: Mapping[str, float] | None = None,
        low_cpu_mem_usage: bool = False,
        use_safetensors: bool | None = None,
        _pipeline: Any = None,
        **options: Any,
    ) -> LoraReport | None:
        """As `load_lora_weights` of the pipeline: a LoRA in the names of any tool, exact or refused, and its report.

        prefix: "transformer" or None, which are read alike. With `metadata` (peft's settings, as a pipeline gives them)
        diffusers' own method runs, as on a DoRA that it saved from such a model. network_alphas: {layer.alpha: value},
        as stock pipelines read them from a file. Raises as `read_and_fit`.
        """
        load = super().load_lora_adapter  # type: ignore[misc]
        source = pretrained_model_name_or_path_or_dict
        if metadata is not None or is_dora_of(source, dict(self.named_modules()), **options):  # type: ignore[attr-defined]
            load(
                source, prefix, hotswap, adapter_name=adapter_name, metadata=metadata, use_safetensors=True,
                low_cpu_mem_usage=low_cpu_mem_usage, _pipeline=_pipeline, **options,
            )  # fmt: skip
            return None
        if prefix not in (None, TRANSFORMER.rstrip(".")):
            raise UsageError(f"prefix is {prefix!r}; only a LoRA of a transformer can be loaded: leave prefix out.")
        if network_alphas and isinstance(source, Mapping):
            source = {**source, **{name: torch.tensor(float(value)) for name, value in network_alphas.items()}}
        layers, report = read_and_fit(
            source, self, adapter_name, hotswap=hotswap, use_safetensors=use_safetensors, **options
        )
        load(
            tensors_of(layers), TRANSFORMER.rstrip("."), hotswap, adapter_name=report.adapter, _pipeline=_pipeline,
            metadata=peft_settings(layers), low_cpu_mem_usage=low_cpu_mem_usage,
        )  # fmt: skip
        return report


def module_names(transformer: nn.Module) -> list[str]:
    """The names that a LoRA of this model, or of the dense model it came from, may use."""
    names = [name for name, module in transformer.named_modules() if _is_linear(module)]
    return names + [EXPERT.sub(r"\1.\2", name) for name in names if EXPERT.fullmatch(name)]


def fit_to_mixture(
    file: LoraFile, transformer: QwenImageTransformer2DModel, adapter: str
) -> tuple[dict[str, LoraLayer], LoraReport]:
    """The layers by the modules that `transformer` has, and a report of what happened to each layer of the file.

    Exact upcycling multiplied the FFN's output layer by `expert_scale`, so its strength is multiplied by it too. Each
    module gets tensors of its own, so that training one expert leaves the others alone.
    Raises CheckpointError when a layer is of another size, or when none fits.
    """
    modules = dict(transformer.named_modules())
    num_experts = getattr(transformer.config, "num_experts", 0)
    expert_scale = getattr(transformer.config, "expert_scale", 1.0)
    fitted: dict[str, LoraLayer] = {}
    broadcast, dropped = 0, []
    for name, layer in file.layers.items():
        ffn = DENSE_FFN.fullmatch(name)
        if _is_linear(modules.get(name)):
            targets, scale = [name], 1.0
        elif ffn and f"{ffn[1]}.experts" in modules:
            targets = [f"{ffn[1]}.experts.{index}.{ffn[2]}" for index in range(num_experts)]
            scale = expert_scale if ffn[2] == "net.2" else 1.0
            broadcast += 1
        else:
            dropped.append(name)
            continue
        for target in targets:
            _check_size(target, layer, modules[target], file.label)
            fitted[target] = replace(_own(layer, transformer.dtype), strength=layer.strength * scale)
    if not fitted:
        raise CheckpointError(
            f"{file.label} has no layer that this model has (first: {dropped[0] if dropped else 'none'}); "
            "give a LoRA of a Qwen-Image transformer."
        )
    strengths = [layer.strength for layer in file.layers.values()]
    return fitted, LoraReport(
        adapter,
        loaded=len(file.layers) - broadcast - len(dropped),
        broadcast=broadcast,
        experts=broadcast * num_experts,
        dropped=(*sorted(dropped), *file.others),
        alpha=" and ".join(sorted({layer.alpha_from for layer in file.layers.values()})),
        strengths=(min(strengths), max(strengths)),
    )


def tensors_of(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """The state dict that diffusers loads: two matrices a module, and a bias where any of them has one."""
    has_bias = any(layer.bias is not None for layer in layers.values())
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{TRANSFORMER}{name}.lora_A.weight"] = layer.down
        tensors[f"{TRANSFORMER}{name}.lora_B.weight"] = layer.up
        if has_bias:
            bias = layer.up.new_zeros(layer.up.shape[0]) if layer.bias is None else layer.bias
            tensors[f"{TRANSFORMER}{name}.lora_B.bias"] = bias
    return tensors


def peft_settings(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """peft's LoraConfig as diffusers takes it. The most common rank and alpha are for all, patterns name the others."""
    ranks = {name: layer.down.shape[0] for name, layer in layers.items()}
    alphas = {name: layer.strength * ranks[name] for name, layer in layers.items()}
    (rank, _), (alpha, _) = (Counter(values.values()).most_common(1)[0] for values in (ranks, alphas))
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{name}": value for name, value in alphas.items() if value != alpha},
        "target_modules": list(layers),
        "lora_bias": any(layer.bias is not None for layer in layers.values()),
    }
    return {f"{TRANSFORMER}{name}": value for name, value in settings.items()}


def _is_linear(module: nn.Module | None) -> bool:
    """Whether the module can take a LoRA: a linear layer, which may be quantised or have an adapter already."""
    return isinstance(module, nn.Linear) or hasattr(module, "base_layer")


def _own(layer: LoraLayer, dtype: torch.dtype) -> LoraLayer:
    """A copy. A product needs at least 16 bits, so tensors of 8 bits become the model's dtype, which loses nothing."""

    def copy(part: Tensor) -> Tensor:
        return part.to(dtype) if part.dtype.itemsize == 1 else part.clone()

    return replace(
        layer, down=copy(layer.down), up=copy(layer.up), bias=None if layer.bias is None else copy(layer.bias)
    )


def _check_size(name: str, layer: LoraLayer, module: Any, label: str) -> None:
    shape = (layer.up.shape[0], layer.down.shape[1])
    if shape != (module.out_features, module.in_features):
        raise CheckpointError(
            f"{label} is for another model: its update of {name!r} is {shape[0]}x{shape[1]} and the layer "
            f"{module.out_features}x{module.in_features}."
        )
