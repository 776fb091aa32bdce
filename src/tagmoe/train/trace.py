"""What a training step keeps for its backward pass, and its FLOPs, by a forward and a backward pass without numbers.

torch's fake tensors have shapes, dtypes and a graph, but no memory. So any size is traced in seconds on any machine,
with the very code that trains, and whatever is frozen is left out as autograd leaves it out. Attention is taken as
fused, and tokens as spread evenly over the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import no_init_weights
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.train.precision import autocast

aten = torch.ops.aten
FUSED, FUSED_BACKWARD = (
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
)
MOST_TRACED = 2
"""Dense blocks and mixtures that are traced. The others cost what one more of them does."""


@dataclass(frozen=True)
class Shapes:
    """The sizes of one micro-batch. grids: (rows, columns) of tokens of the target, then of each reference."""

    batch: int
    grids: tuple[tuple[int, int], ...]
    text_tokens: int

    @property
    def image_tokens(self) -> int:
        """Tokens of the target and the references, of one sample."""
        return sum(rows * columns for rows, columns in self.grids)


@dataclass(frozen=True)
class Traced:
    """Of one micro-batch. saved: bytes kept for backward. forward, backward: FLOPs (a multiply-add is two). recompute:
    those of activation checkpointing."""

    saved: int
    forward: int
    backward: int
    recompute: int = 0

    def plus(self, one: Traced, other: Traced, times: int) -> Traced:
        """This, and `times` the difference of `one` from `other`."""
        return Traced(
            *(
                a + times * (b - c)
                for a, b, c in zip(
                    (self.saved, self.forward, self.backward),
                    (one.saved, one.forward, one.backward),
                    (other.saved, other.forward, other.backward),
                    strict=True,
                )
            )
        )


def trace(
    config: Mapping[str, Any],
    shapes: Shapes,
    precision: str,
    *,
    prepare: Callable[[Any], None],
    device: str = "cpu",
    recompute: bool = False,
) -> Traced:
    """Trace a transformer of this config. prepare: freezes what does not train, as before a run. device: "cuda" has
    fused attention; a "cpu" in bf16 keeps the products of queries and keys (`tagmoe.model.cpu.attention`). recompute:
    backward computes its blocks again (activation checkpointing).

    Of more than `MOST_TRACED` dense blocks or mixtures only some are traced; the rest is a multiple of one more block.
    """
    mixtures = config.get("num_moe_blocks", 0)
    dense = config["num_layers"] - mixtures
    few = min(dense, MOST_TRACED), min(mixtures, MOST_TRACED)

    def of(dense_blocks: int, mixture_blocks: int) -> Traced:
        layers = {"num_layers": dense_blocks + mixture_blocks, "num_moe_blocks": mixture_blocks}
        return _trace({**config, **layers}, shapes, precision, prepare, device)

    first = total = of(*few)
    kinds = []
    for count, traced, more in ((dense, few[0], (few[0] + 1, few[1])), (mixtures, few[1], (few[0], few[1] + 1))):
        if count > traced or (recompute and count):
            one = of(*more)
            total = total.plus(one, first, count - traced)
            kinds.append((count, Traced(0, 0, 0).plus(one, first, 1)))
    return _recomputed(total, kinds, config, shapes, precision) if recompute else total


def _recomputed(
    total: Traced, kinds: list[tuple[int, Traced]], config: Mapping[str, Any], shapes: Shapes, precision: str
) -> Traced:
    """`total` when backward computes blocks again: it keeps their inputs, and what one block keeps at a time.

    kinds: (number, what one of them adds) of dense blocks and mixtures. Blocks without a backward pass keep nothing.
    """
    again = [(count, one) for count, one in kinds if one.backward]
    width = config["num_attention_heads"] * config["attention_head_dim"]
    size = 2 if precision == "bf16" else 4
    # A row for each token, and one for the time.
    inputs = shapes.batch * (shapes.image_tokens + shapes.text_tokens + 1) * width * size
    saved = total.saved - sum(count * one.saved for count, one in again)
    saved += sum(count * inputs for count, _ in again) + max((one.saved for _, one in again), default=0)
    return replace(total, saved=saved, recompute=sum(count * one.forward for count, one in again))


def _trace(
    config: Mapping[str, Any], shapes: Shapes, precision: str, prepare: Callable[[Any], None], device: str
) -> Traced:
    transformer = meta_transformer(config).train()
    if device == "cpu":
        transformer.set_attn_processor(RealRoPEAttnProcessor())
    prepare(transformer)
    # The table of rotations is a plain attribute, which the meta device left without numbers.
    transformer.pos_embed = QwenEmbedRope(10000, list(transformer.config.axes_dims_rope), scale_rope=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(transformer)
        inputs = _inputs(transformer, shapes)
        counter = FlopCounterMode(
            display=False, custom_mapping={FUSED: _attention_flops, FUSED_BACKWARD: _attention_backward_flops}
        )
        with _Assumed(), saved_bytes(transformer) as saved, counter, autocast(precision):
            output = transformer(**inputs)
            kept, forward = saved(), counter.get_total_flops()
            loss = output.sample.float().square().mean()
            if output.routing is not None:
                loss = loss + output.routing.mean_probs_LBN.sum()
            if loss.requires_grad:
                loss.backward()
        return Traced(kept, forward, counter.get_total_flops() - forward)


def meta_transformer(config: Mapping[str, Any]) -> Any:
    """A transformer of this config without numbers, for counting."""
    with torch.device("meta"), no_init_weights():
        return TagMoETransformer2DModel.from_config(dict(config))


def _make_fake(module: nn.Module) -> None:
    """Put fake tensors of the CPU in the place of those of the meta device, which autocast would pass over."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _inputs(transformer: Any, shapes: Shapes) -> dict[str, Any]:
    batch, config = shapes.batch, transformer.config
    return {
        "hidden_states": torch.zeros(batch, shapes.image_tokens, config.in_channels),
        "encoder_hidden_states": torch.zeros(batch, shapes.text_tokens, config.joint_attention_dim),
        "timestep": torch.zeros(batch),
        "img_shapes": [[(1, *grid) for grid in shapes.grids]] * batch,
        "return_routing": "stats" if config.num_moe_blocks else None,
    }


