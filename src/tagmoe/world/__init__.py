"""TagWorld: an endless picture world with exact truth (sampling, rendering, reading back, judging)."""

from __future__ import annotations

from .instructions import words
from .judge import Verdict, judge
from .oracle import Reading, read
from .render import render
from .rules import RuleTags, rule_sets, rule_tags
from .sample import Content, Divide, Sample, content, mistaken_tags, sample, slot_values
from .scene import HELD_OUT_COMBINATIONS, SIZE, Background, Face, Item, Scene
from .tasks import TASKS

__all__ = [
    "HELD_OUT_COMBINATIONS",
    "SIZE",
    "TASKS",
    "Background",
    "Content",
    "Divide",
    "Face",
    "Item",
    "Reading",
    "RuleTags",
    "Sample",
    "Scene",
    "Verdict",
    "content",
    "judge",
    "mistaken_tags",
    "read",
    "render",
    "rule_sets",
    "rule_tags",
    "sample",
    "slot_values",
    "words",
]
