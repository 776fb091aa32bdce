"""The second stage trains the tiny Qwen2.5-VL to read instructions (paper 3.1: the pre-trained MLLM encoder).

The state of the last token must predict every fact of the instruction (task, shape, colour, place ...), and each token
the next one. Then the transformer finds the facts in one hidden state, as it would with the states of a real MLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.config import OptimizerConfig, TextEncoderConfig
from tagmoe.train.loop import Report
from tagmoe.world import Divide, Sample, content, sample, slot_values

TEMPLATE = "<|im_start|>{}<|im_end|>"
LANGUAGE_MODEL_WEIGHT = 0.1
VALIDATION_TEXTS = 512


def instructions(seed: int, count: int, divide: Divide = "content") -> list[str]:
    """Training instructions to train the tokenizer on."""
    return [content(seed, index, divide=divide).instruction for index in range(count)]


class SlotReader(nn.Module):
    """A linear classifier for each slot (fact) on the last token's state. Class 0: the instruction does not tell."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.values = {slot: ("", *values) for slot, values in slot_values().items()}
        self.sizes = [len(values) for values in self.values.values()]
        self.linear = nn.Linear(hidden_size, sum(self.sizes))

    def targets(self, samples: list[Sample]) -> Tensor:
        """(B, slots) class ids."""
        return torch.tensor(
            [[values.index(drawn.slots.get(slot, "")) for slot, values in self.values.items()] for drawn in samples]
        )

    def forward(self, state_BD: Tensor) -> list[Tensor]:
        """Logits (B, classes) of every slot."""
        return list(self.linear(state_BD).split(self.sizes, dim=-1))


class TextEncoderStage:
    """Cross-entropy of every slot at the last token, plus a little next-token prediction."""

    name = "text_encoder"
    accumulate = 1

    def __init__(
        self,
        text_encoder: Qwen2_5_VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        config: TextEncoderConfig,
        seed: int,
        divide: Divide = "content",
    ) -> None:
        self.text_encoder = text_encoder.train()
        self.tokenizer = tokenizer
        self.config = config
        self.seed = seed
        self.divide = divide
        self.steps = config.steps
        self.optimizer = OptimizerConfig(name="adamw", lr=config.lr, warmup_steps=100, decay_share=0.5, ema_decay=0.99)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = SlotReader(config.hidden_size)
        # The vision tower gets no input in this stage.
        text_encoder.model.visual.requires_grad_(False)
        self.modules: Mapping[str, nn.Module] = {"text_encoder": text_encoder, "reader": self.reader}

    def _read(self, samples: list[Sample]) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        texts = [TEMPLATE.format(drawn.instruction) for drawn in samples]
        batch = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False)
        batch = batch.to(self.text_encoder.device)
        mask = batch.attention_mask
        output = self.text_encoder(
            input_ids=batch.input_ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        last = output.hidden_states[-1][torch.arange(len(samples)), mask.sum(dim=1) - 1]
        return self.reader(last), output.logits, batch.input_ids, mask

    def loss(self, step: int, micro: int) -> tuple[Tensor, Report]:
        """One batch of fresh instructions."""
        start = step * self.config.batch
        numbers = range(start, start + self.config.batch)
        samples = [sample(self.seed, index, divide=self.divide) for index in numbers]
        slot_logits, logits, ids, mask = self._read(samples)
        targets = self.reader.targets(samples).to(slot_logits[0].device)
        slots = torch.stack([F.cross_entropy(z.float(), targets[:, i]) for i, z in enumerate(slot_logits)]).sum()
        labels = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        next_token = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten())
        return slots + LANGUAGE_MODEL_WEIGHT * next_token, {
            "slots": float(slots.detach()),
            "next_token": float(next_token.detach()),
        }

    def validate(self, step: int, folder: Path) -> Report:
        """Share of test instructions whose slots are all predicted right. Half of them are held-out paraphrases."""
        samples = [sample(self.seed, index, split="test") for index in range(VALIDATION_TEXTS)]
        slot_logits, *_ = self._read(samples)
        targets = self.reader.targets(samples).to(slot_logits[0].device)
        right = torch.stack([z.argmax(dim=-1) == targets[:, i] for i, z in enumerate(slot_logits)]).all(dim=0)
        unseen = torch.tensor([drawn.held_out_paraphrase for drawn in samples], device=right.device)
        return {
            "read": float(right[~unseen].float().mean()),
            "read_held_out_paraphrase": float(right[unseen].float().mean()),
        }