@contextmanager
def saved_bytes(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Yields a function: the bytes that autograd has kept inside the block, each memory once.

    The weights of the module, and copies of them in another dtype, are not counted.
    """
    weights = {_memory(value) for value in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(_memory(tensor), tensor)
        return tensor

    with _WeightCopies(weights), saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _WeightCopies(TorchDispatchMode):
    """Adds the memory of a weight's copy in another dtype to that of the weights."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is aten._to_copy.default and _memory(args[0]) in self._weights:
            self._weights.add(_memory(result))
            # Its address must not be given to another tensor.
            self._alive.append(result)
        return result


class _Assumed(TorchFunctionMode):
    """Fused attention, which fake tensors would compute in parts, and an even load, which they cannot tell."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            named = [kwargs[name] for name in ("query", "key", "value") if name in kwargs]
            given: list[Any] = [*args, *named]
            query, key, value, *rest = given
            mask = rest[0] if rest else kwargs.get("attn_mask")
            # Below autocast, so its cast is made here.
            if torch.is_autocast_enabled("cpu"):
                query, key, value = (t.to(torch.get_autocast_dtype("cpu")) for t in (query, key, value))
            return FUSED(query, key, value, 0.0, False, attn_mask=mask)[0]
        if func is torch.bincount:
            count, parts = args[0].numel(), kwargs["minlength"]
            return SimpleNamespace(tolist=lambda: [count * (i + 1) // parts - count * i // parts for i in range(parts)])
        return func(*args, **kwargs)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))
