"""How the unified stage runs: its blocks compiled or computed again in backward, its weights shared among ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tagmoe.config import RunConfig
from tagmoe.errors import ConfigError
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.recompute import recompute_blocks
from tagmoe.model.transformer import TagMoETransformerBlock
from tagmoe.sentences import counted
from tagmoe.train.adamw import check_processes
from tagmoe.train.checkpoint import fill, flat_parameters
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.precision import resolve_precision
from tagmoe.train.ranks import Ranks
from tagmoe.train.sharding import gathered, shard, shell_of
from tagmoe.train.stage import FlowStage
from tagmoe.train.start_parts import StartParts, fill_parts


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what a rank other than 0 would write."""
    with tempfile.TemporaryDirectory(prefix="tagmoe-rank-") as folder:
        yield Path(folder)


def check_ranks(config: RunConfig, count: int) -> None:
    """Raise ConfigError for settings that so many processes cannot do."""
    check_processes(config.optimizer, count)
    batch, stage = config.unified.batch, "The setting 'unified.batch'"
    if count % config.replicate:
        raise ConfigError(
            f"The setting 'replicate' is {config.replicate}, which does not divide the "
            f"{counted(count, 'process', 'processes')} that train together; choose a number that does."
        )
    if count == 1:
        return
    if batch % count:
        raise ConfigError(
            f"{stage} is {batch}, the samples of a micro-batch over all processes, and {count} processes cannot share "
            f"it evenly; choose a multiple of {count}."
        )
    if config.frozen_dtype in ("fp8", "nf4") and config.parameters != "all":
        raise ConfigError(
            f"The setting 'frozen_dtype' is {config.frozen_dtype!r}, whose scales do not follow the parts of a weight "
            f"that {count} processes keep; set it to 'bf16', or train in one process."
        )
    for name, value in (("align_loss", "contrastive"), ("align_tags", "shuffled")):
        if getattr(config.loss, name) == value:
            raise ConfigError(
                f"The setting 'loss.{name}' is {value!r}, which compares the samples of a batch, but {count} processes "
                "share it; train in one process."
            )


def prepare_blocks(transformer: Any, config: RunConfig) -> None:
    """Set the attention of training, and compile the blocks, or compute them again in backward, as the config says.

    With both, mixtures are not compiled: a compiled block does not show which expert it chose, to be kept.
    """
    transformer.set_attn_processor(RealRoPEAttnProcessor())
    if config.activation_checkpointing:
        recompute_blocks(transformer)
    for block in transformer.transformer_blocks if config.compile else ():
        if not (config.activation_checkpointing and isinstance(block, TagMoETransformerBlock)):
            block.compile()


def train_sharded(
    stage: FlowStage, run: Run, ranks: Ranks, start: StartParts | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Train a stage whose weights the ranks share. start: where those come from that it has no numbers of.

    Returns (transformer, average) on rank 0: a model of its own with the average in it, and the whole average. In other
    ranks the model has no numbers and the average is empty."""
    shell = shell_of(stage.transformer)
    precision = resolve_precision(run.config.precision, ranks.device.type)
    shard(stage.transformer, stage.objective, ranks, precision=precision, replicate=run.config.replicate)
    if start is not None:
        fill_parts(start, ranks)
    ema = run_stage(stage, run, ranks)
    average = gathered(ema, flat_parameters(stage.modules), ranks)
    fill(stage.modules, ema)
    state = stage.transformer.state_dict()
    numbers = gathered(state, state, ranks)
    if ranks.is_first:
        shell.load_state_dict(numbers, assign=True)
    return shell, average
