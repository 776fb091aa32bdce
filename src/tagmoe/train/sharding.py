"""FSDP2 over the ranks: each keeps a part of every weight, gradient, optimizer state and average.

A block is gathered when it is computed and let go after it. On a mesh of two dimensions (HSDP) groups of ranks each
hold a whole model, sharded within the group. Gates are gathered in fp32 also where the rest of a block is in bf16.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tagmoe.model.gate import Float32Linear
from tagmoe.train.ranks import Ranks


def shard(transformer: Any, objective: nn.Module, ranks: Ranks, *, precision: str, replicate: int) -> None:
    """Share the weights of the transformer and of the heads of the loss among the ranks, in place, on their devices.

    replicate: groups that each hold a whole model; it divides the number of ranks.
    """
    mesh = _mesh(ranks, replicate)
    # The sample is cut out of all tokens, and nobody changes it in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # Inputs stay as they are: times and router statistics are fp32.
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    inside = exact
    if precision == "bf16":
        inside = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in transformer.transformer_blocks:
        # Its layers as one group, since what a gate itself returns is a view, of which FSDP2 warns.
        gate: list[nn.Module] = [part for part in block.modules() if isinstance(part, Float32Linear)]
        if gate:
            fully_shard(gate, mesh=mesh, mp_policy=exact)
        fully_shard(block, mesh=mesh, mp_policy=inside)
    # Validation puts other weights in. A root that stayed gathered would not see them.
    fully_shard(transformer, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
    # Its W_tag is read after the loss, for the report.
    fully_shard(objective, mesh=mesh, mp_policy=exact, reshard_after_forward=False)


def _mesh(ranks: Ranks, replicate: int) -> DeviceMesh:
    if replicate == 1:
        return init_device_mesh(ranks.device.type, (ranks.count,), mesh_dim_names=("shard",))
    shape = replicate, ranks.count // replicate
    return init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, in the same memory; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole of a tensor that is sharded as `like`, from this rank's part. All ranks must ask together."""
    if not isinstance(like, DTensor):
        return part
    if not isinstance(part, DTensor):
        part = DTensor.from_local(
            part.to(like.device), like.device_mesh, like.placements, run_check=False, shape=like.shape,
            stride=like.stride(),
        )  # fmt: skip
    full: Tensor = part.full_tensor()
    return full


def sharded_rows(part: Tensor, like: Tensor, rows: int) -> Tensor:
    """This rank's rows of a matrix of so many, which are shared as those of `like` are."""
    if not isinstance(like, DTensor):
        return part
    shape = torch.Size((rows, *part.shape[1:]))
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=shape, stride=(shape[1:].numel(), 1)
    )


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """The inverse of `whole`, of a tensor that every rank has: sharded as `like` is, or itself where it is already."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """The whole tensors in the memory of rank 0, one after the other; {} in other ranks. All must ask together."""
    if ranks.is_alone:
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach(), like[name])
        if ranks.is_first:
            found[name] = value.cpu()
    return found


def shell_of(module: nn.Module) -> nn.Module:
    """A copy of a module without numbers. `load_state_dict(..., assign=True)` fills it."""
    memo: dict[int, Any] = {id(buffer): buffer.detach().to("meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, memo)
