"""Check a pipeline folder before it is loaded: it must be complete, undamaged, and name only known classes.

model_index.json may come from strangers, and it decides which classes are imported. So it may only name those of a
Qwen-Image pipeline.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, SchedulerMixin
from diffusers.models import QwenImageTransformer2DModel
from diffusers.models.modeling_utils import no_init_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.files.hub import local_folder
from tagmoe.files.json_files import read_object
from tagmoe.model.loading import check_finite, first_line
from tagmoe.pipeline.arguments import check_variant, is_whole
from tagmoe.pipeline.seen_pictures import PAD
from tagmoe.sentences import cut, reason_of

ALIGNMENT = "alignment.safetensors"
LIBRARIES = ("diffusers", "transformers", "tagmoe")
PARTS: dict[str, type] = {
    "transformer": QwenImageTransformer2DModel,
    "vae": AutoencoderKLQwenImage,
    "text_encoder": Qwen2_5_VLForConditionalGeneration,
    "tokenizer": PreTrainedTokenizerBase,
    "scheduler": SchedulerMixin,
}


def _is_count(value: Any) -> bool:
    return is_whole(value) and value >= 1


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and value.count("{}") == 1


def _is_template_or_none(value: Any) -> bool:
    return value is None or _is_template(value)


def _is_mark(value: Any) -> bool:
    return isinstance(value, str) and value.count(PAD) == 1


def _is_scale(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_words(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(word, str) for word in value))


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    sizes = value.get("sizes") if isinstance(value, dict) else None
    are_sizes = isinstance(sizes, list) and all(
        isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)) for size in sizes
    )
    return (
        are_sizes
        and bool(sizes)
        and value.keys() - {"divide"} == {"pictures", "sizes"}
        and isinstance(value["pictures"], str)
    )


OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt_template": (_is_template, "a text with {} once"),
    "picture_template": (_is_template_or_none, "null or a text with {} once"),
    "picture_mark": (_is_mark, "a text with <|image_pad|> once"),
    "picture_area": (_is_count, "a whole number of 1 or more"),
    "max_prompt_tokens": (_is_count, "a whole number of 1 or more"),
    "known_words": (_is_words, "null or a list of words"),
    "default_steps": (_is_count, "a whole number of 1 or more"),
    "default_cfg": (_is_scale, "a finite number of 0 or more"),
    "default_size": (_is_count, "a whole number of 1 or more"),
    "trained_on": (_is_range, 'null or {"pictures": a text, "sizes": [[width, height], ...]}'),
}


def pipeline_folder(source: Any, **options: Any) -> Path:
    """The folder of a pipeline. A name on the hub is downloaded, without pickles and Python files.

    options: those of `tagmoe.files.hub.local_folder`, whose errors it also raises. Raises CheckpointError for a
    repository that is no pipeline, before the weights are downloaded.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    index = local_folder(path, allow_patterns=("model_index.json",), **options) / "model_index.json"
    if not index.is_file():
        raise CheckpointError(
            f"{str(source)!r} has no model_index.json, so it is no pipeline; the authors' weights need "
            'base="Qwen/Qwen-Image" beside them.'
        )
    return local_folder(path, **options)


def check_model_folder(folder: Path, *, given: Collection[str] = (), variant: str | None = None) -> list[str]:
    """Refuse a pipeline folder that would not load completely, and name the parts that it was saved without.

    Of weight files only the headers are read.

    This check is needed because diffusers and transformers only warn about missing weights, and then run on random
    ones. Components in `given` are not checked. Raises MissingError when the folder does not exist, and CheckpointError
    naming the file for everything else. Raises UsageError for a variant of Qwen-Image that the pipeline cannot run.
    """
    if not folder.is_dir():
        raise MissingError(
            f"There is no model folder {str(folder)!r}; give a folder written by save_pretrained, or download one "
            "with `hf download <repo> --local-dir <folder>`."
        )
    index = folder / "model_index.json"
    entries = read_object(index)
    if not isinstance(entries.get("_class_name"), str):
        # A list in its place would name a Python file in the folder, which diffusers would run.
        raise CheckpointError(
            f"{str(index)!r} has _class_name {entries.get('_class_name')!r}; it must be the name of a pipeline class."
        )
    for name, (fits, wanted) in OPTIONS.items():
        if name in entries and name not in given and not fits(entries[name]):
            raise CheckpointError(f"{str(index)!r} has {name} {cut(repr(entries[name]))}; it must be {wanted}.")
    missing = [name for name in PARTS if name not in given and entries.get(name) == [None, None]]
    found: set[str | None] = set()
    for name, kind in PARTS.items():
        if name not in given and name not in missing:
            found.add(_check_part(folder / name, _class_of(index, name, entries.get(name), kind), variant))
    if variant is not None and variant not in found:
        raise CheckpointError(f"{str(folder)!r} has no weights of variant {variant!r}; load it without variant.")
    return missing


def read_alignment(folder: Path) -> dict[str, torch.Tensor] | None:
    """W_tag and H_pred from alignment.safetensors; None without the file. Raises CheckpointError when it is damaged."""
    file = folder / ALIGNMENT
    if not file.is_file():
        return None
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged ({first_line(error)}); copy or download it again.") from None


def class_of_part(folder: Path, name: str) -> Any:
    """The class of a component of a checked folder. Raises CheckpointError when it is none of the allowed libraries."""
    index = folder / "model_index.json"
    return _class_of(index, name, read_object(index).get(name), PARTS[name])


