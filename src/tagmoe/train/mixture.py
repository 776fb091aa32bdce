"""Go on with a finished mixture: its settings and weights, in place of a dense base and upcycling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from tagmoe.config import RunConfig
from tagmoe.config.describe import in_yaml
from tagmoe.config.fit import SCRATCH, misfits
from tagmoe.errors import CheckpointError, ConfigError, MissingError
from tagmoe.files.json_files import read_object
from tagmoe.losses.objective import Objective
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.folder import ALIGNMENT, read_alignment
from tagmoe.pipeline.model_folder import model_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.release import explain_release
from tagmoe.train.components_folder import Components
from tagmoe.weights.shards import read_file

TRANSFORMER = ("num_layers", "num_attention_heads", "attention_head_dim", "axes_dims_rope")
MOE = ("num_moe_blocks", "num_experts", "top_k", "gate")


def named_folder(source: str, setting: str) -> Path:
    """The model folder that a setting names, by itself or by its run. Raises MissingError where there is none."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise MissingError(f"There is no model folder {source!r}, which the setting {setting!r} names; train it first.")
    return model_folder(folder)


def with_start(config: RunConfig) -> RunConfig:
    """The config with `start` in the older words: `dense` or `mixture`, by what its folder holds, then `with_mixture`.

    Raises MissingError without the folder, UsageError for the authors' transformer alone, and the errors of
    `with_mixture`.
    """
    if config.start == SCRATCH:
        return with_mixture(config)
    folder = named_folder(config.start, "start")
    try:
        saved = read_object(folder / "transformer" / "config.json")
    except CheckpointError as error:
        raise explain_release(folder, error) from None
    kind = "mixture" if saved.get("num_moe_blocks") else "dense"
    config = config.model_copy(update={"start": SCRATCH, kind: config.start})
    # Some settings exclude each other only now that the kind of the folder is known.
    if problems := misfits(config):
        raise ConfigError(" ".join(problems))
    return with_mixture(config)


def with_mixture(config: RunConfig) -> RunConfig:
    """The config with what its mixture decides: `transformer`, `moe`, the head in `loss`, and by default `components`
    and `loss.routing_tokens`.

    Raises MissingError without the folder, and ConfigError for a dense model and for settings that contradict it: all
    are named. A config without `mixture` is returned as it is.
    """
    if config.mixture is None:
        return config
    folder = named_folder(config.mixture, "mixture")
    problems: list[str] = []
    changes: dict[str, Any] = {}
    for block, values in _settings(folder, config.mixture).items():
        given = getattr(config, block)
        changes[block] = given.model_copy(update=values)
        problems += _contradictions(block, given, values, config.mixture)
    assert config.moe is not None
    if config.moe.mode == "plain" and _is_scaled(folder):
        problems.append(
            f"The setting 'moe.mode' is plain, but the experts of the mixture {config.mixture!r} began as exact; "
            "leave it out."
        )
    if problems:
        raise ConfigError(" ".join(problems))
    if "routing_tokens" not in config.loss.model_fields_set:
        counted = read_object(folder / "transformer" / "config.json").get("routing_tokens", "all")
        changes["loss"] = changes.get("loss", config.loss).model_copy(update={"routing_tokens": counted})
    if "components" not in config.model_fields_set:
        changes["components"] = str(folder)
    return config.model_copy(update=changes)


def load_mixture(config: RunConfig, parts: Components) -> TagMoETransformer2DModel:
    """The transformer of a config's mixture. Raises ConfigError where `components` do not fit it.

    It is in fp32. Where most of it stays frozen in fewer bits, it is in bf16 if its files are: `choose_trained` makes
    what trains fp32, and so the host never holds the whole model in fp32.
    """
    assert config.mixture is not None
    folder = named_folder(config.mixture, "mixture")
    keeps_fp32 = config.parameters == "all" or config.frozen_dtype == "fp32"
    dtype = torch.float32 if keeps_fp32 or not _is_bf16(folder / "transformer") else torch.bfloat16
    transformer = TagMoEPipeline.from_pretrained(
        folder, dtype=dtype, text_encoder=None, tokenizer=None, vae=None
    ).transformer
    check_components(transformer.config, config, parts)
    return transformer


def check_components(described: Mapping[str, Any], config: RunConfig, parts: Components) -> None:
    """Raise ConfigError where `components` do not fit the config of the mixture's transformer."""
    wanted = {
        "joint_attention_dim": parts.text_encoder.config.text_config.hidden_size,
        "in_channels": 4 * parts.vae.config.z_dim,
    }
    for name, value in wanted.items():
        if described[name] != value:
            raise ConfigError(
                f"The setting 'components' names parts for a transformer whose {name} is {value}, but that of the "
                f"mixture {config.mixture!r} is {described[name]}; leave 'components' out."
            )


def _is_bf16(folder: Path) -> bool:
    """Whether every weight in a folder is stored in bf16, by the headers of its files."""
    return all(entry.dtype == "BF16" for file in folder.glob("*.safetensors") for entry in read_file(file).values())


def restore_alignment(objective: Objective, config: RunConfig) -> bool:
    """Copy W_tag and H_pred of a config's mixture into the objective. False where its folder has none."""
    assert config.mixture is not None
    tensors = read_alignment(named_folder(config.mixture, "mixture"))
    if tensors is None:
        return False
    objective.load_state_dict({name: value.float() for name, value in tensors.items()})
    return True


def _settings(folder: Path, source: str) -> dict[str, dict[str, Any]]:
    """By block, the settings that the model in a folder was trained with, as far as its files tell."""
    saved = read_object(folder / "transformer" / "config.json")
    if not saved.get("num_moe_blocks"):
        raise ConfigError(f"The setting 'mixture' names {source!r}, a dense model; name it by the setting 'dense'.")
    found = {"transformer": {name: saved[name] for name in TRANSFORMER}, "moe": {name: saved[name] for name in MOE}}
    found["moe"]["gate_input"] = saved.get("gate_input", "modulated")
    found["transformer"]["axes_dims_rope"] = tuple(saved["axes_dims_rope"])
    if (folder / ALIGNMENT).is_file():
        shapes = {name: entry.shape for name, entry in read_file(folder / ALIGNMENT).items()}
        found["loss"] = {
            "semantic_dim": shapes["tag_embedding.weight"][1],
            "head_hidden": shapes["router_head.net.0.weight"][0],
            "head_layers": 3 if "router_head.net.4.weight" in shapes else 2,
        }
        if saved["num_moe_blocks"] > 1:
            # With one mixture both signatures are as wide.
            of_layers = shapes["router_head.net.0.weight"][1] > saved["num_experts"]
            found["loss"]["signature"] = "by-layer" if of_layers else "mean"
    return found


def _is_scaled(folder: Path) -> bool:
    """Whether a mixture was upcycled by the mode "exact": its experts carry a factor then."""
    return bool(read_object(folder / "transformer" / "config.json").get("expert_scale", 1.0) != 1)


def _contradictions(block: str, given: BaseModel, values: dict[str, Any], source: str) -> list[str]:
    """A sentence for each setting that the recipe itself gives, and that the mixture has otherwise."""
    return [
        f"The setting '{block}.{name}' is {in_yaml(getattr(given, name))}, but the mixture {source!r} has "
        f"{in_yaml(value)}; leave it out."
        for name, value in values.items()
        if name in given.model_fields_set and getattr(given, name) != value
    ]
