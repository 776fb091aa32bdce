"""The sloppy instructions of tools/measure_rewrite.py: what each form does, and that the measuring counts right."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from support.tools import load_tool

from tagmoe.world import TASKS, sample, words


@pytest.fixture(scope="module")
def script() -> Any:
    return load_tool("measure_rewrite")


@pytest.mark.slow
def test_the_forms_take_turns_over_all_tasks_and_are_the_same_each_time(script: Any) -> None:
    samples = script.cases(5, 1)
    forms = script.sloppy(samples, 1)
    assert forms == script.sloppy(samples, 1)
    assert {(case.task, form) for case, (form, _) in zip(samples, forms, strict=True)} == {
        (task, form) for task in TASKS for form in script.FORMS
    }
    assert sum(text != case.instruction for case, (_, text) in zip(samples, forms, strict=True)) > 0.9 * len(samples)
    assert all(text.strip() for _, text in forms)


def test_what_each_form_does(script: Any) -> None:
    text, dice = "put a red circle at the top left, now", Random(0)
    assert script.telegram(text, dice) == "put red circle top left"
    assert script.keywords(text, dice) == "red circle top left"
    assert script.order(text, dice) == "top left put red circle"
    assert script.synonyms(text, dice) == "put a crimson disc at the top left, now"
    assert sum(a != b for a, b in zip(script.typo(text, dice).split(), text.split(), strict=True)) == 1
    assert script.keywords("make it", dice), "something is always said"
    assert script.SYNONYMS.keys() <= words()
    # Two are words of the world in another sense, which is what makes them sloppy.
    assert words() & {*script.SYNONYMS.values()} == {"all", "look"}


def test_a_refused_instruction_is_no_success_and_equal_words_give_equal_results(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [sample(0, i, task="recolour") for i in range(3)]
    texts = [case.instruction for case in samples]
    known = sorted(words() - {"banana"})
    pipeline = SimpleNamespace(
        config=SimpleNamespace(known_words=known, max_prompt_tokens=512),
        tokenizer=lambda text: SimpleNamespace(input_ids=text.split()),
    )
    right = {case.instruction: case.target for case in samples}

    def editor(instructions: Any, images: Any, seeds: Any) -> Any:
        return [right[text] for text in instructions]

    monkeypatch.setattr(script, "pipeline_editor", lambda pipeline: editor)
    assert script.successes(pipeline, samples, texts, 0) == ([True] * 3, 0)
    assert script.successes(pipeline, samples, [texts[0], "banana", texts[2]], 0) == ([True, False, True], 1)
