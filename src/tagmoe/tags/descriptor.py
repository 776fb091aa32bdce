"""The hierarchical task descriptor (paper section 3.2) and the rules that a descriptor can be checked against.

A descriptor holds known tags, each in its own tier, but it may break rules: `violations` and `validate` check that. An
annotator's inconsistent answer must be representable, so that it can be counted and asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tagmoe.errors import VocabularyError
from tagmoe.tags.vocabulary import TAGS, normalise, tag

Slot = Literal["scope", "types", "preservation"]
_LABELS: dict[Slot, str] = {"scope": "Scope", "types": "Type", "preservation": "Preservation"}
_SLOT_OF_TIER: dict[str, Slot] = {
    "scope": "scope",
    # "image generation" takes the place of a scope: it says how much of the picture is made, namely all of it.
    "generation": "scope",
    "type": "types",
    "preservation": "preservation",
}
_EXAMPLE = "Scope: local editing; Type: object editing; Preservation: identity preservation"


@dataclass(frozen=True)
class TaskDescriptor:
    """The tags of one task, by tier, in the order given (paper section 3.2); "image generation" stands in `scope`.

    Raises VocabularyError for an unknown tag, a tag in the wrong tier, or a tag given twice.
    """

    scope: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    preservation: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for slot in _LABELS:
            object.__setattr__(self, slot, _checked(slot, getattr(self, slot)))

    @classmethod
    def from_tags(cls, names: Iterable[str]) -> TaskDescriptor:
        """The descriptor of these tags, each put into its own tier. Raises VocabularyError for an unknown tag."""
        slots: dict[Slot, list[str]] = {slot: [] for slot in _LABELS}
        for name in names:
            slots[_SLOT_OF_TIER[tag(name).tier]].append(name)
        return cls(tuple(slots["scope"]), tuple(slots["types"]), tuple(slots["preservation"]))

    @classmethod
    def parse(cls, text: str) -> TaskDescriptor:
        """Read the paper's form, "Scope: ...; Type: ...; Preservation: ..."; an empty tier may be left out or "none".

        Case and spacing do not matter, and a line break separates tiers as ";" does.
        Raises VocabularyError for an empty text, a wrong label, an unknown tag, or a tag in the wrong tier.
        """
        slots: dict[Slot, tuple[str, ...]] = {}
        for part in text.replace("\n", ";").split(";"):
            if not part.strip():
                continue
            label, colon, names = part.partition(":")
            slot = _slot_named(label)
            if not colon or slot is None:
                raise VocabularyError(
                    f'{part.strip()!r} is no tier: write tiers as "{_EXAMPLE}", with the labels '
                    f"{', '.join(_LABELS.values())}."
                )
            if slot in slots:
                raise VocabularyError(f"the tier {_LABELS[slot]} is given twice in {text!r}: merge both into one list.")
            given = [name.strip() for name in names.split(",") if name.strip()]
            slots[slot] = () if [normalise(name) for name in given] == ["none"] else tuple(given)
        if not slots:
            raise VocabularyError(f'the tags are empty ({text!r}): write them as "{_EXAMPLE}".')
        return cls(**slots)

    def format(self) -> str:
        """The paper's form, "Scope: ...; Type: ...; Preservation: ...", without empty tiers; `parse` reads it back."""
        tiers = ((label, getattr(self, slot)) for slot, label in _LABELS.items())
        return "; ".join(f"{label}: {', '.join(names)}" for label, names in tiers if names)

    def __str__(self) -> str:
        return self.format()

    @property
    def indices(self) -> tuple[int, ...]:
        """Rows of W_tag (Eq. 2), ascending."""
        return tuple(sorted(tag(name).index for name in (*self.scope, *self.types, *self.preservation)))

    @property
    def tags(self) -> tuple[str, ...]:
        """All tag names in index order: the set T_p of Eq. 2."""
        return tuple(TAGS[index].name for index in self.indices)

    def multi_hot(self) -> tuple[int, ...]:
        """T_p as K = 18 zeros and ones in index order, the input of Eq. 2."""
        return tuple(int(index in self.indices) for index in range(len(TAGS)))

    def broken_rules(self) -> tuple[Rule, ...]:
        """The rules of RULES that this descriptor breaks."""
        return tuple(rule for rule in RULES if rule.broken(self))

    def violations(self) -> tuple[str, ...]:
        """What is wrong with this descriptor and how to mend it, one text for each broken rule; empty if none is."""
        return tuple(f"{rule.text} ({rule.name}): {rule.fix}" for rule in self.broken_rules())

    def validate(self) -> None:
        """Raise VocabularyError naming each broken rule and its fix; return when there is none."""
        if found := self.violations():
            raise VocabularyError(f'the tags "{self}" break {len(found)} of the rules: {"; ".join(found)}.')


