"""A Qwen2.5-VL whose answer is the number of a head on its last layer, instead of text: EditReward.

[TIGER-AI-Lab/EditReward 246ab58, model/qwen2_5_vl_trainer.py and inference_edit.py, read and written anew] The words
end with a token of their own, <|Reward|>. Two heads of three linear layers look at its hidden state, each after words
of its own; the first number of a head is the reward, the second the logarithm of its deviation. Pictures and words go
in as embeddings without their ids, so that positions count the tokens one by one and know no rows and columns.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.files.json_files import read_object
from tagmoe.sentences import cut, reason_of
from tagmoe.vlm.chat_prompt import ChatPrompts, Refused
from tagmoe.vlm.question import Answer, Question

TOKEN = "<|Reward|>"
HEADS: Mapping[str, str] = {"following": "rm_heads.head_0", "quality": "rm_heads.head_1"}
"""Name of the number that a question asks for -> the head that gives it."""
WIDTHS = (1024, 16, 2)
"""Outputs of the layers; a ReLU is between them."""
LAYERS = (0, 3, 5)
"""Their numbers in the names of the tensors: ReLU and dropout stand between them."""


class RewardVLM:
    """Asks the heads one question at a time, in a thread of its own. name: stands in the provenance of the answers."""

    def __init__(
        self, model: Any, tokenizer: Any, heads: Mapping[str, Any], *, name: str, image_processor: Any = None
    ) -> None:
        """Raises CheckpointError for a tokenizer without the token of the reward."""
        self._model, self._tokenizer, self._heads, self._name = model, tokenizer, heads, name
        self._prompts = ChatPrompts(model, tokenizer, name, image_processor)
        self._token = tokenizer.convert_tokens_to_ids(TOKEN)
        if self._token is None or self._token == tokenizer.unk_token_id:
            raise CheckpointError(f"The tokenizer of {name!r} has no token {TOKEN!r}; give that of the reward model.")
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> RewardVLM:
        """The model of a folder: config, tokenizer with the token of the reward, and safetensors with both heads.

        Raises CheckpointError for another architecture, for damaged files and for a missing tensor.
        """
        from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

        path = Path(folder).expanduser()
        kind = read_object(path / "config.json").get("model_type")
        if kind != "qwen2_5_vl":
            raise CheckpointError(f"The weights {path.name!r} are a {cut(str(kind))!r}; EditReward is a 'qwen2_5_vl'.")
        if not any(path.glob("*.safetensors")):
            raise CheckpointError(f"The weights {path.name!r} hold no safetensors; convert the files.")
        try:
            model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                path, dtype=dtype or "auto", use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            heads = read_heads(path, model.config.get_text_config().hidden_size)
        except CheckpointError:
            raise
        except Exception as error:
            # transformers, tokenizers and safetensors raise nearly anything on damaged files.
            raise CheckpointError(f"The weights {path.name!r} cannot be loaded ({reason_of(error)}).") from None
        missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        if missing:
            raise CheckpointError(f"The weights {path.name!r} have no tensor {missing[0]!r} of the right shape.")
        return cls(
            model.eval().to(device),
            tokenizer,
            {name: head.to(device) for name, head in heads.items()},
            name=path.resolve().name,
        )

    @property
    def model(self) -> str:
        return self._name

    async def ask(self, question: Question) -> Answer:
        """The number of the head that the schema names. A question for none, such as a harmless one, is answered with
        nothing. Raises UsageError for words without the token of the reward."""
        asked = next(map(str, (question.schema or {}).get("properties", {})), "")
        if asked not in self._heads:
            return Answer("ok", attempts=0)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question, asked)

    async def close(self) -> None:
        """End the thread; the next question starts one."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    def reward(self, question: Question, name: str) -> tuple[float, float]:
        """The two numbers of a head. Raises Refused for pictures or words that the model cannot take."""
        before, ids_of_rest = self._parts(question)
        with torch.inference_mode():
            prompt = self._prompts.make(before, insert=ids_of_rest)
            length = prompt.ids.shape[1]
            positions = torch.arange(length, device=prompt.ids.device).expand(3, 1, length)
            found = self._model.model(
                input_ids=prompt.ids,
                attention_mask=torch.ones_like(prompt.ids),
                position_ids=positions,
                use_cache=False,
                **prompt.pictures,
            ).last_hidden_state
            (at,) = (prompt.ids[0] == self._token).nonzero().flatten().tolist()
            mean, log_deviation = self._heads[name](found[0, at].float()).tolist()
        return mean, log_deviation

    def _parts(self, question: Question) -> tuple[Question, list[int]]:
        """The question up to the token of the reward, and the ids from it on. The instruction is nobody's: a token in
        it is plain text, so that the last one counts."""
        *others, words = question.parts
        if not isinstance(words, str) or TOKEN not in words:
            raise UsageError(f"The words of the judge have no {TOKEN}, where its heads look; add it at their end.")
        before, _, after = words.rpartition(TOKEN)
        return replace(question, parts=(*others, before)), [self._token, *self._prompts.plain(after)]

    def _answer(self, question: Question, name: str) -> Answer:
        try:
            mean, log_deviation = self.reward(question, name)
        except Refused as error:
            return Answer("refused", reason=str(error), attempts=0)
        except RuntimeError as error:
            # Mostly out of memory: the next question may have smaller pictures.
            return Answer("failed", reason=f"The model {self._name!r} failed: {reason_of(error)}.")
        text = f"{mean:.9g} {log_deviation:.9g}"
        if not math.isfinite(mean):
            return Answer("invalid", text, reason="The head gave no finite number.")
        return Answer("ok", text, value={name: mean})


def read_heads(folder: Path, width: int) -> dict[str, Any]:
    """The heads (width -> 1024 -> 16 -> 2) of safetensors, in float32. Raises CheckpointError for other layers."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith("rm_heads.")]  # noqa: SIM118
            tensors |= {name: opened.get_tensor(name) for name in names}
    found = {}
    for name, prefix in HEADS.items():
        layers: list[torch.nn.Module] = []
        for place, (before, after) in zip(LAYERS, zip((width, *WIDTHS), WIDTHS, strict=False), strict=True):
            layer = torch.nn.Linear(before, after)
            try:
                state = {kind: tensors[f"{prefix}.{place}.{kind}"].float() for kind in ("weight", "bias")}
                layer.load_state_dict(state)
            except (KeyError, RuntimeError):
                raise CheckpointError(
                    f"The weights {folder.name!r} have no head {prefix}.{place} from {before} to {after} numbers."
                ) from None
            layers += [layer, torch.nn.ReLU()]
        found[name] = torch.nn.Sequential(*layers[:-1]).eval().requires_grad_(False)
    return found
