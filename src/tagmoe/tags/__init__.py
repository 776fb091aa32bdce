"""What a task is (paper section 3.2): the 18 atomic tags and the descriptor made of them. Pure Python, no torch."""

from __future__ import annotations

from tagmoe.tags.descriptor import RULES, Rule, TaskDescriptor
from tagmoe.tags.vocabulary import TAG_NAMES, TAGS, TIERS, Tag, index, tag

__all__ = ["RULES", "TAGS", "TAG_NAMES", "TIERS", "Rule", "Tag", "TaskDescriptor", "index", "tag"]
