"""Memory of a model's components, exact to the parameter, from the headers of its files. No weights are loaded.

GB in any text is 1e9 bytes. Weights are "full" (bf16 on a GPU, fp32 on a CPU), "8-bit" or "4-bit". The last two are
formats of bitsandbytes (https://github.com/bitsandbytes-foundation/bitsandbytes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.files.json_files import read_object
from tagmoe.weights.shards import Entry, read_file

GB = 1e9

# A 4-bit weight has one fp32 scale for this many values (bitsandbytes' default); an 8-bit weight has one a row.
VALUES_PER_SCALE = 64
SCALE_BYTES = 4

# Layers that stay unquantised. The gate computes in fp32 and decides which expert runs. The others are the first and
# last layers, which are tiny and sensitive to errors. bitsandbytes matches whole parts of a module's name.
UNQUANTISED = {
    "transformer": ("gate", "img_in", "txt_in", "time_text_embed", "norm_out", "proj_out"),
    "text_encoder": ("lm_head", "embed_tokens"),
}
BLOCKS = "transformer_blocks"


@dataclass(frozen=True)
class PartSize:
    """The weights of one component. All fields but `packed` and `stored` count parameters.

    quantised: parameters in layers that can be quantised. packed: bytes of those layers in 8 and in 4 bits.
    largest_group: the largest module that group offload moves at once. ungrouped: parameters outside such modules.
    largest_weight: the largest weight that can be quantised. pinned: parameters with every tensor rounded up to a power
    of two, as torch's allocator of pinned memory does. stored: bytes of a component whose file is quantised already.
    """

    parameters: int
    quantised: int
    packed: Mapping[str, int]
    largest_group: int
    ungrouped: int
    largest_weight: int
    pinned: int
    stored: int | None = None

    def bytes_as(self, form: str, value_bytes: int) -> int:
        """Bytes as "full", "8-bit" or "4-bit" weights. Values that are not quantised take `value_bytes` each."""
        if self.stored is not None:
            return self.stored
        if form == "full":
            return self.parameters * value_bytes
        return self.packed[form] + (self.parameters - self.quantised) * value_bytes


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model's components, and the sizes that its activations depend on.

    value_bytes: bytes of a value where nothing is quantised; quantised_value_bytes: of the others where something is.
    width, text_width, vae_width: channels of the transformer,
    the text encoder, and the autoencoder at full resolution. text_layers: layers of the text encoder. side: pixels of a
    side of the picture. image_tokens: tokens of the target and one reference. text_tokens: tokens of the prompt.
    batch: samples of a forward, 2 with guidance.
    """

    name: str
    transformer: PartSize
    text_encoder: PartSize
    vae: PartSize
    value_bytes: int
    width: int
    text_width: int
    text_layers: int
    vae_width: int
    side: int
    image_tokens: int
    text_tokens: int
    batch: int
    quantised_value_bytes: int = 2


