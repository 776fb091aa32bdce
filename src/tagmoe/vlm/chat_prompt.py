"""From a question to the inputs of a Qwen-VL: token ids by the chat template, and patches of the pictures.

The processor of transformers is not used, because it requires torchvision for videos.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import load_image
from tagmoe.sentences import counted
from tagmoe.vlm.question import Attachment, Question

# Placeholders for a question's texts in a rendered chat template. No template and no text of ours contains them.
SYSTEM, USER = "\ue000system\ue001", "\ue000user\ue001"
IMAGE_TOKENS = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]


class Refused(Exception):
    """The model cannot take this question: an unreadable picture, or too many tokens. The message says why."""


@dataclass(frozen=True)
class Prompt:
    """Token ids (1, L) and, with pictures, what the model takes beside them: pixel_values, image_grid_thw and
    mm_token_type_ids (1, L), 1 where a picture is."""

    ids: torch.Tensor
    pictures: Mapping[str, torch.Tensor]


class ChatPrompts:
    """Makes the prompts of one model. image_processor: None for one made from the model's vision config."""

    def __init__(self, model: Any, tokenizer: Any, name: str, image_processor: Any = None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._image_processor = image_processor

    def make(self, question: Question, insert: Sequence[int] = ()) -> Prompt:
        """The prompt of a question. insert: ids that stand after its parts, as they are.

        Raises Refused for a question that this model cannot take, UsageError for a tokenizer without chat template and,
        when the question has pictures, for a model or tokenizer that takes none.
        """
        before, after = self._template(question.system)
        shown = [_open(part) for part in question.parts if isinstance(part, Attachment)]
        eyes = self._eyes() if shown else None
        encoded = eyes.encode(shown) if eyes else {}
        places = iter(eyes.places(encoded) if eyes else [])
        tokens: list[int] = []
        # consecutive texts are tokenized as one, as they would be in a rendered template
        for is_text, parts in itertools.groupby(question.parts, lambda part: isinstance(part, str)):
            if is_text:
                tokens += self.plain("".join(map(str, parts)))
            else:
                tokens += [token for _ in parts for token in next(places)]
        ids = [*before, *tokens, *insert, *after]
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and len(ids) + question.max_tokens > limit:
            raise Refused(
                f"The question has {counted(ids, 'token')} with its pictures and {question.max_tokens} of the "
                "answer, but "
                f"{self._name!r} takes at most {limit} together; use fewer or smaller pictures."
            )
        # the hook of an offloaded model names the device that it runs on
        device = getattr(getattr(self._model, "_hf_hook", None), "execution_device", None) or self._model.device
        tensor = torch.tensor([ids], device=device)
        if eyes is None:
            return Prompt(tensor, {})
        pictures = {
            "pixel_values": encoded["pixel_values"].to(device, self._model.dtype),
            "image_grid_thw": encoded["image_grid_thw"].to(device),
            "mm_token_type_ids": (tensor == eyes.pad).int(),
        }
        return Prompt(tensor, pictures)

    def plain(self, text: str) -> list[int]:
        """Ids of untrusted text: "<|im_end|>" in it is plain text and does not end the message."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _special(self, text: str) -> list[int]:
        """Ids of a piece of the template, in which special tokens keep their meaning."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])

    def _template(self, system: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the user's message."""
        if not getattr(self._tokenizer, "chat_template", None):
            raise UsageError(
                f"The tokenizer of {self._name!r} has no chat template, so the model cannot be asked; "
                "give the tokenizer of a chat model."
            )
        messages = [{"role": "user", "content": USER}]
        if system:
            messages.insert(0, {"role": "system", "content": SYSTEM})
        rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, found, after = rendered.partition(USER)
        if not found or (system and SYSTEM not in before):
            raise UsageError(f"The chat template of {self._name!r} leaves out a message; give that of a chat model.")
        head, _, middle = before.partition(SYSTEM)
        words = self.plain(system) if system else []
        return self._special(head) + words + self._special(middle), self._special(after)

    def _eyes(self) -> _Eyes:
        config = self._model.config
        merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", None)
        ids: list[Any] = [getattr(config, f"{name}_token_id", None) for name in ("vision_start", "image", "vision_end")]
        if merge is None or None in ids:
            raise UsageError(
                f"The model {self._name!r} ({type(self._model).__name__}) takes no pictures; "
                "use a Qwen2.5-VL or Qwen3-VL."
            )
        known = self._tokenizer.convert_ids_to_tokens(ids)
        if known != IMAGE_TOKENS:
            raise UsageError(
                f"The tokenizer of {self._name!r} has {known} for the image tokens {IMAGE_TOKENS} of the model; "
                "give the model's own tokenizer."
            )
        if self._image_processor is None:
            self._image_processor = _make_image_processor(config)
        start, pad, end = ids
        return _Eyes(start, pad, end, self._image_processor, merge**2)


@dataclass(frozen=True)
class _Eyes:
    """start, pad, end: ids of the tokens before, for and after a picture. merged: patches that make one token."""

    start: int
    pad: int
    end: int
    processor: Any
    merged: int

    def encode(self, pictures: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Patches of all pictures, and the grid (frames, rows, columns) of each."""
        try:
            return dict(self.processor(images=list(pictures), return_tensors="pt"))
        except ValueError as error:
            # raised for a picture 200 times as long as it is wide
            raise Refused(f"A picture cannot be shown to the model ({error}); leave it out.") from None

    def places(self, encoded: Mapping[str, torch.Tensor]) -> list[list[int]]:
        """The tokens that stand for each picture."""
        counts = [int(grid.prod()) // self.merged for grid in encoded["image_grid_thw"]]
        return [[self.start, *[self.pad] * count, self.end] for count in counts]


def _open(attachment: Attachment) -> Image.Image:
    try:
        return load_image(attachment.data)
    except ImageError as error:
        raise Refused(f"A picture of the question cannot be shown ({error}); give a whole PNG, JPEG or WebP.") from None


def _make_image_processor(config: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = config.vision_config
    options: dict[str, Any] = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    if config.model_type.startswith("qwen3"):
        # Qwen3-VL's published values: pixels in [-1, 1], 256 to 65,536 patches of 256 pixels
        options |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        options["size"] = {"shortest_edge": 1 << 16, "longest_edge": 1 << 24}
    return Qwen2VLImageProcessorPil(**options)
