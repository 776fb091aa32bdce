"""Read a LoRA file of any tool: its layers in the names of diffusers' transformer, and how strong each of them is.

A LoRA adds `strength * B A` to a linear layer, with strength = alpha / rank (alpha / sqrt(rank) for rsLoRA). Tools
write alpha in four places. The first of these that speaks of a layer counts, and it counts once:

1. a tensor `<layer>.alpha` beside the matrices (kohya, ComfyUI);
2. `lora_adapter_metadata` in the header (diffusers, with or without "transformer." in its names);
3. `lora_alpha`, `network_alpha` or `ss_network_alpha` in the header;
4. `adapter_config.json` beside the file (peft);
5. nowhere: alpha is the rank, so the strength is 1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.files.hub import local_folder, repository_files
from tagmoe.sentences import cut, reason_of

ADAPTER_CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PEFT_WEIGHTS = "adapter_model.safetensors"
# The header's names for one alpha of all layers, in the order of precedence.
ALPHA_NAMES = ("lora_alpha", "network_alpha", "ss_network_alpha")
PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
# Layers of text encoders in the files of kohya and diffusers. This pipeline loads no LoRA into its text encoder.
OTHER_PARTS = ("lora_te", "text_encoder.", "text_encoders.")
KINDS_OF_OTHERS = {
    r"\.lokr_": "LoKr",
    r"\.hada_": "LoHa",
    r"\.oft_": "OFT",
    "dora_scale|magnitude_vector": "DoRA",
    r"\.diff(_b)?$": "full weight difference",
    r"\.lora_mid": "LoCon",
    "lora_embedding_": "LoRA of embeddings",
}
MATRIX = re.compile(
    r"(?P<layer>.+?)\.(?:"
    r"lora_(?P<side>A|B|down|up)(?:\.(?P<adapter>[^.]+))?"
    r"|(?:lora|lora_linear_layer)\.(?P<old>down|up)"
    r"|processor\.(?P<module>\w+)_lora\.(?P<older>down|up)"
    r")\.(?P<part>weight|bias)"
)
ALPHA = re.compile(r"(?P<layer>.+)\.(?:alpha|lora_alpha|network_alpha)")
DORA = re.compile(r"(?:transformer\.)?(.+?)\.(?:lora_[AB]\.(?:weight|bias)|lora_magnitude_vector(?:\.weight)?)")
SIDES = {"A": "A", "down": "A", "B": "B", "up": "B"}
# These initialisations of peft change the layer that the LoRA belongs to, so the file alone is not the model.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "eva_base")


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a LoRA. down: A, (rank, in). up: B, (out, rank). bias: what is added to B's output, (out,)."""

    down: Tensor
    up: Tensor
    bias: Tensor | None
    strength: float
    alpha_from: str


@dataclass(frozen=True)
class LoraFile:
    """The content of a LoRA file. layers: {module: layer}. others: names of layers for other components."""

    label: str
    layers: dict[str, LoraLayer]
    others: tuple[str, ...] = ()


@dataclass
class _Parts:
    """What a file holds of one layer."""

    matrices: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None


def read_lora(
    source: str | Path | Mapping[str, Tensor],
    modules: Iterable[str],
    *,
    weight_name: str | None = None,
    subfolder: str | None = None,
    **hub: Any,
) -> LoraFile:
    """Read a safetensors file, a folder or hub repository that holds one, or a state dict.

    modules: names of the model's modules, with which the names of kohya ("lora_unet_transformer_blocks_0_attn_to_q")
    are understood. weight_name, subfolder: which file of a folder or repository. hub: revision, token, cache_dir,
    local_files_only, force_download.

    Raises MissingError without the file, UsageError for a pickle or an option that does not apply, CheckpointError for
    a damaged file, another kind than LoRA, numbers that are not finite, and tensors that are no part of a LoRA.
    """
    if isinstance(source, Mapping):
        given = {"weight_name": weight_name, "subfolder": subfolder, **hub}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} is {value!r}, but a state dict needs no file; leave {name} out.")
        return _parse("the state dict", dict(source), {}, {}, modules)
    file = lora_file(source, weight_name, subfolder, **hub)
    label = repr(str(file))
    try:
        with safe_open(file, framework="pt") as tensors:
            header = tensors.metadata() or {}
            weights = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        config = json.loads(path.read_text("utf-8")) if (path := _config_beside(file)) else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{label} is damaged ({reason_of(error)}); copy or download it again.") from error
    return _parse(label, weights, header, config, modules)


def is_dora_of(source: str | Path | Mapping[str, Tensor], modules: Iterable[str], **file_options: Any) -> bool:
    """Whether this is a DoRA of exactly these modules that diffusers saved, so that diffusers loads it exactly."""
    if isinstance(source, Mapping):
        return False
    try:
        with safe_open(lora_file(source, **file_options), framework="pt") as tensors:
            names, header = list(tensors.keys()), tensors.metadata() or {}
    except (SafetensorError, OSError):
        return False
    layers = [DORA.fullmatch(name) for name in names]
    known = set(modules)
    return (
        LORA_ADAPTER_METADATA_KEY in header
        and any("magnitude" in name for name in names)
        and all(layer is not None and layer[1] in known for layer in layers)
    )


