"""Whether the model can read the prompts that a run trains on, said before the first step."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from tagmoe.config import RunConfig
from tagmoe.errors import UsageError
from tagmoe.pipeline.arguments import split_words
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.sentences import counted
from tagmoe.train.components_folder import Components
from tagmoe.train.stored import BUCKETS, StoredRows, is_readable
from tagmoe.world import content, words

STREAM_SAMPLES = 500
"""Of TagWorld's endless stream this many instructions are read."""


def with_words(parts: Components, stored: StoredRows | None, console: Console) -> Components:
    """The components, without their list of known words where this run trains on other words.

    An encoded store keeps the list: its texts were read with it. What happens is printed.
    """
    known = parts.settings["known_words"]
    if known is None or (stored is not None and stored.encoded is not None):
        return parts
    listed = set(known)
    if stored is None:
        other = set(words()) - listed
    else:
        other = {
            word
            for _, raw, rewritten in stored.texts()
            for text in (*raw, rewritten or "")
            for word in split_words(text)
            if word not in listed
        }
    if not other:
        return parts
    examples = ", ".join(map(repr, sorted(other)[:3]))
    console.print(
        f"This run trains on {counted(other, 'word')} that its components do not list, such as {examples}; so the "
        "model takes any words."
    )
    return replace(parts, settings={**parts.settings, "known_words": None})


def check_prompts(
    pipeline: TagMoEPipeline, stored: StoredRows | None, config: RunConfig, console: Console
) -> StoredRows | None:
    """The rows that have a wording which samples may use; what is cut or left out is counted and printed.

    Wordings of too many tokens are cut or left out by the setting `data.long_prompts`. Wordings with a control token of
    the model are left out. Of TagWorld's stream long instructions are cut.
    """
    limit = pipeline.config.max_prompt_tokens
    if stored is None:
        count = min(STREAM_SAMPLES, max(config.base.unique_samples, config.unified.unique_samples))
        long = sum(
            pipeline.is_long(content(config.seed, index, divide=config.divide).instruction) for index in range(count)
        )
        if long:
            console.print(f"Instructions of more than {counted(limit, 'token')}: {long:,} of {count:,}, cut to that.")
        return None
    if stored.encoded is not None:
        empty = sum(stored.store.rows_where(f"{BUCKETS} = ''").values())
        if empty:
            console.print(f"Left out: {counted(empty, 'row')} not encoded (reasons in the column encoded_error).")
        return stored
    policy = stored.settings.long_prompts
    every = long = refused = 0
    reason, without = "", []
    for row, raw, rewritten in stored.texts():
        for text in (*raw, *([] if rewritten is None else [rewritten])):
            every += 1
            try:
                long += pipeline.is_long(text)
            except UsageError as error:
                refused += 1
                reason = reason or str(error)
        if not any(is_readable(pipeline, text, policy) for text in raw):
            without.append(row)
    if long:
        done = "cut to that" if policy == "truncate" else "left out"
        console.print(
            f"Prompts of more than {counted(limit, 'token')}: {long:,} of {every:,}, {done} "
            f"(data.long_prompts: {policy})."
        )
    if refused:
        console.print(f"Left out: {refused:,} of {counted(every, 'prompt')}, as the model refuses them: {reason}")
    if without:
        console.print(f"Left out: {counted(without, 'row')} without another wording.")
    return stored.without(without) if without else stored
