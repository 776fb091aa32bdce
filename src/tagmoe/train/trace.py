"""What a training step keeps for its backward pass, and its FLOPs, by a forward and a backward pass without numbers.

torch's fake tensors have shapes, dtypes and a graph, but no memory. So any size is traced in seconds on any machine,
with the very code that trains, and whatever is frozen is left out as autograd leaves it out. Attention is taken as
fused, and tokens as spread evenly over the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
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
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.recompute import recomputed
from tagmoe.model.transformer import TagMoETransformer2DModel, TagMoETransformerBlock
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
    """Of one micro-batch. saved: bytes kept for backward. forward, backward: FLOPs (a multiply-add is two).

    With activation checkpointing, recompute: FLOPs of the blocks that backward computes again. block: bytes that one
    of them keeps meanwhile.
    """

    saved: int
    forward: int
    backward: int
    recompute: int = 0
    block: int = 0

    def plus(self, one: Traced, other: Traced, times: int) -> Traced:
        """This, and `times` the difference of `one` from `other`."""
        every = (astuple(traced) for traced in (self, one, other))
        return Traced(*(a + times * (b - c) for a, b, c in zip(*every, strict=True)))


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
    fused attention; a "cpu" in bf16 keeps the products of queries and keys (`tagmoe.model.cpu.attention`).

    recompute: with activation checkpointing.

    Of more than `MOST_TRACED` dense blocks or mixtures only some are traced; the rest is a multiple of one more block.
    """
    plain_pass = _Pass(shapes, precision, prepare, device)
    plain = plain_pass.of(config)
    if not recompute:
        return plain
    again = replace(plain_pass, recompute=True).of(config)
    block = plain_pass.largest_block(config)
    return replace(plain, saved=again.saved, recompute=again.backward - plain.backward, block=block)


@dataclass(frozen=True)
class _Pass:
    """A forward and a backward pass, as `trace` describes it, of transformers of any config."""

    shapes: Shapes
    precision: str
    prepare: Callable[[Any], None]
    device: str
    recompute: bool = False

    def of(self, config: Mapping[str, Any]) -> Traced:
        """Of a whole transformer. Few blocks are traced, the others are multiples of one more block."""
        mixtures = config.get("num_moe_blocks", 0)
        dense = config["num_layers"] - mixtures
        few = min(dense, MOST_TRACED), min(mixtures, MOST_TRACED)
        first = total = self.traced(config, *few)
        if dense > few[0]:
            total = total.plus(self.traced(config, few[0] + 1, few[1]), first, dense - few[0])
        if mixtures > few[1]:
            total = total.plus(self.traced(config, few[0], few[1] + 1), first, mixtures - few[1])
        return total

    def largest_block(self, config: Mapping[str, Any]) -> int:
        """Bytes that one block keeps for its own backward, the larger of a dense one and a mixture."""
        if not config.get("num_moe_blocks", 0):
            return self.traced(config, 1, 0).saved
        mixture = self.traced(config, 0, 1).saved
        return max(mixture, self.traced(config, 1, 1).saved - mixture)

    def traced(self, config: Mapping[str, Any], dense: int, mixtures: int) -> Traced:
        """Of a transformer of this config with so many dense blocks and mixtures."""
        transformer = meta_transformer({**config, "num_layers": dense + mixtures, "num_moe_blocks": mixtures}).train()
        if self.device == "cpu":
            transformer.set_attn_processor(RealRoPEAttnProcessor())
        self.prepare(transformer)
        with FakeTensorMode(allow_non_fake_inputs=True):
            _make_fake(transformer)
            inputs = _inputs(transformer, self.shapes)
            counter = FlopCounterMode(
                display=False, custom_mapping={FUSED: _attention_flops, FUSED_BACKWARD: _attention_backward_flops}
            )
            with _Assumed(), saved_bytes(transformer) as saved, counter, autocast(self.precision):
                if self.recompute:
                    transformer.enable_gradient_checkpointing(partial(_recomputed, saved))
                output = transformer(**inputs)
                kept, forward = saved(), counter.get_total_flops()
                loss = output.sample.float().square().mean()
                if output.routing is not None:
                    loss = loss + output.routing.mean_probs_LBN.sum()
                if loss.requires_grad:
                    loss.backward()
            return Traced(kept, forward, counter.get_total_flops() - forward)


def meta_transformer(config: Mapping[str, Any]) -> Any:
    """A transformer of this config whose parameters have no numbers, to be counted, or filled later."""
    with torch.device("meta"), no_init_weights():
        transformer = TagMoETransformer2DModel.from_config(dict(config))
    # The table of rotations is a plain attribute, which would have no numbers either.
    transformer.pos_embed = QwenEmbedRope(10000, list(transformer.config.axes_dims_rope), scale_rope=True)
    return transformer


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


class SavedBytes:
    """Called, the bytes of what was kept, each memory once. weights: memories that do not count."""

    def __init__(self, weights: set[int]) -> None:
        self._weights = weights
        self._kept: dict[int, Tensor] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is kept for backward."""
        self._kept.setdefault(_memory(tensor), tensor)
        return tensor

    def __call__(self) -> int:
        return sum(t.untyped_storage().nbytes() for at, t in self._kept.items() if at not in self._weights)


@contextmanager
def saved_bytes(module: nn.Module) -> Iterator[SavedBytes]:
    """Yields a function: the bytes that autograd has kept inside the block, each memory once.

    The weights of the module, and copies of them in another dtype, are not counted.
    """
    weights = {_memory(value) for value in (*module.parameters(), *module.buffers())}
    saved = SavedBytes(weights)
    with _WeightCopies(weights), saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        yield saved


def _recomputed(saved: SavedBytes, block: Any, *inputs: Any) -> Any:
    """`recomputed`, and a note of what it keeps where backward comes to it: inputs, and the choice of experts."""
    if inputs[0].requires_grad or any(parameter.requires_grad for parameter in block.parameters()):
        for value in tree_leaves(inputs):
            if isinstance(value, Tensor):
                saved.keep(value)
        if isinstance(block, TagMoETransformerBlock):
            # An fp32 score and an int64 number.
            saved.keep(torch.empty(*inputs[0].shape[:2], block.img_mlp.top_k, 3))

    def assumed(*again: Any) -> Any:
        # Backward leaves out the modes of functions that were on in forward.
        with _Assumed():
            return block(*again)

    return recomputed(assumed, *inputs)


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
