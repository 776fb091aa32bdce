"""Peak memory and seconds a step of a transformer with random weights, by memory plan, beside dense Qwen-Image.

Nothing is downloaded. Weights are drawn on the device block by block, so that a quantised model never exists in full
precision. A step is one forward as the pipeline runs it: guidance in one batch of 2, one reference, 128 text tokens.
On a GPU (`--device cuda --size full`) the peak is the allocator's, under a cap. A model that does not fit is reported.
On the CPU (`--size tiny`, the default) the peak is counted: the storages of the weights, and the live tensors.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import cpu_offload_with_hook, init_empty_weights
from diffusers import QwenImageTransformer2DModel
from diffusers.hooks.group_offloading import ModuleGroup
from figures import Figure, report
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.memory.placing import check_library, offload_blocks, without_packed_kernel
from tagmoe.pipeline.memory.plans import PLANS, MemoryPlan
from tagmoe.pipeline.memory.sizes import BLOCKS, GB, ModelSizes, PartSize, is_quantised, part_size

DENSE: dict[str, dict[str, Any]] = {
    "full": {},
    "tiny": {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 8,
        "joint_attention_dim": 64,
        "axes_dims_rope": (8, 12, 12),
    },
}
MIXTURE: dict[str, dict[str, Any]] = {
    "full": {"num_moe_blocks": 10, "gate": "linear", "expert_bias": False},
    "tiny": {"num_moe_blocks": 2, "gate": "linear", "expert_bias": False},
}
# Tokens of a side of the picture: 1024 pixels, 8 a latent, 2x2 latents a token.
SIDES = {"full": 64, "tiny": 12}
TEXT_TOKENS, BATCH = 128, 2


@dataclass(frozen=True)
class Measured:
    """peak: bytes. seconds: median of a forward. first: seconds of the first forward, which includes the warm-up."""

    peak: int
    seconds: float
    first: float


NOTHING = PartSize(0, 0, {"8-bit": 0, "4-bit": 0}, 0, 0, 0, 0)


def held_bytes(module: nn.Module) -> int:
    """Bytes of the storages of a module's weights, each counted once; the scales of quantised weights are included."""
    tensors: list[torch.Tensor] = [*module.parameters(), *module.buffers()]
    for layer in module.modules():
        states = (getattr(layer, "weight", None), getattr(layer, "state", None))
        tensors += [t for s in states for t in (getattr(s, "SCB", None), getattr(s, "CB", None)) if t is not None]
        quant_state = getattr(states[0], "quant_state", None)
        if quant_state is not None:
            tensors.append(quant_state.absmax)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors that operators made: `now`, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.paused = False
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if self.paused:
            return made
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._alive and key not in given:
                    self._alive.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, key, size)
        return made

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


@contextmanager
def counted_groups(live: LiveBytes) -> Iterator[dict[str, int]]:
    """Counts the bytes of the groups that group offload has loaded: "now", and their "peak".

    `live` is paused while groups move. On the CPU an unloaded weight keeps a storage that is never touched, and that
    must not count.
    """
    counts, loaded = {"now": 0, "peak": 0}, set()
    onload, offload = ModuleGroup.onload_, ModuleGroup.offload_

    def size(group: ModuleGroup) -> int:
        # diffusers lists a parameter outside all blocks twice: in its module and by itself. The set counts it once.
        tensors = {p for module in group.modules for p in module.parameters()} | set(group.parameters)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def quietly(move: Callable[[ModuleGroup], None], group: ModuleGroup) -> None:
        live.paused = True
        try:
            move(group)
        finally:
            live.paused = False

    def count_on(group: ModuleGroup) -> None:
        quietly(onload, group)
        if id(group) not in loaded:
            loaded.add(id(group))
            counts["now"] += size(group)
            counts["peak"] = max(counts["peak"], counts["now"])

    def count_off(group: ModuleGroup) -> None:
        quietly(offload, group)
        if id(group) in loaded:
            loaded.discard(id(group))
            counts["now"] -= size(group)

    ModuleGroup.onload_, ModuleGroup.offload_ = count_on, count_off
    try:
        yield counts
    finally:
        ModuleGroup.onload_, ModuleGroup.offload_ = onload, offload


def build(make: Callable[[], nn.Module], plan: MemoryPlan, device: torch.device) -> nn.Module:
    """A transformer with random bf16 weights, quantised by `plan`. It is on `device`, with offload on the host.

    Blocks are drawn on the device one by one, so that at most one of them is there in full precision.
    """
    with init_empty_weights():
        model = make()
    # The model's own `to` warns that a model should be loaded in its dtype.
    model = nn.Module.to(model, torch.bfloat16).eval().requires_grad_(False)
    home = device if plan.offload == "none" else torch.device("cpu")
    blocks = [(f"{BLOCKS}.{index}", block) for index, block in enumerate(model.get_submodule(BLOCKS))]
    for prefix, part in [*(child for child in model.named_children() if child[0] != BLOCKS), *blocks]:
        part.to_empty(device=device)
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
        if plan.transformer != "full":
            for name, layer in list(part.named_modules()):
                shape = list(layer.weight.shape) if isinstance(layer, nn.Linear) else []
                if is_quantised("transformer", f"{prefix}.{name}.weight", shape):
                    part.set_submodule(name, packed(layer, plan.transformer))
        part.to(home)
    if plan.transformer == "4-bit" and device.type == "cpu":
        without_packed_kernel(model)
    return model


