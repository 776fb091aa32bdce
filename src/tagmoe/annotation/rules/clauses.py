"""Split an instruction into clauses, each as a command, and set apart what it says must stay."""

from __future__ import annotations

from typing import NamedTuple

from tagmoe.annotation.rules.patterns import packaged_patterns


class Clauses(NamedTuple):
    """The clauses in the order of the words, as commands, and the words about what must stay."""

    commands: tuple[str, ...]
    kept: str


_COMMANDS = {
    "be_there": r"add \g<what>",
    "none_there": r"remove the \g<what>",
    "nice_to_have": r"add \g<what>",
    "be_question": r"make \g<what> be \g<new>",
    "if_had": r"give \g<what> \g<new>",
    "if_was": r"make \g<what> be \g<new>",
    "look_question": r"show \g<what> \g<new>",
    "want": r"make \g<what> \g<new>",
    "have_question": r"give \g<what> \g<new>",
    "let_have": r"give \g<what> \g<new>",
    "is_now": r"make \g<what> be \g<new>\g<state>",
    "should_have": r"give \g<what> \g<new>",
    "should_be": r"make \g<what> be \g<new>",
    "gerund": r"\g<stem> \g<rest>",
    "gerund_in_e": r"\g<stem>e \g<rest>",
    "gerund_doubled": r"\g<stem> \g<rest>",
}
"""The command that stands for each form of a question or a wish, by the name of its pattern."""


def split(text: str) -> Clauses:
    """The clauses of an instruction in lower case."""
    patterns = packaged_patterns()
    kept = " ".join(found.group() for found in patterns["kept"].finditer(text))
    text = patterns["aside"].sub("", patterns["kept"].sub("", text)).strip(" .,;!?")
    text = patterns["locative"].sub("", _as_command(text))
    if text.startswith("in place of "):
        return Clauses((text,), kept)
    parts = (_as_command(part.strip(" ,.;!?")) for part in patterns["between_clauses"].split(text))
    return Clauses(tuple(part for part in parts if part), kept)


def _as_command(text: str) -> str:
    """The clause without politeness; a question or a wish becomes the command that it stands for."""
    patterns = packaged_patterns()
    for name, command in _COMMANDS.items():
        if found := patterns[name].search(text):
            return found.expand(command)
    shorter = patterns["preamble"].sub("", text)
    return text if shorter == text else _as_command(shorter)
