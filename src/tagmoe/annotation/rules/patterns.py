"""The regular expressions with which an instruction is read, made of the lists of `words.yaml`.

They fit text in lower case; quoted text in it has become the word QUOTE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from tagmoe.annotation.rules.clause_patterns import clause_sources
from tagmoe.annotation.rules.command_patterns import command_sources
from tagmoe.annotation.rules.fragments import fragments_of
from tagmoe.annotation.rules.noun_patterns import noun_sources
from tagmoe.annotation.rules.word_lists import WordLists, packaged_words


@cache
def packaged_patterns() -> Mapping[str, re.Pattern[str]]:
    """The patterns of the lists that ship, made once."""
    return patterns_of(packaged_words())


def patterns_of(words: WordLists) -> dict[str, re.Pattern[str]]:
    """Compiled patterns, each by the name of what it finds."""
    return {name: re.compile(source) for name, source in sources_of(words).items()}


def sources_of(words: WordLists) -> dict[str, str]:
    """The text of each pattern, by its name."""
    w = fragments_of(words)
    return clause_sources(w) | command_sources(w) | noun_sources(w)