def read_part(folder: Path, name: str, *, dtype: torch.dtype, device: torch.device) -> Any:
    """A component of a folder that `check_model_folder` has passed, put on the device one tensor at a time.

    On the device "meta" it has its settings alone, and no weights are read. Raises CheckpointError for weights that are
    not finite.
    """
    part_class = class_of_part(folder, name)
    options: dict[str, Any] = {"device_map": {"": str(device)}, "use_safetensors": True}
    if issubclass(part_class, PreTrainedModel):
        part = part_class.from_pretrained(folder / name, dtype=dtype, **options)
    elif device.type == "meta":
        with device, no_init_weights():
            part = part_class.from_config(read_object(folder / name / "config.json")).to(dtype)
    else:
        part = part_class.from_pretrained(folder / name, torch_dtype=dtype, **options)
    check_finite(part, str(folder / name))
    return part


def _class_of(index: Path, name: str, entry: Any, kind: type) -> type:
    """The class that model_index.json names for a component. Only the allowed libraries are imported."""
    allowed = f"it must be [library, class] with a {kind.__name__} of {', '.join(LIBRARIES)}"
    is_pair = isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)
    if not is_pair or entry[0] not in LIBRARIES or entry[1].startswith("_"):
        raise CheckpointError(f"{str(index)!r} has {name} {cut(repr(entry))}; {allowed}.")
    try:
        part_class = getattr(importlib.import_module(entry[0]), entry[1])
    except (ImportError, AttributeError):
        raise CheckpointError(f"{str(index)!r} names {entry[0]}.{entry[1]}, which is not installed.") from None
    if not isinstance(part_class, type) or not issubclass(part_class, kind):
        raise CheckpointError(f"{str(index)!r} has {name} {cut(repr(entry))}; {allowed}.")
    return part_class


def _check_part(part: Path, part_class: Any, variant: str | None) -> str | None:
    """The variant of the part's weights; where a part has none of the wanted variant, its plain weights are used."""
    if not part.is_dir():
        raise CheckpointError(f"The model folder is incomplete: {str(part)!r} is missing; copy or download it again.")
    for file in sorted(part.glob("*.json")):
        read_object(file)
    if issubclass(part_class, nn.Module):
        return _check_weights(part, part_class, variant)
    elif issubclass(part_class, SchedulerMixin):
        read_object(part / part_class.config_name)
    elif not (part / "vocab.json").is_file():
        # Without either file transformers makes a tokenizer of one token, in silence.
        read_object(part / "tokenizer.json")
    return None


def _check_weights(part: Path, part_class: Any, variant: str | None) -> str | None:
    config = read_object(part / "config.json")
    if issubclass(part_class, QwenImageTransformer2DModel):
        check_variant(config)
    is_transformers = issubclass(part_class, PreTrainedModel)
    files = _weight_files(part, "model" if is_transformers else "diffusion_pytorch_model", variant)
    if variant is not None and f".{variant}" not in files[0].name:
        variant = None
    shapes: dict[str, list[int]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{str(file)!r} is damaged or cut short ({reason_of(error)}); copy or download it again."
            ) from None
    # Quantised files hold packed weights under other keys. Only their own loader can tell whether they fit.
    if "quantization_config" in config:
        return variant
    if is_transformers:
        # Old checkpoints use other names than the model. So transformers maps them itself, without reading weights.
        shows_bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            _, info = part_class.from_pretrained(
                part,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                variant=variant,
                use_safetensors=True,
            )
        except Exception as error:
            raise CheckpointError(f"{str(part)!r} does not fit its config.json ({first_line(error)}).") from None
        finally:
            if shows_bars:
                transformers_logging.enable_progress_bar()
        missing, unexpected, reshaped = info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"]
    else:
        try:
            # Names and shapes alone are wanted: to draw first weights takes most of the time, even those without bytes.
            with torch.device("meta"), no_init_weights():
                wanted = {key: list(value.shape) for key, value in part_class.from_config(config).state_dict().items()}
        except Exception as error:
            # Settings from strangers can make a constructor raise any exception.
            raise CheckpointError(f"{str(part / 'config.json')!r} is no valid config ({first_line(error)}).") from None
        missing, unexpected = wanted.keys() - shapes.keys(), shapes.keys() - wanted.keys()
        reshaped = {key for key in wanted.keys() & shapes.keys() if wanted[key] != shapes[key]}
    problems = [
        f"{what}: {', '.join(sorted(map(str, keys))[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}"
        for what, keys in (("missing", missing), ("unknown", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise CheckpointError(f"The weights {str(files[0])!r} do not fit their config.json; {'; '.join(problems)}.")
    return variant


def _weight_files(part: Path, stem: str, variant: str | None) -> list[Path]:
    names = [f"{stem}.{variant}.safetensors", f"{stem}.safetensors"] if variant else [f"{stem}.safetensors"]
    for name in names:
        if (part / name).is_file():
            return [part / name]
        indexes = sorted(part.glob(f"{name.removesuffix('.safetensors')}.safetensors.index*.json"))
        if indexes:
            weight_map = read_object(indexes[0]).get("weight_map")
            shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
            if not shards or not all(isinstance(shard, str) for shard in shards):
                raise CheckpointError(f"{str(indexes[0])!r} has no weight_map of files; copy or download it again.")
            shards = sorted(set(shards))
            for shard in shards:
                if not (part / shard).is_file():
                    raise CheckpointError(
                        f"The model folder is incomplete: {str(part / shard)!r} is missing; copy or download it again."
                    )
            return [part / shard for shard in shards]
    raise CheckpointError(
        f"The model folder is incomplete: {str(part / names[-1])!r} is missing; copy or download it again."
    )