def read_sizes(folder: Path, *, value_bytes: int = 2, quantised_value_bytes: int = 2) -> ModelSizes:
    """The sizes of the pipeline in `folder`, from its JSON files and the headers of its weights.

    Raises MissingError when the folder does not exist, and CheckpointError naming a file that is damaged or missing.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no model folder {str(folder)!r}; give a folder with model_index.json.")
    index = read_object(folder / "model_index.json")
    configs = {part: read_object(folder / part / "config.json") for part in ("transformer", "text_encoder", "vae")}
    parts = {}
    for part, config in configs.items():
        files = sorted((folder / part).glob("*.safetensors"))
        tensors = {name: entry for file in files for name, entry in read_file(file).items()}
        if "quantization_config" in config:
            parts[part] = _stored_size(tensors)
        else:
            parts[part] = part_size(part, {name: list(entry.shape) for name, entry in tensors.items()})
    try:
        sizes = _sizes(folder.resolve().name, parts, configs, index, value_bytes)
        return replace(sizes, quantised_value_bytes=quantised_value_bytes)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"A config in the model folder {str(folder)!r} is wrong: {error}.") from error


def full_size() -> ModelSizes:
    """The sizes of the authors' released model. It is built on the meta device, so its files are not needed.

    It is Qwen-Image in bf16 with 4 experts in the last 10 of 60 blocks. Gates are one linear layer, and experts have no
    biases.
    """
    import torch
    from diffusers import AutoencoderKLQwenImage
    from diffusers.models.modeling_utils import no_init_weights
    from transformers import Qwen2_5_VLForConditionalGeneration

    from tagmoe.model.transformer import TagMoETransformer2DModel

    encoder = text_encoder_config()
    with torch.device("meta"), no_init_weights():
        models = {
            "transformer": TagMoETransformer2DModel(num_moe_blocks=10, gate="linear", expert_bias=False),
            "text_encoder": Qwen2_5_VLForConditionalGeneration(encoder),
            "vae": AutoencoderKLQwenImage(),
        }
    parts = {
        name: part_size(name, {key: list(value.shape) for key, value in model.named_parameters()})
        for name, model in models.items()
    }
    configs = {"transformer": {}, "text_encoder": encoder.to_dict(), "vae": {}}
    return _sizes("the full-size model", parts, configs, {}, 2)


def text_encoder_config(layers: int = 28) -> Any:
    """The settings of Qwen2.5-VL-7B, with so many layers of its language model."""
    from transformers import Qwen2_5_VLConfig

    text: dict[str, Any] = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": layers,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


def part_size(part: str, shapes: Mapping[str, list[int]]) -> PartSize:
    """The size of a component ("transformer", "text_encoder", "vae") whose tensors have these shapes."""
    groups = Counter[str | None]()
    packed = {"8-bit": 0, "4-bit": 0}
    quantised = largest = pinned = 0
    for name, shape in shapes.items():
        count = prod(shape)
        groups[_group(part, name)] += count
        pinned += 1 << (count - 1).bit_length() if count else 0
        if is_quantised(part, name, shape):
            quantised += count
            largest = max(largest, count)
            packed["8-bit"] += count + SCALE_BYTES * shape[0]
            packed["4-bit"] += ceil(count / 2) + SCALE_BYTES * ceil(count / VALUES_PER_SCALE)
    ungrouped = groups.pop(None, 0)
    parameters = sum(map(prod, shapes.values()))
    return PartSize(parameters, quantised, packed, max(groups.values(), default=0), ungrouped, largest, pinned)


def is_quantised(part: str, name: str, shape: list[int]) -> bool:
    """Whether this tensor is quantised: it is the weight of a linear layer that is not in UNQUANTISED."""
    modules = name.split(".")
    return (
        part in UNQUANTISED
        and len(shape) == 2
        and modules[-1] == "weight"
        and not set(modules).intersection(UNQUANTISED[part])
    )


def _group(part: str, name: str) -> str | None:
    """The module that group offload moves as one: a block of the transformer, a single layer of the text encoder."""
    module = name.rpartition(".")[0]
    if part == "transformer":
        return ".".join(module.split(".")[:2]) if module.startswith(f"{BLOCKS}.") else None
    return module


def _stored_size(tensors: Mapping[str, Entry]) -> PartSize:
    """The size of a component that is quantised in its file: every plan keeps it as it is stored."""
    parameters = sum(prod(entry.shape) for entry in tensors.values())
    return PartSize(
        parameters, 0, {}, parameters, 0, 0, parameters, stored=sum(entry.nbytes for entry in tensors.values())
    )


def _count(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError(f"{name} is {value!r}; it must be a whole number of 1 or more")
    return value


def _sizes(
    name: str,
    parts: Mapping[str, PartSize],
    configs: Mapping[str, Mapping[str, Any]],
    index: Mapping[str, Any],
    value_bytes: int,
) -> ModelSizes:
    """Sizes from the configs. Missing settings get the defaults of Qwen-Image's classes and of `TagMoEPipeline`."""
    transformer, vae = configs["transformer"], configs["vae"]
    text = configs["text_encoder"].get("text_config", configs["text_encoder"])
    side = _count(index, "default_size", 1024)
    stride = 2 ** len(vae.get("temperal_downsample", (False, True, True))) * _count(transformer, "patch_size", 2)
    return ModelSizes(
        name=name,
        transformer=parts["transformer"],
        text_encoder=parts["text_encoder"],
        vae=parts["vae"],
        value_bytes=value_bytes,
        width=_count(transformer, "num_attention_heads", 24) * _count(transformer, "attention_head_dim", 128),
        text_width=_count(text, "hidden_size", 3584),
        text_layers=_count(text, "num_hidden_layers", 28),
        vae_width=_count(vae, "base_dim", 96),
        side=side,
        image_tokens=2 * ceil(side / stride) ** 2,
        text_tokens=128,
        batch=2 if index.get("default_cfg", 4.0) > 1 else 1,
    )
