"""Check the arguments of a pipeline call before anything is computed. A bad one raises an error of one sentence."""

from __future__ import annotations

import difflib
import math
import re
import secrets
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from tagmoe.errors import UsageError
from tagmoe.pictures import fit_size
from tagmoe.sentences import counted

Rewriter = Callable[[str, list[PIL.Image.Image]], str]
# The release's preset sizes reach from 1:4 to 4:1. An output that takes its reference's aspect stays within that.
WIDEST_OUTPUT = 4
LARGEST_SIDE_FACTOR = 4
# What a model of TagWorld can do, for a user whose words it does not know.
EXAMPLES = ("make the circle red", "take off the hat")
CLOSE = 0.8  # a suggestion that is less alike is a guess


def check_steps(steps: Any, config: Mapping[str, Any], scheduler: Mapping[str, Any]) -> int:
    """The number of steps, by default the model's. Raises UsageError below 1, and for 1 with shift_terminal."""
    steps = check_count("num_inference_steps", config["default_steps"] if steps is None else steps)
    if steps == 1 and scheduler.get("shift_terminal"):
        # shift_terminal stretches the schedule to its end, which divides zero by zero with one step.
        raise UsageError("num_inference_steps is 1; this scheduler (shift_terminal) needs at least 2.")
    return steps


def check_scale(scale: Any, config: Mapping[str, Any]) -> float:
    """The guidance scale, by default the model's. Raises UsageError unless it is a finite number of 0 or more."""
    scale = config["default_cfg"] if scale is None else scale
    if not is_number(scale) or scale < 0:
        raise UsageError(f"true_cfg_scale is {scale!r}; give a finite number, 0 or more (1 or less: no guidance).")
    return float(scale)


def check_area(area: Any, default_size: int, multiple: int) -> int:
    """The area of a reference in pixels, from one token to (4 * default_size)^2. Raises UsageError outside that."""
    largest = (LARGEST_SIDE_FACTOR * default_size) ** 2
    if not is_whole(area) or not multiple**2 <= area <= largest:
        raise UsageError(f"reference_area is {area!r}; give a number of pixels, {multiple**2} to {largest}.")
    return int(area)


def check_output_size(
    height: Any, width: Any, first: PIL.Image.Image | None, default_size: int, multiple: int
) -> tuple[int, int]:
    """The (height, width) of the output: as given, else of the first reference's aspect, else the default square.

    Raises UsageError when only one side is given, or one is not a multiple of `multiple` up to 4 * default_size.
    """
    if height is None and width is None:
        if first is None:
            return default_size, default_size
        across, down = first.size
        across, down = min(across, WIDEST_OUTPUT * down), min(down, WIDEST_OUTPUT * across)
        return fit_size(across, down, default_size**2, multiple)
    if height is None or width is None:
        raise UsageError(f"height is {height} and width is {width}; give both of them or neither.")
    largest = LARGEST_SIDE_FACTOR * default_size
    for name, side in (("height", height), ("width", width)):
        if not is_whole(side) or not multiple <= side <= largest or side % multiple:
            raise UsageError(f"{name} is {side!r}; give a multiple of {multiple} from {multiple} to {largest}.")
    return height, width


def is_whole(value: Any) -> bool:
    """Whether this is an integer, of Python or NumPy; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, of Python or NumPy; True and False are not."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def check_variant(config: Mapping[str, Any]) -> None:
    """Raise UsageError for the config of a transformer that this pipeline cannot run."""
    if config.get("use_additional_t_cond"):
        raise UsageError(
            "The transformer has use_additional_t_cond, so it belongs to Qwen-Image-Layered; this pipeline runs "
            "Qwen-Image and its editing models."
        )


def check_count(name: str, value: Any) -> int:
    """A whole number of 1 or more. Raises UsageError that names the argument."""
    if not is_whole(value) or value < 1:
        raise UsageError(f"{name} is {value!r}; give a whole number, 1 or more.")
    return int(value)


def check_tensor(name: str, value: Any) -> None:
    """Raise UsageError for what is no tensor with a dimension for the batch."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        raise UsageError(f"{name} is of type {type(value).__name__}; give a tensor with one row a prompt.")


def check_numbers(name: str, tensor: torch.Tensor) -> None:
    """Raise UsageError when a tensor that a user gave holds NaN or infinity."""
    if not tensor.isfinite().all():
        raise UsageError(f"{name} holds numbers that are not finite; give other ones.")


def check_prompts(prompt: Any, prompt_embeds: torch.Tensor | None, *, blank: bool = False) -> list[str]:
    """The prompts as a list; with embeddings, one empty prompt for each.

    blank: allow empty texts too, which are encoded for guidance. Raises UsageError when both or neither are given, and
    for a prompt that is empty or no text.
    """
    if prompt_embeds is not None:
        check_tensor("prompt_embeds", prompt_embeds)
        if prompt is not None:
            raise UsageError("Both prompt and prompt_embeds are given; give one of them.")
        return [""] * prompt_embeds.shape[0]
    if prompt is None:
        raise UsageError("No prompt is given; say what to draw or what to change.")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        raise UsageError(f"prompt is of type {type(prompt).__name__}; give a text or a list of texts.")
    if not prompts or not (blank or all(text.strip() for text in prompts)):
        raise UsageError("The prompt is empty; say what to draw or what to change.")
    return list(prompts)


