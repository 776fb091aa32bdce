"""How good are the tags of the annotator `rules`? Measured on cases of every task of TagWorld, whose tags are exact.

    python tools/measure_rules.py --cases 60 --seed 1000 [--json FILE]

The annotator is measured with and without what it may use beside words: the pixels, and the name of the task.
TagWorld's names tell the task, which few real data sets do. So the honest figure is the one without them.

Two further lines measure the tasks that change several things, with "all the" replaced by "the". Then only the pixels
show how many places change. The split "test" words half of its cases in phrasings that the split "train" never uses.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.annotation.rules.annotator import VERSION, annotate
from tagmoe.annotation.rules.evidence import conflicts, measure
from tagmoe.data.store.record import Picture, Record, Role
from tagmoe.tags import TAGS
from tagmoe.world import TASKS, Sample, sample

FOLLOWED = ("subject", "style_ref", "structure")
SETTINGS = {
    "words": {"native_task": False, "pixels": False},
    "words and pixels": {"native_task": False, "pixels": True},
    "words and native task": {"native_task": True, "pixels": False},
    "words, native task and pixels": {"native_task": True, "pixels": True},
}
SCOPES = frozenset(tag.index for tag in TAGS if tag.tier in ("scope", "generation"))
FACE = frozenset(tag.index for tag in TAGS if tag.name in ("face preservation", "identity preservation"))


@dataclass
class Score:
    """Counts over cases. A case without an answer is wrong in `exact`, and has no tags in the counts by tag."""

    cases: int = 0
    answered: int = 0
    exact: int = 0
    scope: int = 0
    without_face: int = 0
    right: Counter[int] = field(default_factory=Counter)
    said: Counter[int] = field(default_factory=Counter)
    true: Counter[int] = field(default_factory=Counter)
    exact_of: Counter[str] = field(default_factory=Counter)
    cases_of: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, case: Sample, tags: tuple[int, ...] | None, reason: str) -> None:
        """Count one case."""
        true, said = set(case.tags.indices), set(tags or ())
        self.cases += 1
        self.cases_of[case.task] += 1
        self.answered += tags is not None
        self.exact += said == true
        self.exact_of[case.task] += said == true
        self.scope += said & SCOPES == true & SCOPES
        self.without_face += tags is not None and said - FACE == true - FACE
        self.right.update(said & true)
        self.said.update(said)
        self.true.update(true)
        if tags is None:
            self.reasons[f"{case.task}: {reason}"] += 1

    def as_json(self) -> dict[str, Any]:
        """Shares, and figures of every tag."""
        right, said, true = (sum(counts.values()) for counts in (self.right, self.said, self.true))
        tags = {
            tag.name: {
                "cases": self.true[tag.index],
                "precision": _share(self.right[tag.index], self.said[tag.index]),
                "recall": _share(self.right[tag.index], self.true[tag.index]),
                "f1": _share(2 * self.right[tag.index], self.said[tag.index] + self.true[tag.index]),
            }
            for tag in TAGS
        }
        return {
            "cases": self.cases,
            "coverage": _share(self.answered, self.cases),
            "exact": _share(self.exact, self.cases),
            "exact_where_answered": _share(self.exact, self.answered),
            "exact_but_for_face_and_identity": _share(self.without_face, self.cases),
            "scope": _share(self.scope, self.cases),
            "precision": _share(right, said),
            "recall": _share(right, true),
            "f1": _share(2 * right, said + true),
            "tags": tags,
            "exact_by_task": {task: _share(self.exact_of[task], n) for task, n in self.cases_of.items()},
            "unanswered": dict(self.reasons.most_common(20)),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=60, help="cases of each of the 25 tasks")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    found, contradicted = scores(options.cases, options.seed, options.split)
    command = f"python tools/measure_rules.py --cases {options.cases} --seed {options.seed} --split {options.split}"
    results = {name: score.as_json() for name, score in found.items()}
    print(f"rules {VERSION}: {command}")
    print(table(results))
    print(f"true tags that the pixels contradict: {sum(contradicted.values())}, {dict(contradicted)}")
    if options.json is not None:
        everything = {"command": command, "rules": VERSION, "conflicts_with_true_tags": contradicted, **results}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def scores(cases: int, seed: int, split: str) -> tuple[dict[str, Score], Counter[str]]:
    """The scores of SETTINGS and of held-out phrasings alone, and the counts of true tags that pixels contradict."""
    found = {name: Score() for name in (*SETTINGS, "words and pixels, held-out phrasings")}
    found |= {f'"all" left out: {name}': Score() for name in ("words", "words and pixels")}
    contradicted: Counter[str] = Counter()
    for task in TASKS:
        for number in range(cases):
            case = sample(seed, number, split=split, task=task)  # type: ignore[arg-type]
            record = as_record(case)
            for name, used in SETTINGS.items():
                answer = annotate(record, **used)
                found[name].add(case, answer.tags, answer.reason)
                if not used["native_task"] and "all the " in case.instruction:
                    open_words = replace(record, instruction=case.instruction.replace("all the ", "the "))
                    other = annotate(open_words, **used)
                    found[f'"all" left out: {name}'].add(case, other.tags, other.reason)
                if name == "words and pixels" and case.held_out_paraphrase:
                    found["words and pixels, held-out phrasings"].add(case, answer.tags, answer.reason)
            contradicted.update(f"{task}: {name}" for name in conflicts(measure(record), case.tags))
    return found, contradicted


def as_record(case: Sample) -> Record:
    """The case as a record: pictures with their roles. It has no mask, which would reveal what changes."""
    role: Role = "reference" if case.task in FOLLOWED else "source"
    return Record(
        id=f"{case.seed}-{case.index}",
        dataset="tagworld",
        target=_picture(case.target, "source"),
        instruction=case.instruction,
        licence="",
        images=tuple(_picture(source, role) for source in case.sources),
        native_task=case.task,
    )


def table(results: dict[str, Any]) -> str:
    """The figures in lines for people."""
    columns = ("cases", "coverage", "exact", "exact_but_for_face_and_identity", "scope", "precision", "recall", "f1")
    lines = [f"{'':<38}" + "".join(f"{name[:15]:>17}" for name in columns)]
    for name, result in results.items():
        lines.append(f"{name:<38}" + "".join(f"{_text(result[column]):>17}" for column in columns))
    shown = results["words and pixels"]
    lines += ["", f"words and pixels{'':<10}{'cases':>6}{'precision':>11}{'recall':>8}{'F1':>6}"]
    for tag, figures in shown["tags"].items():
        values = [_text(figures[name]) for name in ("precision", "recall", "f1")]
        lines.append(f"{tag:<26}{figures['cases']:>6}{values[0]:>11}{values[1]:>8}{values[2]:>7}")
    lines += ["", "exact by task: " + ", ".join(f"{task} {_text(v)}" for task, v in shown["exact_by_task"].items())]
    lines += [f"unanswered: {reason} ({count})" for reason, count in shown["unanswered"].items()]
    return "\n".join(lines)


def _picture(array: np.ndarray, role: Role) -> Picture:
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG", compress_level=1)
    return Picture(data.getvalue(), array.shape[1], array.shape[0], role)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
