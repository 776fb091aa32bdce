"""Does rewriting raise a TagWorld model's success on terse and sloppy instructions? The oracle judges test cases.

    python tools/measure_rewrite.py --cases 12 --seed 8000 [--model FOLDER] [--json FILE]
    python tools/measure_rewrite.py --phrasings tests/world/natural_phrasings.jsonl

Every case is edited three times: with its full instruction, with a sloppy form of it, and with the rewritten sloppy
form. The grammar's rewriter makes the last from the sloppy form and the picture. The forms take turns: telegram (no
articles or small words), keywords (neutral verbs gone too), synonyms (words the model does not know), order (the halves
of the telegram swapped) and typo (one letter wrong in one word). An instruction that the model refuses has failed.

With --phrasings the sloppy forms are those of a file: people's own words for test cases, one JSON object a line with
seed, index and task of the case, the text, and the set that it belongs to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tagmoe.cli.models import load_model, model_name
from tagmoe.editor import run_cases
from tagmoe.errors import UsageError
from tagmoe.evaluate.tagworld import cases
from tagmoe.intervals import wilson
from tagmoe.pipeline.arguments import check_words
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.world import Sample, judge, sample
from tagmoe.world.rephrase import rephrase

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipeline

SMALL_WORDS = "a an the of to at on in is it its as be for over so and with into from this now like there"
SMALL = frozenset(SMALL_WORDS.split())
# Verbs that do not tell which edit is meant.
NEUTRAL_WORDS = "make give put draw paint show turn change let place use colour have look picture redraw"
NEUTRAL = frozenset(NEUTRAL_WORDS.split())
SYNONYMS = {
    "remove": "drop",
    "delete": "wipe",
    "erase": "scrap",
    "add": "insert",
    "replace": "substitute",
    "move": "slide",
    "swap": "trade",
    "switch": "trade",
    "shrink": "reduce",
    "grow": "enlarge",
    "small": "tiny",
    "smaller": "littler",
    "large": "big",
    "larger": "bigger",
    "circle": "disc",
    "circles": "discs",
    "square": "box",
    "squares": "boxes",
    "cross": "plus",
    "crosses": "pluses",
    "purple": "violet",
    "red": "crimson",
    "grey": "gray",
    "striped": "stripy",
    "dotted": "spotted",
    "plain": "solid",
    "person": "man",
    "face": "guy",
    "smiling": "happy",
    "sad": "unhappy",
    "surprised": "shocked",
    "sunglasses": "shades",
    "hat": "cap",
    "blond": "blonde",
    "ginger": "redhead",
    "background": "backdrop",
    "checked": "checkered",
    "lined": "ruled",
    "sketch": "drawing",
    "photo": "photograph",
    "mosaic": "tiles",
    "negative": "inverted",
    "night": "nighttime",
    "sunset": "dusk",
    "fog": "mist",
    "daylight": "daytime",
    "behind": "rear",
    "thing": "object",
    "things": "objects",
    "everything": "all",
    "style": "look",
    "colour": "color",
}


# Sloppy forms ---------------------------------------------------------------------------------------------------


def telegram(text: str, _: Random) -> str:
    """The text without commas and small words."""
    words = text.replace(",", "").split()
    return " ".join([word for word in words if word not in SMALL] or words)


def keywords(text: str, dice: Random) -> str:
    """The telegram without neutral verbs."""
    words = telegram(text, dice).split()
    return " ".join([word for word in words if word not in NEUTRAL] or words)


def synonyms(text: str, _: Random) -> str:
    """Replace every word that has a synonym in the table."""
    return " ".join(SYNONYMS.get(word.strip(","), word) for word in text.split())


def order(text: str, dice: Random) -> str:
    """The telegram with its second half before its first."""
    words = telegram(text, dice).split()
    middle = (len(words) + 1) // 2
    return " ".join([*words[middle:], *words[:middle]])


def typo(text: str, dice: Random) -> str:
    """Drop, double or swap letters in one word of five letters or more, or in the longest where there is none."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word.strip(",")) >= 5] or [words.index(max(words, key=len))]
    i = dice.choice(long)
    word = words[i]
    k = dice.randrange(1, max(2, len(word.strip(",")) - 1))
    forms = (
        word[:k] + word[k + 1 :],
        word[:k] + word[k] + word[k:],
        word[:k] + word[k + 1 : k + 2] + word[k] + word[k + 2 :],
    )
    words[i] = dice.choice([form for form in forms if form != word])
    return " ".join(words)


