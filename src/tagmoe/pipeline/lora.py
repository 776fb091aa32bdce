"""diffusers' LoRA methods for `TagMoEPipeline`. How a LoRA is fitted to experts: `tagmoe.model.lora`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders import QwenImageLoraLoaderMixin
from diffusers.models import QwenImageTransformer2DModel
from torch import Tensor

from tagmoe.errors import UsageError
from tagmoe.model.lora import LoraReport, peft_settings, read_and_fit, tensors_of


def _on_bare_parts(name: str) -> Any:
    """A method of diffusers that runs on the parts without wrappers: in silence it passes over the wrapped ones."""
    method = getattr(QwenImageLoraLoaderMixin, name)

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.bare_parts():
            return method(self, *args, **kwargs)

    return run


class LoraLoaderMixin(QwenImageLoraLoaderMixin):
    """diffusers' LoRA methods for `TagMoEPipeline`. `load_lora_weights` also handles experts."""

    transformer: QwenImageTransformer2DModel
    bare_parts: Any
    part: Any

    unload_lora_weights = _on_bare_parts("unload_lora_weights")
    unfuse_lora = _on_bare_parts("unfuse_lora")
    disable_lora = _on_bare_parts("disable_lora")
    enable_lora = _on_bare_parts("enable_lora")
    delete_adapters = _on_bare_parts("delete_adapters")
    get_active_adapters = _on_bare_parts("get_active_adapters")
    get_list_adapters = _on_bare_parts("get_list_adapters")
    set_lora_device = _on_bare_parts("set_lora_device")
    enable_lora_hotswap = _on_bare_parts("enable_lora_hotswap")

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        *,
        low_cpu_mem_usage: bool = True,
        use_safetensors: bool = True,
        **file_options: Any,
    ) -> LoraReport:
        """Load a LoRA in the names of any tool (diffusers, peft, ComfyUI, kohya, SimpleTuner), and report.

        From a safetensors file, a folder or hub repository that holds one, or a state dict. file_options: weight_name
        and subfolder choose a file; revision, token, cache_dir, local_files_only and force_download are those of the
        hub. Scale it with `set_adapters`.

        Raises MissingError without the file or without peft. Raises UsageError for a pickle, a name in use or an
        option that does not apply. Raises CheckpointError for a damaged file, another kind than LoRA, numbers that are
        not finite, layers of other sizes, or when no layer fits.
        """
        if self.reads_parts_again:
            raise UsageError(
                "A LoRA would be lost: this memory plan reads the weights again in each call; give --memory more, or "
                "use a model into which the LoRA is merged."
            )
        transformer = self.part("transformer")
        layers, report = read_and_fit(
            pretrained_model_name_or_path_or_dict, transformer, adapter_name, hotswap=hotswap,
            use_safetensors=use_safetensors, **file_options,
        )  # fmt: skip
        self.load_lora_into_transformer(
            tensors_of(layers),
            transformer,
            adapter_name=report.adapter,
            metadata=peft_settings(layers),
            _pipeline=self,
            low_cpu_mem_usage=low_cpu_mem_usage,
            hotswap=hotswap,
        )
        return report

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """diffusers' `set_adapters`; strengths must be finite numbers. Raises UsageError."""
        check_strengths(adapter_weights)
        with self.bare_parts():
            super().set_adapters(adapter_names, adapter_weights)

    def fuse_lora(self, components: list[str] | None = None, lora_scale: float = 1.0, **options: Any) -> None:
        """diffusers' `fuse_lora`; the strength must be a finite number. Raises UsageError."""
        check_strengths(lora_scale)
        with self.bare_parts():
            super().fuse_lora(components or ["transformer"], lora_scale, **options)


def check_strengths(strengths: Any) -> None:
    """Raise UsageError for a strength that is no finite number. Lists, and dicts by block, are searched."""
    if isinstance(strengths, Mapping | list | tuple):
        for inner in strengths.values() if isinstance(strengths, Mapping) else strengths:
            check_strengths(inner)
    elif strengths is not None and not math.isfinite(strengths):
        raise UsageError(f"The strength of a LoRA is {strengths}; give a finite number.")
