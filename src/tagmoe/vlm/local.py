"""Ask a Qwen-VL of transformers in this process, without a server.

The model may serve another purpose at the same time, such as the text encoder of an editing pipeline.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.files.json_files import read_object
from tagmoe.sentences import counted
from tagmoe.vlm.answers import answer_of, validator_of
from tagmoe.vlm.chat_prompt import ChatPrompts, Prompt, Refused
from tagmoe.vlm.decoding import Grammars, Sampling
from tagmoe.vlm.question import Answer, Question


class LocalVLM:
    """Asks a Qwen2.5-VL or Qwen3-VL model of transformers, one question at a time, in a thread of its own.

    model, tokenizer: as loaded; a text-only model answers questions without pictures. name: stands in the provenance
    of the answers. image_processor: made from the model's vision config when not given. The model is left as it was.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, image_processor: Any = None) -> None:
        if not (hasattr(model, "can_generate") and model.can_generate()):
            raise UsageError(
                f"A {type(model).__name__} writes no text; give one that does, as Qwen2_5_VLForConditionalGeneration."
            )
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._prompts = ChatPrompts(model, tokenizer, name, image_processor)
        self._ends = _end_tokens(model, tokenizer)
        self._grammars = Grammars(tokenizer, model.get_output_embeddings().weight.shape[0], self._ends)
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def load(
        cls, folder: str | Path, *, name: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> LocalVLM:
        """The model of a folder: safetensors only, nothing fetched, no code of the folder run.

        name: by default that of the folder. dtype: by default that of the weights. Raises UsageError for a folder that
        has no config.json or holds no chat model, MissingError without safetensors, CheckpointError for damaged files.
        """
        from transformers import AutoConfig, AutoTokenizer
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING,
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        )

        path = Path(folder).expanduser()
        if not (path / "config.json").is_file():
            raise UsageError(f"{str(folder)!r} is no folder with a config.json; give the folder of a Qwen-VL model.")
        if not any(path.glob("*.safetensors")):
            raise MissingError(f"{str(folder)!r} has no *.safetensors file; download the model's safetensors weights.")
        if not any((path / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            # transformers would silently make an empty tokenizer
            raise CheckpointError(f"{str(folder)!r} has no tokenizer.json; copy or download the whole folder again.")
        here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(path, **here)
            mappings = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
            kind = next((mapping[type(config)] for mapping in mappings if type(config) in mapping), None)
            if kind is None:
                raise UsageError(
                    f"{str(folder)!r} is a {config.model_type!r}, which writes no text; give a Qwen-VL model."
                )
            model = kind.from_pretrained(path, dtype=dtype or "auto", use_safetensors=True, **here)
            tokenizer = AutoTokenizer.from_pretrained(path, **here)
            image_processor = _read_image_processor(path, here)
        except UsageError:
            raise
        except Exception as error:
            # transformers, tokenizers and safetensors raise nearly anything on damaged files
            raise CheckpointError(
                f"The model in {str(folder)!r} cannot be read ({_line(error)}); copy or download it again."
            ) from error
        if not tokenizer.chat_template and (path / "chat_template.json").is_file():
            tokenizer.chat_template = _chat_template(path / "chat_template.json")
        return cls(
            model.eval().to(device), tokenizer, name=name or path.resolve().name, image_processor=image_processor
        )

    @property
    def model(self) -> str:
        return self._name

    async def ask(self, question: Question) -> Answer:
        """The answer. A schema constrains the tokens as they are written, and the whole answer is validated again.

        Choices come with exact probabilities: the model's probability of writing exactly that word and ending there,
        over the sum of all choices. Raises UsageError for errors that every such question would meet: no chat
        template, pictures for a text-only model, an invalid schema.
        """
        stop = threading.Event()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="vlm")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question, stop)
        finally:
            # when the caller stops waiting, the model stops writing
            stop.set()

    async def close(self) -> None:
        """End the thread; the next question starts one, as servers open their connections again. The model itself
        belongs to whoever made it."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, question: Question, stop: threading.Event) -> Answer:
        if question.schema is not None:
            validator_of(question.schema)
        try:
            _bring(self._model)
            with torch.no_grad(), _as_found(self._model):
                prompt = self._prompts.make(question)
                if question.choices:
                    return self._choose(question, prompt)
                return self._write(question, prompt, stop)
        except Refused as error:
            return Answer("refused", reason=str(error), attempts=0)
        except RuntimeError as error:
            # mostly out of memory: the next question may have smaller pictures
            return Answer("failed", reason=f"The model {self._name!r} failed: {_line(error)}.")

    def _write(self, question: Question, prompt: Prompt, stop: threading.Event) -> Answer:
        processors = LogitsProcessorList()
        if question.schema is not None:
            processors.append(self._grammars.schema(question.schema))
        if question.temperature > 0:
            processors.append(Sampling(question.temperature, question.seed))
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=question.max_tokens,
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            # the model folder may set these, but no question asks for them
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
        )
        ids = self._model.generate(
            input_ids=prompt.ids,
            attention_mask=torch.ones_like(prompt.ids),
            **prompt.pictures,
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
        )[0, prompt.ids.shape[1] :].tolist()
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not ids or ids[-1] not in self._ends:
            return Answer("invalid", text, reason=f"The answer was cut off at {counted(question.max_tokens, 'token')}.")
        return answer_of(text, question)

    def _choose(self, question: Question, prompt: Prompt) -> Answer:
        logs = self._choice_log_probabilities(question.choices, prompt)
        shares = torch.softmax(logs, 0)
        best = int(logs.argmax())
        if question.temperature > 0:
            generator = torch.Generator().manual_seed(question.seed)
            best = int(torch.multinomial(torch.softmax(logs / question.temperature, 0), 1, generator=generator))
        word = question.choices[best]
        return Answer(
            "ok", text=word, value=word, probabilities=dict(zip(question.choices, shares.tolist(), strict=True))
        )

    def _choice_log_probabilities(self, choices: Sequence[str], prompt: Prompt) -> torch.Tensor:
        """log P(the choice and the end of the turn | prompt), float64 (number of choices,).

        The prompt runs once; each choice goes on from its cache.
        """
        if len(set(choices)) < len(choices) or not all(choices):
            raise UsageError(f"The choices are {list(choices)}; give different words, none of them empty.")
        first = self._model(input_ids=prompt.ids, **prompt.pictures, use_cache=True, logits_to_keep=1)
        sums = []
        for choice in choices:
            tokens = torch.tensor([self._prompts.plain(choice)], device=prompt.ids.device)
            cache = copy.deepcopy(first.past_key_values)
            rest = self._model(input_ids=tokens, past_key_values=cache, use_cache=True)
            logs = torch.cat([first.logits[:, -1:], rest.logits], dim=1)[0].double().log_softmax(-1).cpu()
            written = logs[:-1].gather(1, tokens[0, :, None].cpu()).sum()
            sums.append(written + logs[-1, self._ends].logsumexp(0))
        return torch.stack(sums)


class _Stopped(StoppingCriteria):
    """Stops the generation when its caller no longer waits."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device)


