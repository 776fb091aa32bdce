"""Checks of a rewritten instruction, whoever wrote it. Each check is a pure function of the raw and the new text.

A check returns None, or one clause that says what is wrong and can be told to the model. Checks read the texts alone:
they cannot tell whether a new name is in the picture, or whether the meaning is the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator

from tagmoe.sentences import counted

LONGEST = 1200
"""The most characters of a rewritten instruction, except for a long original (`is_short`)."""
# Pairs of every usual style. Straight and typographic single quotes are apostrophes too, so they count as quotes only
# outside of words: before the first and behind the last character.
_QUOTES = (
    r"\"([^\"\n]+)\"",
    r"\u201c([^\u201c\u201d\n]+)\u201d",
    r"\u201e([^\u201c\u201d\u201e\n]+)[\u201c\u201d]",
    r"\u00ab\s?([^\u00ab\u00bb\n]+?)\s?\u00bb",
    r"\u00bb([^\u00ab\u00bb\n]+)\u00ab",
    r"\u300c([^\u300c\u300d\n]+)\u300d",
    r"\u300e([^\u300e\u300f\n]+)\u300f",
    r"\u2039([^\u2039\u203a\n]+)\u203a",
    r"\uff02([^\uff02\n]+)\uff02",
    r"(?<!`)`([^`\n]+)`(?!`)",
    r"(?<![\w'])'(?!\s)([^'\n]+(?:'\w[^'\n]*)*)(?<!\s)'(?!\w)",
    r"(?<![\w\u2018])[\u2018\u201a](?!\s)([^\u2018\u2019\n]+(?:\u2019\w[^\u2018\u2019\n]*)*)(?<!\s)[\u2019\u2018](?!\w)",
)
_QUOTED = re.compile("|".join(_QUOTES))
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_CAPITALISED = re.compile(r"(?<![\w'\u2019])[^\W\d_a-z][\w-]*")
_MARKUP = (
    (re.compile(r"```|~~~"), "a code fence"),
    (re.compile(r"<\|[^|>]*\|>|</?[A-Za-z][^<>]*>"), "a tag or control token"),
    (re.compile(r"\*\*|__|^\s*#{1,6}\s|^\s*[-*\u2022]\s", re.MULTILINE), "Markdown"),
    (re.compile(r"^\s*[\[{]|[\]}]\s*$"), "brackets of JSON around it"),
    (re.compile(r"[\n\r\u2028\u2029]"), "more than one line"),
    (re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "a control character"),
)
_CHINESE_TALK = (
    r"\u6539\u5199\u540e|\u6539\u5199\u4e3a|\u4ee5\u4e0b\u662f|\u62b1\u6b49|\u5bf9\u4e0d\u8d77"
    r"|\u6211\u65e0\u6cd5|\u6211\u4e0d\u80fd|\u597d\u7684[\uff0c,]"
)
_TALK = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely|okay|ok|got it)\b[^\w]*[,!.:]"
    r"|^\W*(?:here(?:'s|\u2019s| is| are)|this is|below is)\b.{0,30}\b(?:instruction|prompt|version|rewrit\w+|edit)\b"
    r"|\b(?:re-?written|revised|improved|enhanced|enriched|refined|polished|original|your)\s+(?:edit(?:ing)?\s+)?"
    r"(?:instruction|prompt)s?\b|\bre-?written\s+(?:version|text)\b"
    r"|^\W*(?:re-?written|rewrite|instruction|prompt|output|answer|result|note)\s*:"
    r"|\bas an? (?:ai|language|vision)\b"
    r"|\bI(?:'m| am|\u2019m)? (?:sorry|unable|apologi[sz]e|cannot|(?:can|won|couldn)['\u2019]t|could not)\b"
    rf"|\b(?:no changes? (?:is|are|was|were) needed|(?:let me|feel free to|please) (?:know|tell me))\b|{_CHINESE_TALK}",
    re.IGNORECASE,
)
# Frequent words by language. A text needs two words of a language, and twice as many as of any other language.
_FUNCTION_WORDS = {
    "English": "the with of it its from into this that make add remove and to is are at by his her their has all",
    "German": "der das und mit dem ein eine einen einem auf den nicht zu im vom aus ist mach entferne ersetze bild",
    "French": "le les des une avec du dans sur et est aux cette ce remplace ajoute supprime sans fond image",
    "Spanish": "el los las del con una y cambia quita agrega fondo imagen para al por su esta haz pon",
    "Italian": "il gli della del con una e lo sullo nello aggiungi rimuovi sfondo immagine di che alla nel",
    "Portuguese": "o os um uma com do da dos das no na ao fundo imagem remova adicione mude para e",
    "Dutch": "het een met van op naar en de maak verwijder voeg achtergrond toe vervang door niet zijn",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}

_SCRIPTS = {
    **dict.fromkeys(("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH"), "KANA"),
    **dict.fromkeys(("FULLWIDTH", "FEMININE", "MASCULINE", "MICRO"), "LATIN"),
    "IDEOGRAPHIC": "CJK",
}
"""First words of Unicode names that are not the name of their script."""

Check = Callable[[str, str], str | None]


# What is in a text ----------------------------------------------------------------------------------------------


def quoted(text: str) -> list[str]:
    """The strings between quotes of any style, without the quotes, in the order of the text."""
    return [next(part for part in found.groups() if part) for found in _QUOTED.finditer(text)]


def unquoted(text: str) -> str:
    """The text with a blank for each quoted string."""
    return _QUOTED.sub(" ", text)


def numbers(text: str) -> list[str]:
    """The numbers written in digits, of any script, as they stand: "3", "1,000", "16:9", "0.5"."""
    return _NUMBER.findall(text)


def script_of(text: str) -> str | None:
    """The script of most letters outside quotes, by its Unicode name; None for a text without letters.

    Japanese text counts as KANA, although most of it may be Han, because Chinese has no kana.
    """
    counts = Counter(_scripts(unquoted(text)))
    if counts["KANA"] and counts["CJK"] + counts["KANA"] > counts.total() / 2:
        return "KANA"
    return max(counts, key=lambda name: (counts[name], name)) if counts else None


def language_of(text: str) -> str | None:
    """The language of Latin text by its function words, outside quotes; None where they do not decide."""
    words = re.findall(r"[^\W\d_]+", unquoted(text).lower())
    counts = sorted(((sum(word in known for word in words), name) for name, known in _LANGUAGES.items()), reverse=True)
    (most, name), (second, _) = counts[:2]
    return name if most >= 2 and most >= 2 * second else None


def names_in(text: str) -> list[str]:
    """Names: capitalised words inside a sentence, outside quotes. Empty if most words of the text are capitalised."""
    plain = unquoted(text)
    found = []
    for match in _CAPITALISED.finditer(plain):
        before = plain[: match.start()].rstrip(" \t\n(")
        if before and before[-1] not in ".!?:;-\u3002" and len(match[0]) > 1 and match[0][0].isupper():
            found.append(match[0])
    return [] if 2 * len(found) > len(plain.split()) else found


def _scripts(text: str) -> Iterator[str]:
    for character in text:
        if character.isalpha():
            first = unicodedata.name(character, "UNKNOWN").split(" ")[0]
            yield _SCRIPTS.get(first, first)


# The checks -----------------------------------------------------------------------------------------------------


def is_a_text(raw: str, rewritten: str) -> str | None:
    """It holds at least one letter or digit, unless the original holds none."""
    if any(map(str.isalnum, rewritten)) or (rewritten.strip() and not any(map(str.isalnum, raw))):
        return None
    return "it is empty"


def is_short(raw: str, rewritten: str) -> str | None:
    """It has at most LONGEST characters, or twice the original's where that is more."""
    limit = max(LONGEST, 2 * len(raw))
    return (
        None
        if len(rewritten) <= limit
        else f"it has {counted(rewritten, 'character')}, and at most {limit} are allowed"
    )


