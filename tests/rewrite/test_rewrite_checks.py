"""The checks of a rewritten instruction: the raw text always passes, and each loss is found in any surroundings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.rewrite.checks import (
    CHECKS,
    LONGEST,
    adds_no_quote,
    is_a_text,
    is_no_talk,
    is_plain,
    is_short,
    keeps_language,
    keeps_names,
    keeps_numbers,
    keeps_quotes,
    language_of,
    numbers,
    problems,
    quoted,
    script_of,
)

PAIRS = ('""', "''", "\u201c\u201d", "\u201e\u201c", "\u2018\u2019", "\xab\xbb", "\u300c\u300d", "\u300e\u300f", "``")
WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
SENTENCES = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
SIGNS = st.text("AbcXYZ 19!?.-&\u00e9\u732b", min_size=1, max_size=12).map(str.strip).filter(bool)
CHINESE = "\u628a\u732b\u53d8\u6210\u7ea2\u8272"
JAPANESE = "\u732b\u3092\u8d64\u304f\u3057\u3066\u304f\u3060\u3055\u3044"


@given(st.text(min_size=1, max_size=80))
def test_the_instruction_itself_is_never_at_fault(text: str) -> None:
    if text.strip():
        assert problems(text, text) == []


@given(SENTENCES, SIGNS, st.sampled_from(PAIRS), SENTENCES)
def test_quotes_of_every_style_are_read(before: str, sign: str, pair: str, after: str) -> None:
    assert quoted(f"{before} {pair[0]}{sign}{pair[1]} {after}") == [sign]


@given(SENTENCES, SIGNS, st.sampled_from(PAIRS), st.sampled_from(PAIRS))
def test_a_quoted_text_may_change_its_marks_but_not_a_character(words: str, sign: str, old: str, new: str) -> None:
    raw = f"{words} {old[0]}{sign}{old[1]}"
    kept = f"make it say {new[0]}{sign}{new[1]} {words}"
    assert keeps_quotes(raw, kept) is None
    assert adds_no_quote(raw, kept) is None
    other = sign.swapcase() if sign.swapcase() != sign else f"{sign}x"
    assert keeps_quotes(raw, f"{words} {new[0]}{other}{new[1]}") is not None
    assert keeps_quotes(raw, f"{words} {words}") is not None


@given(SENTENCES, SIGNS, st.sampled_from(PAIRS))
def test_what_is_newly_quoted_must_be_words_of_the_instruction(words: str, sign: str, pair: str) -> None:
    rewritten = f"{words} {pair[0]}{sign}{pair[1]}"
    assert adds_no_quote(f"write {sign} on the wall", rewritten) is None
    assert (adds_no_quote("abc", rewritten) is None) == (sign in "abc")


@pytest.mark.parametrize(
    "text", ["the person's hat isn't the dogs' one", "rock 'n roll", "5' 3 tall", "it\u2019s Ann\u2019s"]
)
def test_an_apostrophe_is_no_quote(text: str) -> None:
    assert quoted(text) == []


def test_an_apostrophe_inside_single_quotes_does_not_end_them() -> None:
    assert quoted("write 'don't stop' there") == ["don't stop"]


@given(
    st.lists(st.sampled_from(["3", "12", "1,000", "16:9", "0.5", "\u0663", "50"]), min_size=1, max_size=4), SENTENCES
)
def test_every_number_stays_as_often_as_it_was(found: list[str], words: str) -> None:
    raw = f"{words} {' and '.join(found)}"
    assert keeps_numbers(raw, f"now {raw}, please") is None
    assert numbers(raw)[-len(found) :] == found
    lost = " and ".join(found[:-1])
    assert keeps_numbers(raw, f"{words} {lost}") is not None


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("make it red", "LATIN"),
        (CHINESE, "CJK"),
        (JAPANESE, "KANA"),
        ("\u0441\u0434\u0435\u043b\u0430\u0439", "CYRILLIC"),
        ("\ube68\uac04", "HANGUL"),
        ("\u0627\u062c\u0639\u0644", "ARABIC"),
        ("12 + 3", None),
        (f'write "{CHINESE}" on it', "LATIN"),
    ],
)
def test_the_script_is_that_of_the_unquoted_letters(text: str, script: str | None) -> None:
    assert script_of(text) == script


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("make the hat of the man red", "English"),
        ("mache den Hut des Mannes rot und entferne das Bild", "German"),
        ("remplace le fond par une plage avec des arbres", "French"),
        ("cambia el fondo por una playa con los arboles", "Spanish"),
        ("maak de achtergrond van het huis rood", "Dutch"),
        ("sunglasses", None),
    ],
)
def test_the_language_of_latin_text(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_another_language_or_script_is_found() -> None:
    english, german = "make the hat of the man red", "mache den Hut des Mannes rot und lass das Bild"
    for raw, other in (
        (english, german),
        (german, english),
        (english, CHINESE),
        (CHINESE, english),
        (CHINESE, JAPANESE),
    ):
        assert keeps_language(raw, other) is not None
        assert keeps_language(raw, raw) is None
    assert keeps_language("sunglasses", "Put dark sunglasses on the person.") is None


@pytest.mark.parametrize("text", ["a red \ue123 hat", "a red \ud800 hat", "a red \u0378 hat"])
def test_characters_that_are_none_are_found(text: str) -> None:
    assert is_plain("a red hat", text) is not None
    assert is_plain(text, text) is None


def test_letters_of_a_third_script_are_found() -> None:
    assert keeps_language("a red hat", "a red hat, \u7ea2, on the head") is not None
    assert keeps_language("write \u7ea2 there", "write \u7ea2 on the head there") is None
    assert keeps_language(CHINESE, f"{CHINESE} Lego") is None


@pytest.mark.parametrize(
    "text",
    [
        "```red```",
        "**red** hat",
        "# Red hat",
        "- red hat",
        '{"rewritten": "x"}',
        "<b>red</b>",
        "<|im_end|> red",
        "a\nb",
        "a\x07",
    ],
)
def test_markup_is_found_unless_it_is_the_users(text: str) -> None:
    assert is_plain("a red hat", text) is not None
    assert is_plain(text, text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Here is the rewritten instruction: make it red",
        "Here's an improved version of your prompt: red",
        "Sure, make it red",
        "Certainly! A red hat.",
        "Rewritten: make it red",
        "Make it red. This rewritten version is clearer.",
        "I'm sorry, but I cannot help with that.",
        "I can't edit this picture.",
        "As an AI model I see a hat",
        "\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5",
    ],
)
def test_talk_about_the_task_is_found(text: str) -> None:
    assert is_no_talk("make the hat red", text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Make sure the hat is red and keep the original text on the sign.",
        "Turn this picture of an edited film into a sketch.",
        'Write "Sure, here is the answer:" on the wall.',
        "Improved lighting on the face, the rest stays as it is.",
    ],
)
def test_plain_instructions_are_no_talk(text: str) -> None:
    assert is_no_talk("x", text) is None


def test_a_length_is_counted_from_the_instructions_own() -> None:
    assert is_short("red", "x" * LONGEST) is None
    assert is_short("red", "x" * (LONGEST + 1)) is not None
    assert is_short("x" * LONGEST, "x" * (2 * LONGEST)) is None


@pytest.mark.slow_but_first
@pytest.mark.parametrize("text", ["", "  \n", "...", "\u3000"])
def test_empty_texts_are_found(text: str) -> None:
    assert is_a_text("make it red", text) is not None
    assert problems("make it red", text) == ["it is empty"]


def test_names_stay() -> None:
    assert keeps_names("put Anna beside the Eiffel Tower", "Put Anna beside the tower.") is not None
    assert keeps_names("put Anna beside the Eiffel Tower", "Beside the Eiffel Tower, put anna, smiling.") is None
    assert keeps_names("Make The Hat Very Red", "paint it red") is None, "a text in title case names nobody"
    assert keeps_names("mach den Hund auf dem Bild rot", "male das Tier rot an") is None, "German nouns are no names"


@given(st.text(max_size=300), st.text(max_size=300))
def test_every_check_answers_any_two_texts(raw: str, rewritten: str) -> None:
    for check in CHECKS:
        found = check(raw, rewritten)
        assert found is None or (found and "\n" not in found)
