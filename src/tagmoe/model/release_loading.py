"""Reading the authors' weights into our transformer, all or nothing (their layout: release.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open

from tagmoe.errors import CheckpointError
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.weights.release import Piece, plan_release, read_base_config, read_release
from tagmoe.weights.shards import Entry


def load_release(
    source: Path,
    base: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[TagMoETransformer2DModel, dict[str, torch.Tensor]]:
    """The authors' transformer in our layout, in eval mode, and their tag embedding and alignment head.

    source: their folder, or a .safetensors file. base: the pipeline folder it was trained from, of which only
    transformer/config.json is read. dtype: fp32 by default, as everywhere in diffusers. Weights are read one by one
    from safetensors, so that nothing is held twice. The second result has the names of `tagmoe.losses.Objective`
    with three head layers, as stored, and is empty where the release comes without it.

    Raises MissingError when a folder is not there and CheckpointError, naming files or keys, for a pickle, a damaged
    or missing file, and whatever does not fit: there is no partial load.
    """
    entries = read_release(source)
    plan = plan_release(entries, read_base_config(base), source=str(source))
    with init_empty_weights():
        model = TagMoETransformer2DModel.from_config(plan.config)
    wanted = torch.float32 if dtype is None else dtype
    weights = {name: value.to(device, wanted) for name, value in _read(plan.weights, entries)}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval(), dict(_read(plan.alignment, entries))


def _read(pieces: tuple[Piece, ...], entries: Mapping[str, Entry]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of ours, read from the file of its source."""
    with ExitStack() as stack:
        opened: dict[Path, Any] = {}
        for piece in pieces:
            file = entries[piece.source].file
            try:
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(file, framework="pt"))
                part = opened[file].get_slice(piece.source)
                value = part[:] if piece.rows is None else part[piece.rows[0] : piece.rows[1]]
            except (SafetensorError, OSError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise CheckpointError(f"{str(file)!r} cannot be read ({reason}); copy or download it again.") from None
            yield piece.name, value.T.contiguous() if piece.transposed else value