def is_plain(raw: str, rewritten: str) -> str | None:
    """No fences, tags, Markdown, lists, data or line breaks that the original does not have too."""
    for pattern, name in _MARKUP:
        if pattern.search(rewritten) and not pattern.search(raw):
            return f"it has {name}"
    # Unassigned or private code points, or half of a surrogate pair: the output of a model that has broken down.
    broken = [character for character in rewritten if unicodedata.category(character) in ("Cn", "Co", "Cs")]
    return "it has broken characters" if broken and not set(broken) <= set(raw) else None


def is_no_talk(raw: str, rewritten: str) -> str | None:
    """It is the instruction itself: no preface, no label, no apology."""
    found = _TALK.search(unquoted(rewritten))
    if found is None or found[0].strip().lower() in raw.lower():
        return None
    return f"it talks about the task ({found[0].strip()[:40]!r}) where the instruction alone is wanted"


def keeps_quotes(raw: str, rewritten: str) -> str | None:
    """Every quoted string is quoted again, as often and character by character. The style of the quotes is free."""
    missing = Counter(quoted(raw)) - Counter(quoted(rewritten))
    return f"the quoted text {_listed(missing)} is not in it as it was" if missing else None


def adds_no_quote(raw: str, rewritten: str) -> str | None:
    """It quotes only words of the original, because the user alone chooses the text that is drawn."""
    new = [text for text in quoted(rewritten) if text not in quoted(raw) and text not in raw]
    return f"it quotes {_listed(new)}, which the instruction does not say" if new else None


