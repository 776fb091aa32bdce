"""Find a recipe, read it, apply `--set`, check the result."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tagmoe.config.describe import problem_of
from tagmoe.config.fit import Misfits
from tagmoe.config.schema import RunConfig
from tagmoe.errors import ConfigError
from tagmoe.files.yaml_text import read_yaml
from tagmoe.sentences import cut, reason_of

RECIPES = Path(__file__).parents[1] / "recipes"
COMMON = "common.yaml"
"""The settings that all arms of an ablation share. A folder with this file is a folder of arms."""
PLANS = "plans"
"""The folders of plans of `tagmoe data synthesize`, which are no recipes of training."""
MOST_NAMED = 20
"""Wrong settings that one message names."""


def packaged_recipes() -> dict[str, Path]:
    """The recipes of the package by name, such as "tagworld/quick"; without those of an ablation's arms."""
    return {
        path.relative_to(RECIPES).with_suffix("").as_posix(): path
        for path in sorted(RECIPES.rglob("*.yaml"))
        if not (path.parent / COMMON).is_file() and path.parent.name != PLANS
    }


def packaged_plans() -> dict[str, Path]:
    """The plans of synthesis of the package by name, such as "tagworld/plans/quick"."""
    found = sorted(RECIPES.rglob(f"{PLANS}/*.yaml"))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in found}


def packaged_arms() -> dict[str, Path]:
    """The folders of arms of the package by name, such as "tagworld/ablation"."""
    return {path.parent.relative_to(RECIPES).as_posix(): path.parent for path in sorted(RECIPES.rglob(COMMON))}


def find_recipe(given: Path) -> Path:
    """The file of a recipe, given by its path or by the name of a packaged recipe.

    Raises ConfigError if it is neither; the message names the nearest recipe.
    """
    if given.exists() and not given.is_dir():
        return given
    hint = 'give the path of a YAML file, or a name that "tagmoe train --list" prints.'
    return _packaged(given, packaged_recipes(), f"There is no recipe {str(given)!r}", hint)


def find_plan(given: Path) -> Path:
    """The file of a plan of synthesis, given by its path or by the name of a packaged one.

    Raises ConfigError if it is neither; the message names the nearest plan.
    """
    if given.exists() and not given.is_dir():
        return given
    known = packaged_plans()
    hint = f"give the path of a YAML file, or the name {' or '.join(known)}."
    return _packaged(given, known, f"There is no plan {str(given)!r}", hint)


def find_arms(given: Path) -> Path:
    """The folder of arms, given by its path or by the name of a packaged one.

    Raises ConfigError if it is neither; the message names the nearest folder.
    """
    if given.is_dir():
        return given
    known = packaged_arms()
    hint = f"give a folder with a {COMMON}, or the name {' or '.join(known)}."
    return _packaged(given, known, f"There is no folder of arms {str(given)!r}", hint)


def _packaged(given: Path, known: Mapping[str, Path], problem: str, hint: str) -> Path:
    # Many documents print the path that a recipe has in a checkout, so that path works as its name everywhere.
    name = given.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    near = near or [full for full in known if difflib.get_close_matches(name, [full.split("/")[-1]])][:1]
    raise ConfigError(f"{problem}; {f'did you mean {near[0]!r}?' if near else hint}")


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML recipe, apply `a.b=c` overrides, and check the result.

    Raises ConfigError for an unreadable file, and one for all unknown names (each with the nearest one), bad values and
    bad overrides.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"There is no recipe {str(path)!r}; give the path of a YAML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {str(path)!r} cannot be read: {reason_of(error)}.") from error
    data = read_yaml(text, f"The recipe {str(path)!r}")
    if not isinstance(data, dict):
        raise ConfigError(f"The recipe {str(path)!r} holds no settings; it must be a mapping such as 'seed: 0'.")
    return check_config(data, apply_overrides(data, overrides))


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Set dotted names in place: "loss.lambda_align=0.2". Values are read as YAML.

    Returns a sentence for each override that cannot be applied, for `check_config`.
    """
    problems: list[str] = []
    seen: list[str] = []
    for override in overrides:
        try:
            name, value = _assignment(override)
            for other in seen:
                if name == other:
                    raise ConfigError(f"--set gives {name!r} twice; give it once.")
                if f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}."):
                    raise ConfigError(f"--set gives {other!r} and {name!r}, and one holds the other; give one of them.")
            seen.append(name)
            _assign(data, name, value, override)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def check_config(data: dict[str, Any], problems: Sequence[str] = ()) -> RunConfig:
    """Validate plain data. Raises ConfigError with the sentences `problems` and one for every setting that is wrong."""
    sentences, config = list(problems), None
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        sentences += _sentences(error, data)
    if config is None or sentences:
        more = len(sentences) - MOST_NAMED
        rest = [f"({more} more {'setting is' if more == 1 else 'settings are'} wrong.)"] if more > 0 else []
        raise ConfigError(" ".join([*sentences[:MOST_NAMED], *rest]))
    return config


def _assignment(override: str) -> tuple[str, Any]:
    """(name, value) of "name=value"."""
    name, equals, value = override.partition("=")
    name, short = name.strip(), cut(override)
    if not equals or not name:
        raise ConfigError(f"--set {short!r} is no assignment; write --set name=value, e.g. --set seed=1.")
    if not value.strip():
        raise ConfigError(f"--set {short!r} gives no value; write null for none.")
    return name, read_yaml(value, f"The value of --set {short!r}")


def _assign(data: dict[str, Any], name: str, value: Any, override: str) -> None:
    *parents, last = name.split(".")
    block = data
    for parent in parents:
        block = block.setdefault(parent, {})
        if not isinstance(block, dict):
            raise ConfigError(f"--set {cut(override)!r}: {parent!r} is a value, not a block of settings.")
    block[last] = value


def _sentences(error: ValidationError, data: Mapping[str, Any]) -> list[str]:
    """One sentence for each wrong setting, and for each pair that excludes each other."""
    misfits: list[str] = []
    wrong: dict[str, str] = {}
    for problem in error.errors():
        if problem["type"] == "value_error":
            misfits += problem["ctx"]["error"].sentences
        else:
            name, sentence = problem_of(problem, data)
            wrong.setdefault(name, sentence)
    return [*wrong.values(), *misfits, *(_hidden_misfits(data, list(wrong)) if wrong else [])]


def _hidden_misfits(data: Mapping[str, Any], wrong: list[str]) -> list[str]:
    """The misfits of the other settings, which pydantic looks for only once every single setting is right."""
    rest = deepcopy(dict(data))
    for name in wrong:
        *parents, last = name.split(".")
        block: Any = rest
        for parent in parents:
            block = block.get(parent) if isinstance(block, dict) else None
        if isinstance(block, dict):
            block.pop(last, None)
    rest.setdefault("output_dir", "unused")
    for stage in ("base", "unified"):
        block = rest.setdefault(stage, {})
        if isinstance(block, dict):
            block.setdefault("steps", 0)
    try:
        RunConfig.model_validate(rest)
    except ValidationError as error:
        found = [problem["ctx"]["error"] for problem in error.errors() if problem["type"] == "value_error"]
        sentences = [sentence for misfits in found if isinstance(misfits, Misfits) for sentence in misfits.sentences]
        return [sentence for sentence in sentences if not any(f"{name!r}" in sentence for name in wrong)]
    return []
