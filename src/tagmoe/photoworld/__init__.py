"""PhotoWorld: real pixels, composed scenes. Pairs of cut-outs on photographic grounds with exact masks and targets."""

from __future__ import annotations

from .judge import Verdict, judge
from .sample import HELD_OUT, Inverse, PhotoWorld, Sample, task_names
from .tasks import TASKS

__all__ = ["HELD_OUT", "TASKS", "Inverse", "PhotoWorld", "Sample", "Verdict", "judge", "task_names"]