def keeps_numbers(raw: str, rewritten: str) -> str | None:
    """Every number in digits is kept, as often as it occurs."""
    missing = Counter(numbers(raw)) - Counter(numbers(rewritten))
    return f"the number {_listed(missing)} is missing" if missing else None


def keeps_language(raw: str, rewritten: str) -> str | None:
    """The script is the same, and so is the language as far as function words tell. Letters of another script are not
    mixed in; Latin ones may be, because they write names."""
    before, after = script_of(raw), script_of(rewritten)
    if before is not None and after is not None and before != after:
        return f"it is written in {after.lower()} letters and the instruction in {before.lower()}"
    mixed = {*_scripts(unquoted(rewritten))} - {*_scripts(raw), "LATIN"}
    if before is not None and mixed:
        return f"it has {min(mixed).lower()} letters, which the instruction has not"
    spoken, written = language_of(raw), language_of(rewritten)
    if spoken is not None and written is not None and spoken != written:
        return f"it is {written} and the instruction is {spoken}"
    return None


def keeps_names(raw: str, rewritten: str) -> str | None:
    """Every name of the original is kept, in upper or lower case. German is not checked, because it capitalises all
    nouns."""
    if language_of(raw) == "German":
        return None
    text = rewritten.lower()
    missing = [name for name in dict.fromkeys(names_in(raw)) if name.lower() not in text]
    return f"the name {_listed(missing)} is missing" if missing else None


CHECKS: tuple[Check, ...] = (
    is_a_text,
    is_short,
    is_plain,
    is_no_talk,
    keeps_quotes,
    adds_no_quote,
    keeps_numbers,
    keeps_language,
    keeps_names,
)


def problems(raw: str, rewritten: str) -> list[str]:
    """All problems of a rewritten instruction, the worst first; empty when it may be used."""
    first = is_a_text(raw, rewritten) or is_short(raw, rewritten)
    if first is not None:
        return [first]
    return [found for check in CHECKS[2:] if (found := check(raw, rewritten)) is not None]


def _listed(texts: object) -> str:
    return ", ".join(repr(text[:60]) for text in list(texts)[:3])  # type: ignore[call-overload]