def _bring(model: Any) -> None:
    """Let a model that a memory plan keeps elsewhere come back now, as its device is asked for before it is called."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(model)


@contextmanager
def _as_found(model: Any) -> Iterator[None]:
    """Put the model in evaluation mode; then restore its mode and the picture positions (rope_deltas) it caches."""
    bodies = [module for module in model.modules() if hasattr(module, "rope_deltas")]
    training, remembered = model.training, [body.rope_deltas for body in bodies]
    model.eval()
    for body in bodies:
        body.rope_deltas = None
    try:
        yield
    finally:
        model.train(training)
        for body, value in zip(bodies, remembered, strict=True):
            body.rope_deltas = value


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: what the model, its generation config and its tokenizer name, and the end of a turn."""
    ends: list[int] = []
    for value in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config.get_text_config(), "eos_token_id", None),
        tokenizer.eos_token_id,
        tokenizer.get_vocab().get("<|im_end|>"),
    ):
        ends += value if isinstance(value, list) else [value] if value is not None else []
    return sorted(set(ends))


def _read_image_processor(path: Path, here: Mapping[str, Any]) -> Any:
    if not any((path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(path, backend="pil", **here)


def _chat_template(file: Path) -> str:
    template = read_object(file).get("chat_template")
    if not isinstance(template, str):
        raise CheckpointError(f"{str(file)!r} holds no chat_template; copy or download it again.")
    return template


def _line(error: Exception) -> str:
    """The first line of an error, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
