"""Loading a pipeline by a plan, with the means of diffusers: quantisation, component and group offload, VAE tiling."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tagmoe.errors import UsageError
from tagmoe.extras import require
from tagmoe.pipeline.memory.plans import MemoryPlan
from tagmoe.pipeline.memory.sizes import UNQUANTISED

if TYPE_CHECKING:
    from diffusers.quantizers import PipelineQuantizationConfig

    from tagmoe.pipeline.pipeline import TagMoEPipeline

LIBRARY = "bitsandbytes"


def load_pipeline(
    folder: str | Path, plan: MemoryPlan, device: str | torch.device, *, offload_folder: str | Path | None = None
) -> TagMoEPipeline:
    """The pipeline in `folder`, kept as `plan` says and running on `device`.

    Full precision is bf16 on a GPU; on a CPU it is fp32, beside quantised weights bf16. offload_folder: an empty folder
    (or none yet) for the weights that group offload would keep in host memory; every step then reads them again. With
    the CPU as device only this takes them out of memory.
    Raises MissingError when the folder or the quantisation library is not there, CheckpointError for a bad folder.
    """
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    device = torch.device(device)
    if offload_folder is not None and plan.offload != "group":
        raise UsageError(f"The plan {plan.name!r} offloads nothing to a folder; leave offload_folder out.")
    on_cpu = device.type == "cpu"
    dtype = torch.float32 if on_cpu and not plan.is_quantised else torch.bfloat16
    options: dict[str, Any] = {"dtype": dtype}
    if plan.is_quantised:
        check_library()
        options["quantization_config"] = quantisation(plan)
    # bitsandbytes quantises on the current GPU; what is loaded in full precision goes to the device afterwards.
    with _quantising_on_cpu() if on_cpu else torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        pipeline = TagMoEPipeline.from_pretrained(folder, **options)
    if on_cpu and plan.is_quantised:
        without_packed_kernel(pipeline.transformer)
        without_packed_kernel(pipeline.text_encoder)
    if plan.vae_tiling:
        pipeline.vae.enable_tiling()
    if plan.offload == "component":
        pipeline.enable_model_cpu_offload(device=device)
    elif plan.offload == "group":
        _offload_groups(pipeline, device, offload_folder)
    elif not on_cpu:
        pipeline.to(device)
    return pipeline


def check_library() -> None:
    """Raises MissingError, naming the install line, when the quantisation library is not installed."""
    require("memory", purpose="A model with 8-bit or 4-bit weights")
    # It says one line for every layer and step that an input is cast.
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)


def quantisation(plan: MemoryPlan) -> PipelineQuantizationConfig:
    """What diffusers and transformers are told for a plan: which layers of which component get how many bits."""
    import diffusers
    import transformers
    from diffusers.quantizers import PipelineQuantizationConfig

    forms = {"transformer": plan.transformer, "text_encoder": plan.text_encoder}
    libraries = {"transformer": diffusers, "text_encoder": transformers}
    mapping = {
        part: libraries[part].BitsAndBytesConfig(llm_int8_skip_modules=list(UNQUANTISED[part]), **_bits(form))
        for part, form in forms.items()
        if form != "full"
    }
    return PipelineQuantizationConfig(quant_mapping=mapping)


def offload_blocks(transformer: torch.nn.Module, device: torch.device, folder: str | Path | None = None) -> None:
    """Keep a transformer in host memory, or in files in `folder`, and bring its blocks over one by one.

    On a GPU the next block is copied while this one computes, for which the host memory is pinned.
    """
    from diffusers.hooks import apply_group_offloading

    streams = device.type == "cuda"
    apply_group_offloading(
        transformer,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=streams,
        record_stream=streams,
        offload_to_disk_path=None if folder is None else str(folder),
    )


def _offload_groups(pipeline: TagMoEPipeline, device: torch.device, folder: str | Path | None) -> None:
    from diffusers.hooks import apply_group_offloading

    if folder is not None and Path(folder).exists() and any(Path(folder).iterdir()):
        # diffusers takes what it finds under its file names for what it wrote, even if it is of another model.
        raise UsageError(f"The offload folder {str(folder)!r} is not empty; give an empty one.")
    places = {name: None if folder is None else Path(folder) / name for name in ("transformer", "text_encoder")}
    offload_blocks(pipeline.transformer, device, places["transformer"])
    # Its blocks lie deeper than diffusers looks for any, so layer by layer.
    apply_group_offloading(
        pipeline.text_encoder,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        offload_to_disk_path=None if places["text_encoder"] is None else str(places["text_encoder"]),
    )
    pipeline.vae.to(device)


def _bits(form: str) -> dict[str, Any]:
    if form == "8-bit":
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}


def without_packed_kernel(model: torch.nn.Module) -> None:
    """On a CPU, have the 4-bit layers of a model unpack their weights and use torch's own product.

    The kernel that bitsandbytes prefers there divides by the number of rows, and dies with an expert that gets none.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def _quantising_on_cpu() -> Iterator[None]:
    """Let the libraries quantise on the processor, inside this block only.

    diffusers refuses without a GPU, a check that is older than the CPU kernels of bitsandbytes; both libraries would
    choose a GPU where there is one.
    """
    from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
    from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

    diffusers_classes = (BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer)
    changes: list[tuple[type, str, Any]] = [
        (cls, "update_device_map", lambda self, device_map: {"": "cpu"})
        for cls in (*diffusers_classes, Bnb4BitHfQuantizer, Bnb8BitHfQuantizer)
    ]
    changes += [(cls, "validate_environment", lambda self, *args, **kwargs: None) for cls in diffusers_classes]
    kept = [(cls, name, cls.__dict__[name]) for cls, name, _ in changes]
    try:
        for cls, name, method in changes:
            setattr(cls, name, method)
        yield
    finally:
        for cls, name, method in kept:
            setattr(cls, name, method)
