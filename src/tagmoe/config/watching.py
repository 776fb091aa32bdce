"""What a run shows of itself, and when it warns or stops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tagmoe.config.block import Settings


class WatchConfig(Settings):
    """Settings that a resumed run may change. No weight depends on them, but for `spike: skip`. [ours]"""

    page_seconds: float | None = Field(60.0, gt=0, le=10**6)
    """Rewrite index.html in the run's folder after so many seconds, or after 100 times what the last writing took,
    whichever is longer. null: no page."""
    report_to: tuple[str, ...] = ()
    """Trackers of accelerate that get the metrics too: tensorboard, wandb, mlflow, ... (`tagmoe train --report-to`)."""
    routing_every: int = Field(20, ge=1, le=10**6)
    """Steps between two lines of routing.jsonl. The first line is of the first step, before any weight has changed."""
    routing_alarm: Literal["warn", "stop"] = "warn"
    """What happens when an expert is dead or a layer has collapsed."""
    dead_share: float = Field(0.001, ge=0, lt=1)
    """An expert is dead when it gets less than this share of its layer's tokens over `routing_every` steps."""
    collapse_share: float = Field(0.95, gt=0, le=1)
    """A layer has collapsed when one expert gets at least this share of its tokens over `routing_every` steps."""
    spike: Literal["warn", "stop", "skip"] = "warn"
    """What happens at a step whose loss is a spike. warn: a line names the samples. stop: the run saves what was before
    and ends. skip: the step changes no weight; so does a step whose loss or gradient is not finite."""
    spike_factor: float = Field(5.0, gt=1, le=10**6)
    """A loss is a spike above so many times the median of the last `spike_window` steps of its kind."""
    spike_window: int = Field(100, ge=10, le=10_000)
    """Steps of a kind of batch that the median is of. There are no spikes before 10 steps."""
    bad_sample: Literal["skip", "stop"] = "skip"
    """What happens when a sample of a store cannot be read. skip: its batch is trained without it, and counts less by
    as much. stop: so too, but then the run saves and ends. Either way alarms.jsonl lists it."""
    peak_flops: float | None = Field(None, gt=0, le=10**20)
    """Multiply-adds count as two. By default that of the GPU's name, where it is known; on a CPU utilisation is left
    out."""
