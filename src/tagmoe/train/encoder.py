"""The `Encoder` of `tagmoe.data.encode` for a pipeline folder. It loads only the VAE and the text encoder.

It calls the same methods of `TagMoEPipeline` as training and inference do, so that the results are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from tagmoe.data.encode import CODE_VERSION
from tagmoe.data.encoder import Encoder
from tagmoe.data.order.rows import Size
from tagmoe.errors import UsageError
from tagmoe.files.json_files import read_object
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pictures import load_image
from tagmoe.pipeline.folder import check_model_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.seen_pictures import picture_options
from tagmoe.pipeline.tensors import images_to_tensor
from tagmoe.weights.presets import RELEASE
from tagmoe.weights.shards import read_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LONG_PROMPTS = ("truncate", "skip")
"""What happens to a wording of too many tokens: cut to its first ones, or not encoded."""
READ_BYTES = 1 << 24


class PipelineEncoder:
    """An `Encoder` over a pipeline. sizes: (width, height) of the buckets. long_prompts: one of LONG_PROMPTS."""

    def __init__(self, pipeline: TagMoEPipeline, sizes: Sequence[Size], long_prompts: str) -> None:
        self.pipeline = pipeline
        self.truncates = long_prompts == "truncate"
        self.sizes = tuple(sizes)
        self.multiple = pipeline.size_multiple

    def decode(self, data: bytes) -> PIL.Image.Image:
        """The upright RGB picture, by the rules of `load_image`. Raises ImageError."""
        return load_image(data)

    def encode_pictures(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Normalised latents (B, z, h, w), float32."""
        return self.pipeline.encode_images(images_to_tensor(pictures)).cpu().numpy()

    @property
    def sees_pictures(self) -> bool:
        """Whether the embedding of a text depends on the references beside it."""
        return self.pipeline.config.picture_template is not None

    def encode_texts(
        self, texts: Sequence[str], pictures: Sequence[Sequence[PIL.Image.Image]] | None = None
    ) -> list[np.ndarray]:
        """Embeddings (S, D), float32, without padding. Raises UsageError for a text that the pipeline refuses."""
        embeddings, mask = self.pipeline.encode_texts(texts, pictures, truncate=self.truncates)
        lengths = mask.sum(dim=1).tolist()
        return [values[:length].float().cpu().numpy() for values, length in zip(embeddings, lengths, strict=True)]

    def is_cut(self, text: str) -> bool:
        """Whether `encode_texts` cuts this text."""
        return self.truncates and self.pipeline.is_long(text)


class _Encoding(TagMoEPipeline):
    """A pipeline whose transformer has no weights: encoding does not use them, and at full size they take 40 GB."""

    @property
    def _execution_device(self) -> torch.device:
        return self.vae.device


def encoder_of(
    folder: Path,
    sizes: Sequence[Size] | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    long_prompts: str | None = None,
) -> tuple[partial[Encoder], dict[str, Any]]:
    """A function that loads the encoder, which can be pickled for workers, and the encoder's fingerprint.

    No weights are loaded here. sizes: (width, height) of the buckets, by default `default_sizes`. dtype: a key of
    DTYPES, by default bfloat16 on a GPU, else float32. threads: threads of torch, by default 1 for TagWorld, else
    torch's choice. long_prompts: one of LONG_PROMPTS, by default the first. Raises UsageError for sizes that the model
    cannot encode, and the errors of `check_model_folder`.
    """
    check_model_folder(folder)
    index = read_object(folder / "model_index.json")
    chosen = default_sizes(index) if sizes is None else list(sizes)
    dtype = dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    if dtype not in DTYPES:
        raise UsageError(f"The dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    _check_sizes(chosen, _size_multiple(folder))
    if threads is None and index.get("known_words") is not None:
        threads = 1
    long_prompts = long_prompts or LONG_PROMPTS[0]
    fingerprint = {**_fingerprint(folder, index, chosen, dtype), "long_prompts": long_prompts}
    return partial(_load, folder.resolve(), chosen, dtype, threads, long_prompts), fingerprint


def default_sizes(index: dict[str, Any]) -> list[Size]:
    """The default buckets by model_index.json: the release's 33 sizes, or the one square of a smaller model."""
    side = int(index.get("default_size", RELEASE.square[0]))
    return list(RELEASE.sizes) if side >= min(RELEASE.square) else [(side, side)]


def _load(folder: Path, sizes: list[Size], dtype: str, threads: int | None, long_prompts: str) -> Encoder:
    if threads is not None:
        torch.set_num_threads(threads)
    with torch.device("meta"):
        transformer = TagMoETransformer2DModel.from_config(read_object(folder / "transformer" / "config.json"))
    pipeline = _Encoding.from_pretrained(folder, transformer=transformer, dtype=DTYPES[dtype])
    if torch.cuda.is_available():
        pipeline.vae.to("cuda")
        pipeline.text_encoder.to("cuda")
    return PipelineEncoder(pipeline, sizes, long_prompts)


def _size_multiple(folder: Path) -> int:
    """Pixels of a token's side, as `TagMoEPipeline.size_multiple`, but from the configs alone."""
    vae, transformer = (read_object(folder / part / "config.json") for part in ("vae", "transformer"))
    return int(2 ** len(vae.get("temperal_downsample", (False, True, True))) * transformer.get("patch_size", 2))


def _check_sizes(sizes: Sequence[Size], multiple: int) -> None:
    if not sizes:
        raise UsageError("There is no bucket; give at least one size.")
    for width, height in sizes:
        if width < multiple or height < multiple or width % multiple or height % multiple:
            raise UsageError(f"The size {width}x{height} is refused; the model needs multiples of {multiple}.")
    if len(set(sizes)) < len(sizes):
        raise UsageError("A size is given twice; give each bucket once.")


def _fingerprint(folder: Path, index: dict[str, Any], sizes: Sequence[Size], dtype: str) -> dict[str, Any]:
    """Digests by component, so that an error can name what differs. Names and shards of weight files do not matter."""
    prompt = [index.get(name) for name in ("prompt_template", "max_prompt_tokens", "known_words")]
    seen = picture_options(index)
    if seen.get("picture_template") is not None:
        prompt.append(sorted(seen.items()))
    return {
        "vae": _digest_of_weights(folder / "vae"),
        "text_encoder": _digest_of_weights(folder / "text_encoder"),
        "tokenizer": _digest_of_files(folder / "tokenizer"),
        "prompt": hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16],
        "sizes": [list(size) for size in sizes],
        "dtype": dtype,
        "code": CODE_VERSION,
    }


def _digest_of_weights(part: Path) -> str:
    # Names with an underscore are notes of libraries: they change with the library's version, not with the model.
    settings = {
        name: value
        for name, value in read_object(part / "config.json").items()
        if not name.startswith("_") and name != "transformers_version"
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, entry in sorted(read_files(sorted(part.glob("*.safetensors"))).items()):
        digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
        for chunk in entry.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _digest_of_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        digest.update(json.dumps([file.relative_to(folder).as_posix(), len(content)]).encode() + content)
    return digest.hexdigest()[:16]