class Rule(NamedTuple):
    """One rule that needs no picture: a name for statistics, the rule in words, its fix, and when it is broken."""

    name: str
    text: str
    fix: str
    broken: Callable[[TaskDescriptor], bool]


def _slot_named(label: str) -> Slot | None:
    singular = normalise(label).removesuffix("s")
    return next((slot for slot, name in _LABELS.items() if name.lower() == singular), None)


def _checked(slot: Slot, names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names of the tags of one tier, or the error that says where a tag belongs."""
    if isinstance(names, str):
        raise VocabularyError(f"{_LABELS[slot]} is the text {names!r}: give a tuple of tag names, ({names!r},).")
    found: list[str] = []
    for name in names:
        known = tag(name)
        home = _SLOT_OF_TIER[known.tier]
        if home != slot:
            raise VocabularyError(
                f"{known.name!r} is given under {_LABELS[slot]} but belongs to {_LABELS[home]}: move it there."
            )
        if known.name in found:
            raise VocabularyError(f"{known.name!r} is given twice under {_LABELS[slot]}: give it once.")
        found.append(known.name)
    return tuple(found)


def _generates(task: TaskDescriptor) -> bool:
    return "image generation" in task.scope


RULES: tuple[Rule, ...] = (
    Rule(
        "one scope",
        "a task has exactly one scope",
        'keep the one that says what changes, or use "image generation" where there is no source to edit',
        lambda task: not _generates(task) and len(task.scope) != 1,
    ),
    Rule(
        "generation excludes scopes",
        '"image generation" excludes every scope',
        'remove "image generation" if a source is edited, else the scope',
        lambda task: _generates(task) and len(task.scope) > 1,
    ),
    Rule(
        "generation edits nothing",
        '"image generation" has no type, and keeps at most the structure of a control map',
        'remove every type and every preservation but "structure preservation"',
        lambda task: _generates(task) and bool(task.types or set(task.preservation) - {"structure preservation"}),
    ),
    Rule(
        "a type",
        "an edit has at least one type, unless it only changes the viewpoint",
        "add the type that says what is changed",
        lambda task: not _generates(task) and "viewpoint editing" not in task.scope and not task.types,
    ),
    Rule(
        "background",
        '"background editing" excludes "background preservation"',
        "remove one of the two",
        lambda task: "background editing" in task.types and "background preservation" in task.preservation,
    ),
    Rule(
        "style",
        '"style transfer" excludes "style preservation", unless the style comes from a reference',
        'remove one of the two, or use the scope "style customization"',
        lambda task: (
            "style transfer" in task.types
            and "style preservation" in task.preservation
            and "style customization" not in task.scope
        ),
    ),
    Rule(
        "viewpoint",
        '"viewpoint editing" excludes "structure preservation"',
        'remove "structure preservation"',
        lambda task: "viewpoint editing" in task.scope and "structure preservation" in task.preservation,
    ),
    Rule(
        "face",
        '"face preservation" implies "identity preservation"',
        'add "identity preservation"',
        lambda task: "face preservation" in task.preservation and "identity preservation" not in task.preservation,
    ),
    Rule(
        "pose",
        '"pose editing" excludes "structure preservation"',
        'remove "structure preservation"',
        lambda task: "pose editing" in task.types and "structure preservation" in task.preservation,
    ),
    Rule(
        "something is kept",
        'only "global editing" and "image generation" may preserve nothing',
        "add what must stay unchanged",
        lambda task: (
            bool(task.scope) and not task.preservation and not {"global editing", "image generation"} & set(task.scope)
        ),
    ),
)