def packed(layer: nn.Linear, form: str) -> nn.Linear:
    """The layer as bitsandbytes keeps it when diffusers loads it."""
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    sizes, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    if form == "4-bit":
        new = Linear4bit(*sizes, has_bias, torch.bfloat16, compress_statistics=False, quant_type="nf4", device="meta")
        weight = Params4bit(layer.weight.data, compress_statistics=False, quant_type="nf4", module=new)
        new.weight = weight.to(layer.weight.device)
    else:
        new = Linear8bitLt(*sizes, has_bias, has_fp16_weights=False, threshold=6.0, device="meta")
        values, scales, _ = int8_vectorwise_quant(layer.weight.data.to(torch.float16))
        new.weight = Int8Params(values, requires_grad=False, CB=values, SCB=scales)
    new.bias = layer.bias
    return new.eval()


def sizes_of(make: Callable[[], nn.Module], name: str, side: int) -> ModelSizes:
    """The sizes of the transformer alone, for the arithmetic of the plans."""
    with torch.device("meta"):
        model = make()
    part = part_size("transformer", {key: list(value.shape) for key, value in model.named_parameters()})
    return ModelSizes(name, part, NOTHING, NOTHING, 2, model.inner_dim, 0, 0, 0, 0, 2 * side**2, TEXT_TOKENS, BATCH)


def inputs(model: nn.Module, side: int, device: torch.device) -> dict[str, Any]:
    """One forward of guidance: the same picture and reference with two texts."""
    options = {"device": device, "dtype": torch.bfloat16}
    config = model.config
    return {
        "hidden_states": torch.randn(BATCH, 2 * side**2, config.in_channels, **options),
        "encoder_hidden_states": torch.randn(BATCH, TEXT_TOKENS, config.joint_attention_dim, **options),
        "timestep": torch.full((BATCH,), 0.5, **options),
        "img_shapes": [[(1, side, side), (1, side, side)]] * BATCH,
    }


@torch.no_grad()
def run(make: Callable[[], nn.Module], plan: MemoryPlan, side: int, device: torch.device, steps: int) -> Measured:
    """Build, warm up, run `steps` forwards. Raises torch.OutOfMemoryError when it does not fit under the cap."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(0)
    model = build(make, plan, device)
    live = LiveBytes()
    with tempfile.TemporaryDirectory() as folder, counted_groups(live) as groups:
        if plan.offload == "group":
            offload_blocks(model, device, None if on_gpu else folder)
        elif plan.offload == "component":
            model, _ = cpu_offload_with_hook(model, device)
        arguments = inputs(model, side, device)
        seconds = []
        # The first forward warms up: it loads libraries and components, and traces the order of groups.
        for step in range(1 + steps):
            started = time.perf_counter()
            with live if step == 0 and not on_gpu else nullcontext():
                model(**arguments)
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started)
        if on_gpu:
            peak = torch.cuda.max_memory_allocated(device)
        else:
            peak = live.peak + (groups["peak"] if plan.offload == "group" else held_bytes(model))
    return Measured(peak, statistics.median(seconds[1:]), seconds[0])


def measure(device: str, size: str, cap_gb: float, steps: int) -> Sequence[Figure]:
    """Peak memory and seconds a step of a random transformer by memory plan, and of the dense model."""
    place = torch.device(device)
    if size == "full" and place.type != "cuda":
        raise SystemExit("The full size takes 62 GB and hours on a CPU: give --device cuda, or --size tiny.")
    check_library()
    if place.type == "cuda":
        total = torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * GB / total), place)
    side = SIDES[size]
    models: dict[str, Callable[[], nn.Module]] = {
        "dense": lambda: QwenImageTransformer2DModel(**DENSE[size]),
        "moe": lambda: TagMoETransformer2DModel(**DENSE[size], **MIXTURE[size]),
    }
    plans = {plan.name: plan for plan in PLANS}
    done: dict[tuple[str, str], Measured] = {}
    figures = []
    for label, make in models.items():
        sizes = sizes_of(make, label, side)
        figures.append(Figure(f"{label}_parameters", sizes.transformer.parameters / 1e9, "1e9"))
        for name, plan in plans.items():
            if label == "dense" and plan.is_quantised:
                continue
            bound = plan.estimate(sizes).moments["denoise"]
            key = f"{label}_{name.replace('-', '_')}"
            try:
                measured = run(make, plan, side, place, steps)
            except torch.OutOfMemoryError:
                note = f"the arithmetic says {bound / GB:.2f} GB"
                figures.append(Figure(f"{key}_fits", 0.0, f"in {cap_gb:g} GB", note=note))
                continue
            finally:
                gc.collect()
            done[label, name] = measured
            note = f"{100 * measured.peak / bound:.0f} % of the arithmetic"
            figures.append(Figure(f"{key}_peak", measured.peak / GB, "GB", wanted=bound / GB, note=note))
            note = f"{size}, {device}; the first {measured.first:.2f} s"
            figures.append(Figure(f"{key}_step", measured.seconds, "s", runs=steps, note=note))
    for name in plans:
        if ("dense", name) in done and ("moe", name) in done:
            ratio = done["moe", name].seconds / done["dense", name].seconds
            figures.append(Figure(f"moe_over_dense_{name.replace('-', '_')}", ratio, "x", runs=steps))
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "device": {"default": "cpu", "help": "cpu or cuda"},
            "size": {"choices": ["tiny", "full"], "default": "tiny", "help": "full: 22.7e9 parameters, 1024x1024"},
            "cap-gb": {"type": float, "default": 24.0, "help": "GPU memory this process may take, in 1e9 bytes"},
            "steps": {"type": int, "default": 3, "help": "timed forwards a plan, after one warm-up"},
        },
    )
