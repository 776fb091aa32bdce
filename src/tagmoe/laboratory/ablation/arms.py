"""The arms of the ablation (paper 4.5, Table 4, and switches that the paper leaves open).

Each arm is a small YAML file that holds its difference from common.yaml:

about: one line for the tables
settings: {moe: null}            merged over common.yaml
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagmoe.config import COMMON, RunConfig, apply_overrides, check_config
from tagmoe.config.fit import SCRATCH
from tagmoe.errors import ConfigError, UsageError
from tagmoe.files.yaml_text import read_yaml
from tagmoe.sentences import reason_of

PLAN = "plan.yaml"
"""The plan of a registered experiment, beside the arms that it runs."""

# Settings that an arm may change. The others make arms comparable: data, steps, optimizer, base and the flow loss.
FREE = {
    "moe": None,
    "wide": None,
    "optimizer": frozenset({"gate_rate", "expert_rate"}),
    "loss": frozenset(
        {
            "lambda_lbl",
            "lambda_align",
            "semantic_dim",
            "head_hidden",
            "head_layers",
            "tag_embedding",
            "routing_tokens",
            "align_target",
            "align_tags",
            "align_loss",
            "signature",
            "hard_signature",
        }
    ),
}
# Settings of places, logging and the seed. Arms need not share them.
ELSEWHERE = (
    "output_dir",
    "cache_dir",
    "dense",
    "seed",
    "tensorboard",
    "keep_checkpoints",
    "save_every",
    "save_minutes",
)


@dataclass(frozen=True)
class Arm:
    """One arm: its name, a line about it, and the settings of its run (each run sets `output_dir` and `seed`)."""

    name: str
    about: str
    config: RunConfig


def arm_names(folder: Path) -> list[str]:
    """The arms of a folder, by name. Raises UsageError when it holds no common.yaml."""
    if not (folder / COMMON).is_file():
        raise UsageError(f"The folder {str(folder)!r} holds no {COMMON}; name one such as tagworld/ablation.")
    return sorted(path.stem for path in folder.glob("*.yaml") if path.name not in (COMMON, PLAN))


def load_arms(folder: Path, names: Sequence[str] | None = None, overrides: Sequence[str] = ()) -> list[Arm]:
    """Load and check the arms of these names, by default all. overrides: changes of the settings that all share.

    Raises UsageError for an unknown name, ConfigError for a file that is wrong or changes what arms must share.
    """
    known = arm_names(folder)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UsageError(f"Unknown arm {', '.join(unknown)}; {str(folder)!r} has {', '.join(known)}.")
    common = _mapping(folder / COMMON)
    check_config(common, apply_overrides(common, overrides))
    return [_load(folder / f"{name}.yaml", common) for name in dict.fromkeys(names or known)]


def common_digest(config: RunConfig, measure: Mapping[str, Any]) -> str:
    """A digest of what compared arms must share: the settings that no arm may change, and how arms are measured."""
    settings = config.model_dump(mode="json")
    for name in ELSEWHERE:
        settings.pop(name, None)
    for block, free in FREE.items():
        settings[block] = {} if free is None else {k: v for k, v in settings[block].items() if k not in free}
    settings.pop("wide")  # so that digests stay those from before this setting existed
    text = json.dumps([settings, dict(measure)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _load(path: Path, common: dict[str, Any]) -> Arm:
    data = _mapping(path)
    about, settings = data.get("about"), data.get("settings")
    if not isinstance(about, str) or not isinstance(settings, dict) or len(data) != 2:
        raise ConfigError(f"The arm {str(path)!r} must hold 'about', a line of text, and 'settings', a mapping.")
    for block, changes in settings.items():
        free = FREE.get(block, frozenset())
        shared = [block] if block not in FREE else [f"{block}.{k}" for k in changes or () if free and k not in free]
        if shared:
            raise ConfigError(
                f"The arm {str(path)!r} changes {shared[0]!r}, which all arms must share; change it in {COMMON}."
            )
    config = check_config(_merged(common, settings))
    _check_beginning(config)
    return Arm(path.stem, about, config)


def _check_beginning(config: RunConfig) -> None:
    """Raise ConfigError for settings that take from arms the base that all of them start from."""
    for name, value in (("start", config.start), ("mixture", config.mixture)):
        if value not in (None, SCRATCH):
            raise ConfigError(
                f"The setting {name!r} names {value!r}, but every arm starts from the dense base of its seed; leave it "
                "out, or name a dense model by the setting 'dense' and set 'base.steps' to 0."
            )
    if config.parameters != "all":
        raise ConfigError(
            f"The setting 'parameters' is {config.parameters!r}, but the arms of an ablation train whole models; leave "
            "it out."
        )


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file {str(path)!r} cannot be read as YAML: {reason_of(error)}.") from error
    data = read_yaml(text, f"The file {str(path)!r}")
    if not isinstance(data, dict):
        raise ConfigError(f"The file {str(path)!r} holds no settings; it must be a mapping.")
    return data


def _merged(common: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = deepcopy(common)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else deepcopy(value)
    return merged