def lora_file(source: str | Path, weight_name: str | None = None, subfolder: str | None = None, **hub: Any) -> Path:
    """The safetensors file that `source` (a file, folder or hub repository) means; of a repository only it is fetched.

    Raises MissingError, UsageError.
    """
    path = Path(source)
    named = Path(weight_name or source)
    if named.suffix != ".safetensors" and (weight_name or path.is_file() or named.suffix in PICKLES):
        raise UsageError(
            f"The LoRA {str(named)!r} is no .safetensors file; a pickle can run code when it is read, "
            "so only safetensors are loaded."
        )
    if path.is_file():
        given = {"subfolder": subfolder, "revision": hub.get("revision")}
        given["weight_name"] = None if weight_name == path.name else weight_name
        for name, value in given.items():
            if value:
                raise UsageError(f"{name} is {value!r}, but {str(source)!r} is a file; leave {name} out.")
        return path
    if path.suffix == ".safetensors":
        raise MissingError(f"There is no LoRA file {str(path)!r}; check the path.")
    where = f"{subfolder.strip('/')}/" if subfolder else ""
    inside = Path(where + (weight_name or ""))
    if ".." in inside.parts or inside.is_absolute():
        raise UsageError(f"{str(inside)!r} leads out of {str(source)!r}; give a path inside it.")
    if path.is_dir():
        if hub.get("revision"):
            raise UsageError(f"revision is {hub['revision']!r}, but {str(source)!r} is a folder; leave revision out.")
        files = [file.relative_to(path).as_posix() for file in path.glob(f"{where}**/*.safetensors")]
        return path / _choose(files, where, weight_name, source)
    files = repository_files(source, ".safetensors", **hub)
    name = _choose(files, where, weight_name, source)
    beside = f"{name.rpartition('/')[0]}/{ADAPTER_CONFIG}".lstrip("/")
    return local_folder(source, allow_patterns=(name, beside), **hub) / name


def _choose(files: list[str], where: str, weight_name: str | None, source: str | Path) -> str:
    """The file of a folder: the named one, else the one that diffusers' or peft's name says, else the only one."""
    here = sorted(name for name in files if name.startswith(where) and "/" not in name[len(where) :])
    if weight_name is None:
        usual = [where + name for name in (LORA_WEIGHT_NAME_SAFE, PEFT_WEIGHTS) if where + name in here]
        chosen = usual[0] if usual else here[0] if len(here) == 1 else where + LORA_WEIGHT_NAME_SAFE
    else:
        chosen = where + weight_name
    if chosen not in files:
        raise MissingError(
            f"{str(source)!r} holds no {chosen!r} but {', '.join((here or sorted(files))[:4]) or 'no safetensors'}; "
            "give the file itself, or its name as weight_name."
        )
    return chosen


def _config_beside(file: Path) -> Path | None:
    """peft's settings of this file, if it has any: they belong to peft's own file, or to the only one in the folder."""
    path = file.parent / ADAPTER_CONFIG
    is_its_own = file.name == PEFT_WEIGHTS or len(list(file.parent.glob("*.safetensors"))) == 1
    return path if is_its_own and path.is_file() else None


def _parse(
    label: str, weights: dict[str, Tensor], header: Mapping[str, str], config: Any, modules: Iterable[str]
) -> LoraFile:
    parts, others = _by_layer(label, weights, {name.replace(".", "_"): name for name in modules})
    sources = _alphas(label, header, config)
    layers = {}
    for name, found in parts.items():
        down, up = found.matrices.get("A.weight"), found.matrices.get("B.weight")
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            raise CheckpointError(f"{label} is incomplete: {name!r} needs the two matrices lora_A and lora_B.")
        strength, origin = _strength(label, name, found.alpha, sources, down.shape[0])
        layers[name] = LoraLayer(down, up, found.matrices.get("B.bias"), strength, origin)
    if not layers:
        raise CheckpointError(f"{label} holds no LoRA of a Qwen-Image transformer; give another file.")
    return LoraFile(label, layers, others)


