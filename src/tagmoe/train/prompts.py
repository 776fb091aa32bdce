"""Whether the model can read the prompts that a run trains on."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from tagmoe.pipeline.arguments import split_words
from tagmoe.train.components_folder import Components
from tagmoe.train.stored import StoredRows
from tagmoe.world import words


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
        f"This run trains on {len(other)} words that its components do not list, such as {examples}; so the model "
        "takes any words."
    )
    return replace(parts, settings={**parts.settings, "known_words": None})
