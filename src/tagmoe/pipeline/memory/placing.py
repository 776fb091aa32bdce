"""Load a pipeline by a memory plan. diffusers does the quantisation, component and group offload, and VAE tiling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tagmoe.errors import UsageError
from tagmoe.extras import require
from tagmoe.model.cpu.bf16 import has_bf16
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

    Full precision is bf16 on a GPU and fp32 on a CPU; beside quantised weights it is bf16, but fp32 on a processor
    without units for bf16, where products in it take ten times as long.
    offload_folder: a new or empty folder for the weights that group offload would keep in host memory. Every step then
    reads them from there. On a CPU this is the only way to take weights out of memory.
    Raises MissingError when the folder or the quantisation library is not there, CheckpointError for a bad folder.
    """
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    device = torch.device(device)
    if offload_folder is not None and plan.offload != "group":
        raise UsageError(f"The plan {plan.name!r} offloads nothing to a folder; leave offload_folder out.")
    on_cpu = device.type == "cpu"
    if plan.offload in ("turns", "disk"):
        if not on_cpu:
            raise UsageError(f"The plan {plan.name!r} is for a CPU; on a GPU parts and blocks are moved to the host.")
        return _in_turns(Path(folder), plan)
    options: dict[str, Any] = {"dtype": compute_dtype(plan, on_cpu=on_cpu)}
    if plan.is_quantised:
        check_library()
        options["quantization_config"] = quantisation(plan, options["dtype"])
    # bitsandbytes quantises on the current GPU. Weights in full precision are moved to the device afterwards.
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


def compute_dtype(plan: MemoryPlan, *, on_cpu: bool) -> torch.dtype:
    """What is computed in, and kept where it is not quantised."""
    if not on_cpu or (plan.is_quantised and has_bf16()):
        return torch.bfloat16
    return torch.float32


def _in_turns(folder: Path, plan: MemoryPlan) -> TagMoEPipeline:
    """A pipeline whose text encoder and transformer are read when they are called."""
    from tagmoe.pipeline.folder import check_model_folder
    from tagmoe.pipeline.memory.turns import Turns, blocks_from_disk, shell_of, take_turns
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    dtype = compute_dtype(plan, on_cpu=True)
    if plan.is_quantised:
        check_library()
    # Found now, and not when the parts are read.
    check_model_folder(folder, given=())
    forms = {"text_encoder": plan.text_encoder, "transformer": plan.transformer}
    shells = {name: shell_of(folder, name, dtype) for name in forms}

    def reader(name: str) -> Callable[[], torch.nn.Module]:
        def read() -> torch.nn.Module:
            options: dict[str, Any] = dict.fromkeys({"text_encoder", "transformer", "vae", "tokenizer"} - {name})
            if forms[name] == "full":
                return TagMoEPipeline.from_pretrained(folder, dtype=dtype, **options).part(name)
            with _quantising_on_cpu():
                options["quantization_config"] = quantisation(plan, dtype, parts=(name,))
                part = TagMoEPipeline.from_pretrained(folder, dtype=dtype, **options).part(name)
            without_packed_kernel(part)
            return part

        return read

    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=dtype, **shells)
    turns = Turns()
    reads = {name: reader(name) for name in forms}
    if plan.offload == "disk":
        del reads["transformer"]
        blocks_from_disk(pipeline.transformer, folder / "transformer", turns, dtype)
    take_turns(pipeline, turns, reads)
    if plan.vae_tiling:
        pipeline.vae.enable_tiling()
    return pipeline


def check_library() -> None:
    """Raises MissingError, naming the install line, when the quantisation library is not installed."""
    require("memory", purpose="A model with 8-bit or 4-bit weights")
    # At its default level it logs a line for every layer and step whose input is cast.
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)


def quantisation(
    plan: MemoryPlan, dtype: torch.dtype = torch.bfloat16, *, parts: Collection[str] = ("transformer", "text_encoder")
) -> PipelineQuantizationConfig:
    """The quantisation settings of a plan for diffusers and transformers: the bits of each component's layers.

    dtype: what 4-bit layers compute in. parts: the components that are meant.
    """
    import diffusers
    import transformers
    from diffusers.quantizers import PipelineQuantizationConfig

    forms = (("transformer", plan.transformer, diffusers), ("text_encoder", plan.text_encoder, transformers))
    mapping = {
        part: library.BitsAndBytesConfig(llm_int8_skip_modules=list(UNQUANTISED[part]), **_bits(form, dtype))
        for part, form, library in forms
        if form != "full" and part in parts
    }
    return PipelineQuantizationConfig(quant_mapping=mapping)


def offload_blocks(transformer: torch.nn.Module, device: torch.device, folder: str | Path | None = None) -> None:
    """Keep a transformer in host memory, or in files in `folder`, and move its blocks to the device one by one.

    On a GPU the next block is copied while the current one computes. That needs pinned host memory.
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
        # diffusers would reuse files of its names in the folder, even if they are of another model.
        raise UsageError(f"The offload folder {str(folder)!r} is not empty; give an empty one.")
    places = {name: None if folder is None else Path(folder) / name for name in ("transformer", "text_encoder")}
    offload_blocks(pipeline.transformer, device, places["transformer"])
    # The blocks are nested deeper than diffusers looks for them, so the text encoder moves layer by layer.
    apply_group_offloading(
        pipeline.text_encoder,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        offload_to_disk_path=None if places["text_encoder"] is None else str(places["text_encoder"]),
    )
    pipeline.vae.to(device)


def _bits(form: str, dtype: torch.dtype) -> dict[str, Any]:
    if form == "8-bit":
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}


def without_packed_kernel(model: torch.nn.Module) -> None:
    """On a CPU, make the 4-bit layers of a model unpack their weights and use torch's own matrix product.

    The CPU kernel of bitsandbytes divides by the number of rows, and crashes for an expert that gets no tokens.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def _quantising_on_cpu() -> Iterator[None]:
    """Let the libraries quantise on the CPU, inside this block only.

    diffusers refuses to quantise without a GPU, although bitsandbytes has CPU kernels by now. Where there is a GPU,
    both libraries would choose it.
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
