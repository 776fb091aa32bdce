"""Load LoRA of dense Qwen-Image into a mixture: the update of an image FFN goes to every expert made from that FFN.

diffusers alone would drop those layers with a warning. The result is exact as long as the experts are the copies that
upcycling made. For trained experts it is an approximation, because the LoRA was not trained on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffusers.loaders import QwenImageLoraLoaderMixin
from diffusers.models import QwenImageTransformer2DModel
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.extras import require
from tagmoe.files.hub import local_folder

logger = logging.get_logger(__name__)

TRANSFORMER = "transformer."
METADATA = "lora_adapter_metadata"
# diffusers' own name is preferred. A folder with one single file is unambiguous too.
WEIGHT_NAME = "pytorch_lora_weights.safetensors"
DENSE_FFN = re.compile(r"(transformer_blocks\.\d+\.img_mlp)\.(net\.(?:0\.proj|2))")
# Names of text encoders in kohya's and diffusers' files. This pipeline loads no LoRA into its text encoder.
OTHER_PARTS = ("lora_te", "text_encoder.", "text_encoders.")
KINDS_OF_OTHERS = {".lokr_": "LoKr", ".hada_": "LoHa", ".oft_": "OFT", "dora_scale": "DoRA", "magnitude_vector": "DoRA"}


@dataclass(frozen=True)
class LoraReport:
    """What happened to the layers in a LoRA file. Each layer is counted as loaded, broadcast or dropped.

    loaded: layers applied to the layer of the same name. broadcast: layers of a dense image FFN, applied to all experts
    made from it. experts: how many layers of experts those became. dropped: names of layers the model does not have.
    """

    adapter: str
    loaded: int
    broadcast: int
    experts: int
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        dropped = f" ({', '.join(self.dropped[:3])}{', ...' if len(self.dropped) > 3 else ''})" if self.dropped else ""
        return (
            f"LoRA {self.adapter!r}: {self.loaded} layers loaded, {self.broadcast} broadcast to {self.experts} layers "
            f"of experts, {len(self.dropped)} dropped{dropped}"
        )

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {**asdict(self), "dropped": list(self.dropped)}


class LoraLoaderMixin(QwenImageLoraLoaderMixin):
    """diffusers' LoRA methods for `TagMoEPipeline`. `load_lora_weights` also handles experts."""

    transformer: QwenImageTransformer2DModel

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> LoraReport:
        """Load a LoRA in diffusers', ComfyUI's (`diffusion_model.`) or kohya's (`lora_unet_`) names, and report.

        From a safetensors file, a folder or hub repository that holds one (`weight_name` picks it), or a state dict;
        other keyword arguments are those of diffusers. Scale it with `set_adapters`.

        Raises MissingError without the file or without peft, UsageError for a pickle or a name in use. Raises
        CheckpointError for a damaged file, another kind than LoRA, layers of other sizes, or when no layer fits.
        """
        require("lora", purpose="Loading a LoRA")
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            label, weights = "state dict", dict(source)
        else:
            file = lora_file(source, kwargs.pop("weight_name", None))
            label, weights = str(file), read_lora(file)
        layers, elsewhere = self._layers(weights, label)
        if adapter_name is None:
            adapter_name = _free_name(self.transformer)
        elif adapter_name in getattr(self.transformer, "peft_config", {}) and not hotswap:
            raise UsageError(f"The adapter name {adapter_name!r} is in use; give another, or delete_adapters first.")
        fitted, report = fit_to_mixture(layers, self.transformer, adapter_name, label)
        report = replace(report, dropped=(*report.dropped, *elsewhere))
        super().load_lora_weights(fitted, adapter_name=adapter_name, hotswap=hotswap, **kwargs)
        if report.broadcast or report.dropped:
            logger.warning(str(report))
        return report

    def _layers(self, weights: dict[str, Tensor], label: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The transformer's layers in diffusers' names, and the names of layers for other components."""
        for mark, kind in KINDS_OF_OTHERS.items():
            if any(mark in key for key in weights):
                raise CheckpointError(f"{label!r} is of the kind {kind}; only plain LoRA can be loaded.")
        others = {key for key in weights if key.startswith(OTHER_PARTS)}
        # The prefix is removed, because for a file with alphas diffusers would add it a second time.
        kept = {key.removeprefix(TRANSFORMER): value for key, value in weights.items() if key not in others}
        try:
            layers: dict[str, Tensor] = self.lora_state_dict(kept)
        except (KeyError, ValueError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{label!r} is no LoRA of a Qwen-Image transformer ({reason}).") from error
        if not any("lora" in key for key in layers):
            raise CheckpointError(f"{label!r} holds no LoRA of a Qwen-Image transformer; give another file.")
        return layers, tuple(sorted({_layer_name(key) for key in others}))


def fit_to_mixture(
    layers: Mapping[str, Tensor], transformer: QwenImageTransformer2DModel, adapter: str, label: str = "the LoRA"
) -> tuple[dict[str, Tensor], LoraReport]:
    """A LoRA for the modules that `transformer` has, in diffusers' names, and a report of what happened to each layer.

    Exact upcycling multiplied the FFN's output layer by `expert_scale`, so its update is multiplied by it too.
    Raises CheckpointError when a layer is incomplete or of another size, or when none fits.
    """
    modules = dict(transformer.named_modules())
    num_experts = getattr(transformer.config, "num_experts", 0)
    expert_scale = getattr(transformer.config, "expert_scale", 1.0)
    fitted: dict[str, Tensor] = {}
    loaded, broadcast, dropped = 0, 0, []
    for name, parts in _by_layer(layers).items():
        ffn = DENSE_FFN.fullmatch(name)
        if _is_linear(modules.get(name)):
            targets, scale = [name], 1.0
            loaded += 1
        elif ffn and f"{ffn[1]}.experts" in modules:
            targets = [f"{ffn[1]}.experts.{index}.{ffn[2]}" for index in range(num_experts)]
            scale = expert_scale if ffn[2] == "net.2" else 1.0
            broadcast += 1
        else:
            dropped.append(name)
            continue
        for target in targets:
            _check_layer(target, parts, modules[target], label)
            for part, value in parts.items():
                is_output = part.startswith("lora_B")
                fitted[f"{TRANSFORMER}{target}.{part}"] = value * scale if is_output and scale != 1 else value
    if not fitted:
        raise CheckpointError(
            f"{label!r} has no layer that this model has (first: {dropped[0] if dropped else 'none'}); "
            "give a LoRA of a Qwen-Image transformer."
        )
    return fitted, LoraReport(adapter, loaded, broadcast, broadcast * num_experts, tuple(sorted(dropped)))


def _by_layer(layers: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{module: {"lora_A.weight": A, "lora_B.weight": B, ...}}. Every key must belong to a layer."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in layers.items():
        name = _layer_name(key)
        found.setdefault(name, {})[key.removeprefix(TRANSFORMER).removeprefix(f"{name}.")] = value
    return found


def _layer_name(key: str) -> str:
    """The module that a key of a LoRA file belongs to."""
    return re.split(r"\.(?:lora_|alpha$|diff)", key.removeprefix(TRANSFORMER), maxsplit=1)[0]


def _is_linear(module: nn.Module | None) -> bool:
    """Whether the module can take a LoRA: a linear layer, which may be quantised or have an adapter already."""
    return isinstance(module, nn.Linear) or hasattr(module, "base_layer")


def _check_layer(name: str, parts: Mapping[str, Tensor], module: Any, label: str) -> None:
    down, up = parts.get("lora_A.weight"), parts.get("lora_B.weight")
    if down is None or up is None or down.ndim != 2 or up.ndim != 2:
        raise CheckpointError(f"{label!r} is incomplete: {name!r} needs the two matrices lora_A and lora_B.")
    shape = (up.shape[0], down.shape[1])
    if shape != (module.out_features, module.in_features) or up.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{label!r} is for another model: its update of {name!r} is {shape[0]}x{shape[1]} and the layer "
            f"{module.out_features}x{module.in_features}."
        )


def _free_name(transformer: Any) -> str:
    taken = getattr(transformer, "peft_config", {})
    return next(name for name in (f"default_{index}" for index in range(len(taken) + 1)) if name not in taken)


def lora_file(source: str | Path, weight_name: str | None = None) -> Path:
    """The safetensors file that `source` (a file, folder or hub repository) means. Raises MissingError, UsageError."""
    path = Path(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(
                f"The LoRA {str(path)!r} is no .safetensors file; a pickle can run code when it is read, so only "
                "safetensors are loaded."
            )
        return path
    if path.suffix == ".safetensors":
        raise MissingError(f"There is no LoRA file {str(path)!r}; check the path.")
    folder = local_folder(source)
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    name = weight_name or (WEIGHT_NAME if WEIGHT_NAME in files or len(files) != 1 else files[0])
    if name not in files:
        raise MissingError(
            f"The folder {str(folder)!r} holds no {name!r} but {', '.join(files[:4]) or 'no safetensors'}; "
            "give the file itself, or its name as weight_name."
        )
    return folder / name


def read_lora(file: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file, multiplied by the scale in its metadata (alpha / rank, as peft saves it).

    Raises CheckpointError when the file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            weights = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        settings = json.loads(metadata.get(METADATA, "{}"))
        scales = {name: _scale(settings, name, value) for name, value in weights.items() if ".lora_B." in name}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{str(file)!r} is damaged ({reason}); copy or download it again.") from error
    return {key: value * scales[key] if scales.get(key, 1.0) != 1.0 else value for key, value in weights.items()}


def _scale(settings: Mapping[str, Any], key: str, up: Tensor) -> float:
    """alpha / rank (or / sqrt(rank) for rsLoRA) of one layer by the peft settings of its component; 1 without any."""
    part = key.split(".", 1)[0]
    own = {name.removeprefix(f"{part}."): value for name, value in settings.items() if name.startswith(f"{part}.")}
    if "lora_alpha" not in own:
        return 1.0
    from peft.utils.other import get_pattern_key

    name = _layer_name(key)
    patterns = own.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns.keys(), name), own["lora_alpha"]))
    rank = up.shape[1] if up.ndim == 2 else float(own["r"])
    return alpha / (rank**0.5 if own.get("use_rslora") else rank)
