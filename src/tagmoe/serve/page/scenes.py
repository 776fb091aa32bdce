"""A scene of TagWorld for every task, to begin from with one click."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from tagmoe.world import TASKS, sample


@dataclass(frozen=True)
class Example:
    """An instruction of a task and its pictures; `shown` stands for them in the gallery."""

    task: str
    instruction: str
    pictures: tuple[Image.Image, ...]
    shown: Image.Image

    @property
    def caption(self) -> str:
        """What stands under it."""
        return f"{self.task.replace('_', ' ')}: {self.instruction}"


def examples(seed: int = 0) -> list[Example]:
    """One of each task, of the test split. Where nothing is edited, what should be drawn is shown."""
    found = []
    for task in TASKS:
        case = sample(seed, 0, split="test", task=task)
        pictures = tuple(Image.fromarray(source) for source in case.sources)
        shown = pictures[0] if pictures else Image.fromarray(case.target)
        found.append(Example(task, case.instruction, pictures, shown))
    return found