FORMS: dict[str, Callable[[str, Random], str]] = {
    "telegram": telegram,
    "keywords": keywords,
    "synonyms": synonyms,
    "order": order,
    "typo": typo,
}


def sloppy(samples: Sequence[Sample], seed: int) -> list[tuple[str, str]]:
    """(form, text) of each case. The forms take turns, so that every task gets all of them."""
    names = list(FORMS)
    forms = [names[i % len(names)] for i in range(len(samples))]
    return [
        (form, FORMS[form](case.instruction, Random(f"{seed}/{i}")))
        for i, (form, case) in enumerate(zip(forms, samples, strict=True))
    ]


def natural(file: Path) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Test cases, and (set, text) of each, from a file of people's own words, who saw cases of the old stream."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    samples = [sample(row["seed"], row["index"], split="test", task=row["task"], divide="stream") for row in rows]
    return samples, [(row["set"], row["text"]) for row in rows]


# Measuring ------------------------------------------------------------------------------------------------------


def successes(
    pipeline: TagMoEPipeline, samples: Sequence[Sample], texts: Sequence[str], seed: int
) -> tuple[list[bool], int]:
    """Whether the oracle finds each case done when it is asked for by `texts`, and how many texts were refused."""
    taken = [i for i, text in enumerate(texts) if not refused(pipeline, text)]
    asked = [replace(samples[i], instruction=texts[i]) for i in taken]
    done = [False] * len(samples)
    editor = pipeline_editor(pipeline)

    def numbered(instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]) -> Any:
        # The seed depends on the case's number, so that equal texts give equal pictures in all three runs.
        return editor(instructions, images, [seed + taken[k] for k in seeds])

    for i, case, image in zip(taken, asked, run_cases(numbered, asked, seed=0, batch=16), strict=True):
        done[i] = judge(case, np.asarray(image)).success
    return done, len(samples) - len(taken)


def refused(pipeline: TagMoEPipeline, text: str) -> bool:
    """Whether the model refuses this text."""
    try:
        check_words(text, pipeline.config.known_words)
        return len(pipeline.tokenizer(text).input_ids) > pipeline.config.max_prompt_tokens
    except UsageError:
        return True


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="pipeline folder; by default the packaged model")
    parser.add_argument("--cases", type=int, default=12, help="cases of each of the 25 tasks")
    parser.add_argument("--seed", type=int, default=8000)
    parser.add_argument("--json", type=Path, help="also write every case to this file")
    parser.add_argument("--phrasings", type=Path, help="a file of natural wordings, in place of sloppy forms")
    options = parser.parse_args()
    if options.phrasings is None:
        samples = cases(options.cases, options.seed)
        forms = sloppy(samples, options.seed)
        said = f"--cases {options.cases} --seed {options.seed}"
    else:
        samples, forms = natural(options.phrasings)
        said = f"--phrasings {options.phrasings} --seed {options.seed}"
    pipeline = load_model(options.model)
    runs = {
        "full": [case.instruction for case in samples],
        "sloppy": [text for _, text in forms],
        "rewritten": [
            rephrase(text, case.sources).text or text for (_, text), case in zip(forms, samples, strict=True)
        ],
    }
    results = {name: successes(pipeline, samples, texts, options.seed) for name, texts in runs.items()}
    print(f"{model_name(options.model)}: python tools/measure_rewrite.py {said}")
    print(table(results, [form for form, _ in forms]))
    if options.json is not None:
        rows = [
            {"task": case.task, "form": form, **{name: [texts[i], results[name][0][i]] for name, texts in runs.items()}}
            for i, (case, (form, _)) in enumerate(zip(samples, forms, strict=True))
        ]
        options.json.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


def table(results: dict[str, tuple[list[bool], int]], forms: Sequence[str]) -> str:
    """Success over all cases with its 95 % interval, and by form."""
    lines = [f"{'':<12}{'cases':>6}" + "".join(f"{name:>12}" for name in results)]
    for form in dict.fromkeys(forms):
        at = [i for i, name in enumerate(forms) if name == form]
        shares = (sum(done[i] for i in at) / len(at) for done, _ in results.values())
        lines.append(f"{form:<12}{len(at):>6}" + "".join(f"{share:>12.3f}" for share in shares))
    total = len(forms)
    lines.append(f"{'all':<12}{total:>6}" + "".join(f"{sum(done) / total:>12.3f}" for done, _ in results.values()))
    for name, (done, no) in results.items():
        low, high = wilson(sum(done), total).bounds
        lines.append(f"{name}: {sum(done)}/{total}, 95 % interval {low:.3f} to {high:.3f}; refused {no}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