def check_negatives(negative: Any, embeds: torch.Tensor | None, samples: int) -> list[str]:
    """One negative prompt for each sample. Raises UsageError when their number does not fit."""
    if embeds is not None and negative is not None:
        raise UsageError("Both negative_prompt and negative_prompt_embeds are given; give one of them.")
    texts = [negative] * samples if negative is None or isinstance(negative, str) else list(negative)
    if len(texts) != samples or not all(text is None or isinstance(text, str) for text in texts):
        raise UsageError(
            f"negative_prompt has {counted(texts, 'entry', 'entries')} for {counted(samples, 'prompt')}; give one "
            "text, or one for each."
        )
    # The release replaces an empty negative prompt by one space.
    return [text or " " for text in texts]


def check_words(text: str, known_words: Sequence[str]) -> None:
    """Raises UsageError for words that the model was not trained on, with close known words and two examples."""
    known = set(known_words)
    unknown = [word for word in dict.fromkeys(split_words(text)) if word not in known]
    if not unknown:
        return
    near = {word: difflib.get_close_matches(word, known_words, n=1, cutoff=CLOSE) for word in unknown}
    hints = [f"{word!r} (did you mean {close[0]!r}?)" if close else repr(word) for word, close in near.items()]
    examples = [example for example in EXAMPLES if known.issuperset(split_words(example))]
    can_do = f"It can do, for example, {' or '.join(map(repr, examples))}" if examples else "use other words"
    raise UsageError(
        f"This model knows a vocabulary of {counted(known_words, 'word')}, and {', '.join(hints[:5])} "
        f"{'is' if len(hints) == 1 else 'are'} not among them{'.' if examples else ';'} {can_do}."
    )


def normal_spelling(text: str) -> str:
    """The spelling that a model of a small vocabulary was trained on: lower case, single blanks, no closing mark.

    Unicode forms of the same letters become one (NFKC). Text in double quotes stays as it is. A text without any word
    stays too, because the empty instruction of guidance is a blank.
    """
    parts = re.split(r'("[^"]*"|\u201c[^\u201d]*\u201d)', text)
    parts[::2] = [re.sub(r"\s+", " ", unicodedata.normalize("NFKC", part)).lower() for part in parts[::2]]
    return re.sub(r"[\s.!?;:,]+$", "", "".join(parts)).lstrip() or text


def split_words(text: str) -> list[str]:
    """The lower-case words of a prompt, as `known_words` counts them: letters, digits and inner apostrophes."""
    return re.findall(r"\w+(?:'\w+)*", unicodedata.normalize("NFKC", text).lower())


def make_generators(seed: Any, generator: Any, batch: int) -> tuple[list[torch.Generator], list[int]]:
    """One generator and its seed for each image. Raises UsageError for a bad seed, or too many or too few of them."""
    if generator is not None:
        generators = list(generator) if isinstance(generator, list | tuple) else [generator] * batch
        if len(generators) != batch or not all(isinstance(one, torch.Generator) for one in generators):
            raise UsageError(
                f"generator has {counted(generators, 'entry', 'entries')} for {counted(batch, 'image')}; give one, "
                "or one for each image."
            )
        own = [one.initial_seed() for one in generators]
        # vLLM-Omni's adapter gives a seed and the generator that it made of it.
        if seed is not None and any(one != seed for one in own):
            raise UsageError("Both seed and generator are given, and they differ; give one of them.")
        return generators, own
    if seed is None:
        seeds = [secrets.randbelow(2**31) for _ in range(batch)]
    elif isinstance(seed, list | tuple):
        seeds = list(seed)
    else:
        seeds = [seed + i for i in range(batch)] if is_whole(seed) else [seed]
    for one in seeds:
        if not is_whole(one) or not 0 <= one < 2**63:
            raise UsageError(f"seed is {one!r}; give a whole number from 0 to 2^63 - 1, or a list of them.")
    if len(seeds) != batch:
        raise UsageError(
            f"seed has {counted(seeds, 'entry', 'entries')} for {counted(batch, 'image')}; give one number, or one "
            "for each image."
        )
    return [torch.Generator().manual_seed(int(one)) for one in seeds], [int(one) for one in seeds]


def rewrite(rewriter: Rewriter, instruction: str, references: list[PIL.Image.Image]) -> str:
    """The rewriter's prompt. Raises UsageError when it is no text."""
    text = rewriter(instruction, references)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"The rewriter answered {text!r} to {instruction!r}; it must answer with a text.")
    return text
