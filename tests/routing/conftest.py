"""Recordings made by hand: no model is needed for a routing report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.made_recordings import EXPERTS, TASKS, TIMES, Make, about, facts, shown, traces

from tagmoe.routing.reading import Recording, read_recording
from tagmoe.routing.recording import Interventions, RecordingWriter


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write and read a recording of `per_task` cases of each of three tasks, each leaning to an expert of its own."""

    def make(
        name: str = "recording",
        *,
        per_task: int = 4,
        tasks: Sequence[str | None] = TASKS,
        lean: float = 2.0,
        mask: bool = True,
        success: bool | None = True,
        interventions: Callable[[RecordingWriter], Interventions] | None = None,
        about_changes: dict[str, Any] | None = None,
        facts_changes: dict[str, Any] | None = None,
    ) -> Recording:
        folder = tmp_path / name
        folder.mkdir()
        writer = RecordingWriter(folder, about(**(about_changes or {})))
        for number in range(per_task * len(tasks)):
            position = number % len(tasks)
            leaning = [lean if expert == position else 0.0 for expert in range(EXPERTS)]
            writer.add(
                facts(number, tasks[position], **(facts_changes or {})),
                traces(number, lean=leaning),
                TIMES,
                shown(number, mask=mask),
                success=success,
            )
        writer.close(None if interventions is None else interventions(writer))
        return read_recording(folder)

    return make
