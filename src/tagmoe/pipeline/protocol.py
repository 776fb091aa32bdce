"""What diffusers expects of every pipeline beside its call: the state of a run, missing parts, saving, `from_pipe`.

Parts may be missing: a pipeline of tokenizer and text encoder encodes prompts, one without them takes embeddings. Parts
may be wrapped (compiled, distributed): they are called as they are, and read and saved without their wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import nn

from tagmoe.errors import UsageError
from tagmoe.model.wrapping import unwrapped
from tagmoe.pipeline.card import card_of
from tagmoe.pipeline.folder import ALIGNMENT

P = ParamSpec("P")
T = TypeVar("T")
# What to do instead, where a part is missing.
INSTEAD = {
    "transformer": "load the pipeline with one, as only encoding and decoding work without it",
    "vae": 'ask for output_type="latent" and give no image, or load the pipeline with one',
    "text_encoder": "give prompt_embeds, and negative_prompt_embeds or true_cfg_scale=1, or load the pipeline with one",
    "tokenizer": "give prompt_embeds, and negative_prompt_embeds or true_cfg_scale=1, or load the pipeline with one",
    "scheduler": "load the pipeline with one",
}


def on_one_device(call: Callable[P, T]) -> Callable[P, T]:
    """Find the device once in a call of a pipeline: each time diffusers goes through all modules of all parts."""

    @wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        pipeline: Any = args[0]
        pipeline._device_of_call = pipeline._execution_device
        try:
            return call(*args, **kwargs)
        finally:
            pipeline._device_of_call = None

    return called


class PipelineProtocol(DiffusionPipeline):
    """A diffusers pipeline whose parts may be missing or wrapped."""

    # W_tag and H_pred that were trained with this model, by their names in `Objective`. Inference does not need them.
    alignment: Mapping[str, torch.Tensor] | None = None
    reads_parts_again: bool = False
    """Whether parts are read from their folder when they are called (`tagmoe.pipeline.memory.turns`)."""
    _num_timesteps: int = 0
    _current_timestep: torch.Tensor | None = None
    _guidance_scale: float | None = None
    _attention_kwargs: dict[str, Any] | None = None
    _interrupt: bool = False
    _device_of_call: torch.device | None = None

    @property
    def _execution_device(self) -> torch.device:
        return self._device_of_call or super()._execution_device

    @property
    def num_timesteps(self) -> int:
        """How many timesteps the latest call has; 0 before the first."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """The timestep that is being computed; None outside a call."""
        return self._current_timestep

    @property
    def guidance_scale(self) -> float | None:
        """The scale that a guidance-distilled model gets. A callback may change `_guidance_scale` for the next step."""
        return self._guidance_scale

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """What the latest call hands to the attention processors."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """True once a callback or another thread has set `_interrupt`; then the remaining steps are skipped."""
        return self._interrupt

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes: the device of a part on an accelerator, else of the first part with numbers."""
        parts = [unwrapped(part) for part in self.components.values() if isinstance(part, nn.Module)]
        devices = [part.device for part in parts]
        found = [device for device in devices if device.type not in ("cpu", "meta")]
        return next(iter(found or [device for device in devices if device.type != "meta"]), torch.device("cpu"))

    def part(self, name: str) -> Any:
        """A part without its wrapper, to read its config and dtype. Raises UsageError when the pipeline lacks it."""
        part = getattr(self, name)
        if part is None:
            raise UsageError(f"This pipeline has no {name}; {INSTEAD[name]}.")
        return unwrapped(part)

    @contextmanager
    def bare_parts(self) -> Iterator[None]:
        """Take the wrappers off while a block runs: diffusers passes over wrapped parts when it saves or loads LoRA."""
        wrapped = {name: part for name, part in self.components.items() if unwrapped(part) is not part}
        for name, part in wrapped.items():
            setattr(self, name, unwrapped(part))
        try:
            yield
        finally:
            for name, part in wrapped.items():
                setattr(self, name, part)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """diffusers' `to`: move the parts, or change their dtype, in place. Wrappers stay."""
        with self.bare_parts():
            return super().to(*args, **kwargs)

    def save_pretrained(self, save_directory: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """diffusers' `save_pretrained`; `alignment` goes into alignment.safetensors beside model_index.json.

        Weights always become safetensors, whatever `safe_serialization` says: `from_pretrained` reads no pickle, which
        can run code. Missing parts are null in model_index.json, and loaded as missing. A README.md that says how to
        open the folder is added where there is none.
        """
        # diffusers warns about parts that it cannot save unless they are optional. A missing part is not worth that.
        self._optional_components = [name for name, part in self.components.items() if part is None]
        try:
            with self.bare_parts():
                super().save_pretrained(save_directory, safe_serialization=True, **kwargs)
        finally:
            del self._optional_components
        if self.alignment:
            weights = {name: value.contiguous() for name, value in self.alignment.items()}
            save_file(weights, Path(save_directory) / ALIGNMENT, metadata={"format": "pt"})
        card = Path(save_directory) / "README.md"
        if not card.exists():
            card.write_text(card_of(self.config, unwrapped(self.transformer)), encoding="utf-8")

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """A pipeline of this class with the parts of another one of Qwen-Image, without a copy. Keywords replace parts.

        As in diffusers, all parts become float32 unless `dtype` says another. Settings of a checkpoint (template, known
        words, defaults) survive a way through diffusers' classes. Raises UsageError when parts are missing.
        """
        try:
            made = super().from_pipe(pipeline, **kwargs)
        except ValueError as error:
            raise UsageError(
                f"A {type(pipeline).__name__} does not have all parts of a {cls.__name__}; give those that are missing "
                f"as keywords ({' '.join(str(error).split())})."
            ) from None
        made.alignment = getattr(pipeline, "alignment", None)
        return made

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """diffusers' choice of arguments for the constructor, without components of other Qwen-Image pipelines.

        Qwen-Image's editing pipelines name a `processor`, which is not needed here. A warning about it would only
        confuse.
        """
        known = cls._get_init_keys(cls)
        ours = {name: value for name, value in config_dict.items() if name in known or name.startswith("_")}
        return super().extract_init_dict(ours, **kwargs)
