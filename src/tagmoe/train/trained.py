"""What trains in the unified stage: everything, the mixtures alone, or low-rank updates (`parameters` of a recipe)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn

from tagmoe.config import LoraConfig, RunConfig
from tagmoe.errors import ConfigError
from tagmoe.extras import require
from tagmoe.sentences import cut
from tagmoe.train.frozen import is_kept, keep_frozen

MIXTURE = ".img_mlp.experts.", ".img_mlp.gate."
ADAPTER = "default"


class TrainedPart(nn.Module):
    """The parameters of a module that train, under the module's own names; the rest is not saved or averaged.

    Its `state_dict` shares memory with the module. `load_state_dict` takes exactly these names.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that train."""
        return ((n, p) for n, p in self.module.named_parameters(*args, **kwargs) if p.requires_grad)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Those that train, without a graph."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Copy the tensors into the module. Raises RuntimeError for other names or shapes, as torch does."""
        own = self.state_dict()
        for name in own.keys() ^ state_dict.keys():
            raise RuntimeError(f"{name} is in one of the checkpoint and what trains, and not in the other")
        for name, value in state_dict.items():
            if own[name].shape != value.shape:
                raise RuntimeError(f"{name} has the shape {tuple(value.shape)}, not {tuple(own[name].shape)}")
            own[name].copy_(value)


def trained_part(module: nn.Module) -> nn.Module:
    """The module itself where all of it trains, else the part that does."""
    return module if all(p.requires_grad for p in module.parameters()) else TrainedPart(module)


def choose_trained(transformer: QwenImageTransformer2DModel, config: RunConfig) -> None:
    """Freeze what `config.parameters` leaves out, add the LoRA, and keep what is frozen in `config.frozen_dtype`.

    What trains is in fp32. Before the first mixture (or LoRA) nothing needs a gradient, so autograd builds no graph.
    Raises ConfigError for a model without mixtures, and for LoRA modules that it has not.
    """
    mark_trained(transformer, config)
    if config.parameters == "all" or config.frozen_dtype == "fp32":
        return
    keep_frozen(transformer, config.frozen_dtype)
    # A model that was read in bf16: what trains and what no frozen_dtype takes is in fp32.
    kept = {id(p) for m in transformer.modules() if is_kept(m) for p in m.parameters(recurse=False)}
    for parameter in transformer.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.float()


def mark_trained(transformer: QwenImageTransformer2DModel, config: RunConfig) -> None:
    """The first half of `choose_trained`: what trains is marked so, and LoRA are added."""
    if config.parameters == "all":
        return
    transformer.requires_grad_(False)
    if config.parameters == "moe":
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(any(part in name for part in MIXTURE))
        if not any(p.requires_grad for p in transformer.parameters()):
            raise ConfigError(
                "The setting 'parameters' is 'moe', but the model to start from has no mixture; give a mixture as "
                "'start', or leave 'moe' in the recipe so that a dense model is upcycled."
            )
    else:
        _add_lora(transformer, config.lora, config.seed)


def _add_lora(transformer: Any, lora: LoraConfig, seed: int) -> None:
    require("lora", purpose="The setting 'parameters: lora'")
    from peft import LoraConfig as PeftConfig

    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for wanted in lora.modules:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in linears):
            raise ConfigError(
                f"The setting 'lora.modules' holds {cut(wanted)!r}, but no linear layer of the transformer has this "
                "end of a name; to_q, to_k, to_v, to_out.0, net.0.proj and net.2 are some that it has."
            )
    # Gates compute in fp32 by their own class, which PEFT would replace.
    names = [
        name
        for name in linears
        if ".gate." not in name and any(name == wanted or name.endswith(f".{wanted}") for wanted in lora.modules)
    ]
    with torch.random.fork_rng(devices=[]), _stand_ins(transformer):
        torch.manual_seed(seed)
        transformer.add_adapter(
            PeftConfig(r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=names), adapter_name=ADAPTER
        )


@contextmanager
def _stand_ins(module: nn.Module) -> Iterator[None]:
    """Inside it, weights without numbers or in fewer bits are views of a single fp32 zero. PEFT gives a LoRA the device
    and the dtype of its layer: the numbers that were drawn would be lost, or rounded."""
    replaced = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if parameter is not None and (parameter.is_meta or parameter.dtype != torch.float32)
    ]
    for part, name, parameter in replaced:
        zeros = torch.zeros(()).expand(parameter.shape)
        part._parameters[name] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
    try:
        yield
    finally:
        for part, name, parameter in replaced:
            part._parameters[name] = parameter


def save_lora(transformer: nn.Module, folder: Path) -> None:
    """Write pytorch_lora_weights.safetensors in the names that diffusers reads, with PEFT's settings in its header."""
    from diffusers.loaders import QwenImageLoraLoaderMixin
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    QwenImageLoraLoaderMixin.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=ADAPTER),
        **_collate_lora_metadata({"transformer": transformer}),
    )
