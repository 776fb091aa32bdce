"""The settings in words: name, what each takes, its default; and what is wrong with a setting."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import EnumType
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tagmoe.config.schema import RunConfig
from tagmoe.sentences import cut

REQUIRED = "required"
WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "switches"),
}


@dataclass(frozen=True)
class Setting:
    """One setting. name: dotted, as --set takes it. takes: type and range in words. default: as YAML writes it."""

    name: str
    takes: str
    default: str


def settings() -> list[Setting]:
    """Every setting of a recipe, blocks before their settings."""
    return list(_settings(RunConfig, ""))


def setting_names() -> list[str]:
    """The dotted name of every setting."""
    return [setting.name for setting in settings()]


def problem_of(problem: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, str]:
    """(name of the setting, the sentence) of one of pydantic's errors about `data`. pydantic's words are not shown."""
    known = {setting.name: setting for setting in settings()}
    place = [str(part) for part in problem["loc"]]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        return name, f"Unknown setting {cut(name)!r}; {_nearest(name, list(known))}"
    if problem["type"] == "missing":
        return name, f"The setting {name!r} is missing; add it to the recipe."
    # An error in an item of a list or mapping is one of the setting that holds it.
    while ".".join(place) not in known:
        place.pop()
    name, value = ".".join(place), data
    for part in place:
        value = value[part]
    wanted = known[name].takes
    if problem["type"] == "finite_number":
        wanted = wanted.replace("a number", "a finite number", 1)
    return name, f"The setting {name!r} is {in_yaml(value)}; give {wanted}."


def wrong_field(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first of pydantic's errors about a model, as a clause: "'seed' is -1, which must be a whole number from 0".

    Without the model, what may stand there is not said: nobody writes the file by hand.
    """
    problem = error.errors()[0]
    name = cut(".".join(map(str, problem["loc"])))
    if problem["type"] == "extra_forbidden":
        return f"{name!r} is unknown"
    if problem["type"] == "missing":
        return f"{name!r} is missing"
    if problem["type"] == "value_error":
        # An error about several fields together has no place.
        return f"{name!r} is wrong: {problem['ctx']['error']}" if name else str(problem["ctx"]["error"])
    kind, bounds = (None, []) if model is None else _type_at(model, problem["loc"])
    wanted = "which cannot be" if kind is None else f"which must be {takes(kind, bounds)}"
    return f"{name!r} is {in_yaml(problem['input'])}, {wanted}"


def _type_at(model: type[BaseModel], place: Sequence[str | int]) -> tuple[Any, list[Any]]:
    """(type, bounds) of what stands at a place in a model; (None, []) where it has nothing."""
    kind: Any = model
    bounds: list[Any] = []
    for part in place:
        inner = [option for option in _options(kind) if option is not NoneType]
        kind = inner[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if part not in kind.model_fields:
                return None, []
            field = kind.model_fields[str(part)]
            kind, bounds = field.annotation, field.metadata
        elif get_origin(kind) in (dict, list, tuple):
            items = get_args(kind)
            kind, bounds = items[1] if get_origin(kind) is dict else items[0], []
        if get_origin(kind) is Annotated:
            kind, *bounds = get_args(kind)
            bounds = [bound for item in bounds for bound in getattr(item, "metadata", [item])]
    return kind, bounds


def in_yaml(value: Any) -> str:
    """A value as a recipe writes it, on one line and cut."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return cut(json.dumps(plain, default=str, ensure_ascii=False))


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name[:200], names, n=1, cutoff=0.5)
    # A setting in the wrong block is a common slip, so its last part is looked for as well.
    near = near or [known for known in names if known.split(".")[-1] == name.split(".")[-1]][:1]
    return f"did you mean {near[0]!r}?" if near else 'see "tagmoe info settings" for all of them.'


def _settings(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        words = takes(field.annotation, field.metadata)
        default = REQUIRED if field.is_required() else in_yaml(field.default)
        inner = [kind for kind in _options(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner:
            default = REQUIRED if field.is_required() else "null" if field.default is None else "its settings below"
        yield Setting(prefix + name, words, default)
        for kind in inner:
            yield from _settings(kind, f"{prefix}{name}.")


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def takes(annotation: Any, bounds: list[Any]) -> str:
    """What a value of this type is, in words: "a whole number from 1 to 8". bounds: objects with ge, gt, le or lt."""
    if get_origin(annotation) is Annotated:
        annotation, *bounds = get_args(annotation)
        bounds = [bound for item in bounds for bound in getattr(item, "metadata", [item])]
    options = _options(annotation)
    words = [_words(option, bounds) for option in options if option is not NoneType]
    return " or ".join(words) + (", or null" if NoneType in options else "")


def _one_of(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _words(kind: Any, bounds: list[Any]) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of([str(value) for value in inner])
    if isinstance(kind, EnumType):
        members: Any = kind
        return _one_of([str(member.value) for member in members])
    if origin is list:
        # Each item of a repeated option, and of a list in a file, is checked by itself.
        return takes(inner[0], bounds)
    if origin is dict:
        return f"names with {takes(inner[1], [])} each"
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}{WORDS.get(inner[0], ('', 'values'))[1]}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "a block of settings"
    limits = {
        name: getattr(bound, name)
        for bound in bounds
        for name in ("ge", "gt", "le", "lt")
        if getattr(bound, name, None) is not None
    }
    words = WORDS.get(kind, ("a value",))[0]
    if "ge" in limits and "le" in limits:
        return f"{words} from {limits['ge']} to {limits['le']}"
    parts = [
        f"{word} {limits[name]}"
        for name, word in (("ge", "from"), ("gt", "above"), ("le", "up to"), ("lt", "below"))
        if name in limits
    ]
    filled = "" if not any(getattr(bound, "min_length", 0) for bound in bounds) else " that is not empty"
    return " ".join([words + filled, " and ".join(parts)]).strip()