def _by_layer(
    label: str, weights: dict[str, Tensor], flat_names: Mapping[str, str]
) -> tuple[dict[str, _Parts], tuple[str, ...]]:
    """{module: its tensors}, and names of layers for other components. Every tensor must be a part of a LoRA."""
    parts: dict[str, _Parts] = {}
    others, adapters = set(), set()
    for key, value in weights.items():
        kind = next((kind for mark, kind in KINDS_OF_OTHERS.items() if re.search(mark, key)), None)
        if kind:
            raise CheckpointError(f"{label} is of the kind {kind}; only plain LoRA can be loaded.")
        matrix, alpha = MATRIX.fullmatch(key), ALPHA.fullmatch(key)
        if key.startswith(OTHER_PARTS):
            others.add((matrix or alpha or {"layer": key})["layer"])
            continue
        _check_numbers(label, key, value)
        if matrix:
            if matrix["adapter"]:
                adapters.add(matrix["adapter"])
            layer = matrix["layer"]
            if matrix["module"]:
                layer += f".{'to_out.0' if matrix['module'] == 'to_out' else matrix['module']}"
            side = SIDES[matrix["side"] or matrix["old"] or matrix["older"]]
            entry = parts.setdefault(_module_name(layer, flat_names), _Parts()).matrices
            if entry.setdefault(f"{side}.{matrix['part']}", value) is not value:
                raise CheckpointError(f"{label} holds two matrices for {key!r}; save one adapter to a file.")
        elif alpha:
            parts.setdefault(_module_name(alpha["layer"], flat_names), _Parts()).alpha = float(value)
        else:
            raise CheckpointError(f"{label} holds {key!r}, which is no part of a LoRA; save the LoRA alone.")
    if len(adapters) > 1:
        raise CheckpointError(f"{label} holds the adapters {', '.join(sorted(adapters))}; save one adapter to a file.")
    return parts, tuple(sorted(others))


def _check_numbers(label: str, key: str, value: Tensor) -> None:
    """Every number of a LoRA must be a finite float: one NaN in a layer makes every picture black."""
    if not value.is_floating_point() and value.numel() != 1:
        raise CheckpointError(f"{label} holds {key!r} as {str(value.dtype).removeprefix('torch.')}; save it as floats.")
    number = value.float()
    if not number.isfinite().all():
        raise CheckpointError(f"{label} holds numbers in {key!r} that are not finite; the file is of no use.")


def _module_name(layer: str, flat_names: Mapping[str, str]) -> str:
    """The module that a layer's name in a file means."""
    for prefix in FLAT_PREFIXES:
        if layer.startswith(prefix):
            flat = layer.removeprefix(prefix)
            return flat_names.get(flat.replace(".", "_"), flat)
    for prefix in PREFIXES:
        layer = layer.removeprefix(prefix)
    return layer


def _alphas(label: str, header: Mapping[str, str], config: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """(where, peft's settings) of all layers together, in the order of precedence."""
    try:
        adapter = json.loads(header.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{label} has a damaged header ({reason_of(error)}); save it again.") from error
    if not isinstance(adapter, dict) or not isinstance(config, dict):
        raise CheckpointError(f"{label} has settings that are no JSON object; save it again.")
    for settings in (own := _of_transformer(adapter)), config:
        kind, start = settings.get("peft_type", "LORA"), settings.get("init_lora_weights")
        if kind != "LORA" or settings.get("use_dora"):
            raise CheckpointError(f"{label} is of the kind {kind if kind != 'LORA' else 'DoRA'}; give a plain LoRA.")
        if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
            raise CheckpointError(
                f"{label} was begun as {start}, which changes the model's own weights too; convert it to a plain LoRA."
            )
        if settings.get("modules_to_save"):
            raise CheckpointError(f"{label} replaces whole modules (modules_to_save); only plain LoRA can be loaded.")
    plain = _of_transformer(header)
    single = next(({"lora_alpha": plain[name]} for name in ALPHA_NAMES if name in plain), {})
    return [("header", own), ("header", single), (ADAPTER_CONFIG, config)]


def _of_transformer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the transformer: those named "transformer.x", else those without a component's name."""
    plain = {name: value for name, value in settings.items() if "." not in name}
    return plain | {n.removeprefix("transformer."): v for n, v in settings.items() if n.startswith("transformer.")}


def _strength(
    label: str, name: str, alpha: float | None, sources: list[tuple[str, Mapping[str, Any]]], rank: int
) -> tuple[float, str]:
    """alpha / rank of one layer, and where alpha stands."""
    if alpha is not None:
        return _finite(label, alpha) / rank, ".alpha tensors"
    from peft.utils.other import get_pattern_key

    for where, settings in sources:
        patterns = settings.get("alpha_pattern") or {}
        key = get_pattern_key(patterns.keys(), name)
        stated = patterns.get(key, settings.get("lora_alpha"))
        if stated is not None:
            root = rank**0.5 if settings.get("use_rslora") else rank
            return _finite(label, stated) / root, where
    return 1.0, "nowhere, so it is the rank"


def _finite(label: str, stated: Any) -> float:
    try:
        alpha = float(stated)
    except (TypeError, ValueError):
        alpha = math.nan
    if not math.isfinite(alpha) or alpha == 0:
        raise CheckpointError(f"{label} gives alpha as {cut(str(stated))!r}; it must be a number other than 0.")
    return alpha
