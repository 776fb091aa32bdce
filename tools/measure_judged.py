"""How often is the annotator `rules` right about instructions that a person judged? From the words alone.

    python tools/measure_judged.py [LIST.jsonl] [--objections FILE.jsonl]

Each line of the list has an instruction, the verdict "tags" or "unclear", scope, types, and the preservation tags that
must or must not be there. Every record has one source picture, as the list knows only words. So a line about a second
picture is right only if the words alone tell its tags.

An answer is wrong if scope or types differ, a tag that must be there is missing, or a tag that must not be there is
given. Tags for an unclear line are wrong, too, and counted apart. A refusal is right for an unclear line. The
objections are lines that contradict the definitions of the vocabulary, with reasons. Both figures are printed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tagmoe.annotation.rules.annotator import VERSION, annotate
from tagmoe.data.store.record import Picture, Record
from tagmoe.intervals import wilson
from tagmoe.tags import TAG_NAMES, TaskDescriptor

FOLDER = Path(__file__).parent.parent / "tests" / "annotation" / "rules"
OUTCOMES = ("right", "rightly refused", "wrong", "wrong on unclear", "refused")
WRONG = ("wrong", "wrong on unclear")
SOURCE = Picture(b"", 1, 1, "source")


def main() -> None:
    """Judge every line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, nargs="?", default=FOLDER / "judged_instructions.jsonl")
    parser.add_argument("--objections", type=Path, help="lines with the same `n`, corrected fields, and `reason`")
    options = parser.parse_args()
    lines = read_lines(options.list)
    print(f"rules {VERSION}: {len(lines)} lines of {options.list.name}")
    print(report(lines))
    if options.objections is not None:
        objections = {line["n"]: line for line in read_lines(options.objections)}
        print(f"\nwith {len(objections)} lines of {options.objections.name} in place of theirs")
        print(report([line | objections.get(line["n"], {}) for line in lines]))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file as dictionaries."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def judge(line: dict[str, Any]) -> tuple[str, str]:
    """The outcome of one line, one of OUTCOMES, and what is wrong with the answer or why it was refused."""
    record = Record("", "judged", SOURCE, line["instruction"], "", (SOURCE,))
    answer = annotate(record, native_task=False, pixels=False)
    unclear = line["verdict"] == "unclear"
    if answer.tags is None:
        return ("rightly refused" if unclear else "refused"), answer.reason
    found = TaskDescriptor.from_tags(TAG_NAMES[index] for index in answer.tags)
    if unclear:
        return "wrong on unclear", str(found)
    # The list names "image generation" among the types, as it is no scope.
    generates = line["scope"] is None
    scope, types = (tuple(line["types"]), ()) if generates else ((line["scope"],), line["types"])
    faults = [f"scope {found.scope[0]}"] if found.scope != scope else []
    faults += [f"types {', '.join(found.types)}"] if set(found.types) != set(types) else []
    faults += [f"no {name}" for name in line["preservation_must"] if name not in found.preservation]
    faults += [name for name in line["preservation_must_not"] if name in found.preservation]
    return ("wrong", "; ".join(faults)) if faults else ("right", "")


def report(lines: list[dict[str, Any]]) -> str:
    """The counts with their 95 % intervals, and every line that is not right."""
    judged = [(*judge(line), line) for line in lines]
    counts = Counter(outcome for outcome, _, _ in judged)
    text = [_figure(outcome, counts[outcome], len(lines)) for outcome in OUTCOMES]
    text.append(_figure("wrong, both kinds", sum(counts[outcome] for outcome in WRONG), len(lines)))
    for shown in (*WRONG, "refused"):
        text += [
            f"  {shown}: {line['n']} {line['instruction']!r}: {why}"
            for outcome, why, line in judged
            if outcome == shown
        ]
    return "\n".join(text)


def _figure(name: str, count: int, n: int) -> str:
    share = wilson(count, n)
    return f"{name:<18}{count:>5}  {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


if __name__ == "__main__":
    main()
