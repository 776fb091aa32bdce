"""The versioned rule set for a model: guidance beside the definitions of the tags, and worked examples.

The paper refines its rules again and again (3.2), so they are a file: `rules.yaml` ships, `--rules FILE` gives another.
The definitions of the tags are not in it; they belong to the vocabulary (`tagmoe.tags`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tagmoe.annotation.rules.parse import parse_yaml
from tagmoe.errors import ConfigError, VocabularyError
from tagmoe.sentences import reason_of
from tagmoe.tags import TAGS, TaskDescriptor, tag

TIERS = ("scope", "type", "preservation")
"""Tiers of an annotation; image generation counts as a scope here."""
MAX_BYTES = 200_000
Words = Annotated[str, Field(max_length=4000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Tier(_Strict):
    guidance: Words = ""
    tags: dict[str, Words] = Field(default_factory=dict)


class _Example(_Strict):
    instruction: Annotated[str, Field(min_length=1, max_length=400)]
    scope: str
    types: list[str] = Field(default_factory=list)
    preservation: list[str] = Field(default_factory=list)


class _File(_Strict):
    version: Annotated[str, Field(min_length=1, max_length=40)]
    notes: Words = ""
    tiers: dict[str, _Tier]
    examples: list[_Example] = Field(default_factory=list, max_length=40)


@dataclass(frozen=True)
class Example:
    """An instruction with the right tags."""

    instruction: str
    descriptor: TaskDescriptor


@dataclass(frozen=True)
class RuleSet:
    """A rule set.

    version: raised with every change. notes: guidance for all tiers. tiers: guidance by tier. guidance: by tag in the
    order of the vocabulary, '' for none. examples: instructions with their tags.
    """

    version: str
    notes: str
    tiers: Mapping[str, str]
    guidance: Mapping[str, str]
    examples: tuple[Example, ...]

    @property
    def digest(self) -> str:
        """A digest of everything but the version."""
        examples = [[item.instruction, item.descriptor.format()] for item in self.examples]
        values = [self.notes, dict(self.tiers), dict(self.guidance), examples]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

    def with_guidance(self, guidance: Mapping[str, str], version: str) -> RuleSet:
        """The rules with other guidance for some tags, each on one line, as it is read back from YAML.

        Raises VocabularyError for an unknown tag.
        """
        new = {tag(name).name: _one_line(words) for name, words in guidance.items()}
        return RuleSet(version, self.notes, self.tiers, {**self.guidance, **new}, self.examples)

    def to_yaml(self) -> str:
        """The rule set as YAML; `parse_rules` reads it back."""
        tiers = {
            tier: {
                "guidance": self.tiers[tier],
                "tags": {name: words for name, words in self.guidance.items() if words and tier_of(name) == tier},
            }
            for tier in TIERS
        }
        examples = [
            {
                "instruction": item.instruction,
                "scope": item.descriptor.scope[0],
                "types": list(item.descriptor.types),
                "preservation": list(item.descriptor.preservation),
            }
            for item in self.examples
        ]
        data = {"version": self.version, "notes": self.notes, "tiers": tiers, "examples": examples}
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=118)


def tier_of(name: str) -> str:
    """The tier of a tag, one of TIERS."""
    tier = tag(name).tier
    return "scope" if tier == "generation" else tier


def packaged_rules() -> RuleSet:
    """The rule set that ships with the package."""
    text = (files("tagmoe.annotation.rules") / "rules.yaml").read_text(encoding="utf-8")
    return parse_rules(text, "rules.yaml")


def load_rules(path: Path) -> RuleSet:
    """The rule set in a file. Raises ConfigError and VocabularyError, as `parse_rules` does."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"The rule set {str(path)!r} has more than {MAX_BYTES:,} bytes; that is no rule set.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error)
        raise ConfigError(f"The rule set {str(path)!r} cannot be read ({reason}).") from None
    return parse_rules(text, str(path))


def parse_rules(text: str, name: str) -> RuleSet:
    """The rule set of a YAML text; `name` is what errors call it.

    Raises ConfigError for text that is no YAML, a name given twice, and an unknown or missing field. Raises
    VocabularyError for an unknown tag, a tag in the wrong tier, and an example whose tags break a rule.
    """
    found = parse_yaml(text, f"The rule set {name!r}", _File)
    unknown = sorted(set(found.tiers) - set(TIERS))
    if unknown:
        raise ConfigError(f"The rule set {name!r} has the tier {unknown[0]!r}; the tiers are {', '.join(TIERS)}.")
    guidance = {item.name: "" for item in TAGS}
    for tier, rules in found.tiers.items():
        for given, words in rules.tags.items():
            known = tag(given).name
            if tier_of(known) != tier:
                raise VocabularyError(
                    f"The rule set {name!r} has the tag {known!r} in the tier {tier!r}; its tier is {tier_of(known)!r}."
                )
            if guidance[known]:
                raise ConfigError(f"The rule set {name!r} has the tag {known!r} twice; give it once.")
            guidance[known] = _one_line(words)
    return RuleSet(
        version=found.version,
        notes=_one_line(found.notes),
        tiers={tier: _one_line(found.tiers[tier].guidance) if tier in found.tiers else "" for tier in TIERS},
        guidance=guidance,
        examples=tuple(_example(item, name) for item in found.examples),
    )


def _example(item: _Example, name: str) -> Example:
    descriptor = TaskDescriptor((item.scope,), tuple(item.types), tuple(item.preservation))
    broken = descriptor.violations()
    if broken:
        raise VocabularyError(f"The rule set {name!r} has an example with tags that break a rule: {broken[0]}.")
    return Example(_one_line(item.instruction), descriptor)


def _one_line(text: str) -> str:
    return " ".join(text.split())
