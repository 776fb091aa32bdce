"""Choosing the next token: only what a JSON schema allows (llguidance), greedily or by a seed.

As logits processors of transformers, so that `generate` of any model can be held to a schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from tagmoe.errors import UsageError
from tagmoe.extras import require


class Grammars:
    """Compiles JSON schemas for one tokenizer and the width of one model's logits.

    ends: ids of the tokens that end an answer. The table of the vocabulary is made at the first schema, as it takes
    about a second for a vocabulary of 150,000.
    """

    def __init__(self, tokenizer: Any, width: int, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._ends = list(ends)

    @cached_property
    def _vocabulary(self) -> Any:
        require("vlm", "llguidance", purpose="An answer by a JSON schema")
        from llguidance.hf import from_tokenizer

        try:
            return from_tokenizer(self._tokenizer, n_vocab=self._width, eos_token=self._ends)
        except ValueError as error:
            name = type(self._tokenizer).__name__
            raise UsageError(
                f"The tokenizer {name} cannot be held to a JSON schema ({error}); load it as a fast tokenizer."
            ) from None

    def schema(self, schema: Mapping[str, Any]) -> OnlySchema:
        """A processor for one answer. Raises UsageError for a schema that cannot be compiled."""
        vocabulary = self._vocabulary
        from llguidance import LLMatcher

        # One way to write the spaces: with free ones a weak model fills the answer with them. What the grammar cannot
        # hold (uniqueItems) is left to the check of the whole answer.
        options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise UsageError(f"The JSON schema of the question cannot be compiled ({reason}); simplify it.")
        return OnlySchema(matcher)


class OnlySchema(LogitsProcessor):
    """Lets through only the tokens after which the answer can still fit; for one sequence, and one time.

    matcher: an llguidance.LLMatcher at its start. The logits (1, V) that are not allowed become -inf.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._seen: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1]
        if self._seen is not None:
            self._matcher.consume_tokens(input_ids[0, self._seen :].tolist())
        self._seen = length
        if self._matcher.is_error():
            raise RuntimeError(f"the grammar stopped: {self._matcher.get_error()}")
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: scores.shape[-1]].astype(bool))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


class Sampling(LogitsProcessor):
    """Makes the greedy choice a draw: adds Gumbel noise of a generator of its own to the logits over the temperature.

    The largest of logit / T + Gumbel is a draw from softmax(logit / T). Global random state is neither read nor
    written, as an edit may run beside; the noise is made on the CPU, so that a seed means the same on each device.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=self._generator).log_()
        return scores.double() / self._temperature - noise.to(scores.device)
