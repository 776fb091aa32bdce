"""The summary as CSV, Markdown and LaTeX; a value that is not defined is empty or a dash, never a number."""

from __future__ import annotations

from typing import Any

import numpy as np

from tagmoe.evaluate.comparison.summary import Editor, Figure, Number, Summary
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.report.csv_text import csv_text
from tagmoe.report.markdown import markdown_text
from tagmoe.report.printable import one_line

SCORES_HEAD = (
    *("editor", "task", "measure", "mean", "value", "low", "high", "n", "applicable", "coverage"),
    *("minus_baseline", "minus_low", "minus_high", "pairs", "seed", "key"),
    *("metric_version", "weights", "model_revision", "data_revision"),
)
ARROWS = {"higher": "up", "lower": "down", "neither": ""}


def shown(number: Number, measure: Measure) -> str:
    """A mean as people read it, with its interval; shares and outcomes as per cent."""
    if number.value is None:
        return "-"
    if number.low is None or number.high is None:
        return digits(number.value, measure)
    return f"{digits(number.value, measure)} ({digits(number.low, measure)} to {digits(number.high, measure)})"


def digits(value: float, measure: Measure, *, signed: bool = False) -> str:
    """A value with the digits of its measure."""
    scale, places = (1, measure.digits) if measure.kind == "number" else (100, 1)
    return f"{scale * value:{'+' if signed else ''}.{places}f}"


def unit(measure: Measure) -> str:
    """The name of a measure with its unit and which end is better."""
    percent = [] if measure.kind == "number" else ["%"]
    parts = [*percent, *([ARROWS[measure.better]] if measure.better != "neither" else [])]
    return f"{measure.name} ({', '.join(parts)})" if parts else measure.name


def known(summary: Summary) -> dict[str, Measure]:
    """The measures of which some editor has a value."""
    return {
        name: measure
        for name, measure in summary.measures.items()
        if any(editor.figures[name].cases for editor in summary.editors)
    }


def scores_csv(summary: Summary) -> str:
    """A row for each editor, task ("all" for the means) and measure: interval, n, coverage, and what it rests on."""
    rows: list[list[Any]] = [list(SCORES_HEAD)]
    for name, editor in zip(summary.names, summary.editors, strict=True):
        facts = editor.run.facts
        made_by = [facts.seed, facts.key]
        model = [facts.editor.get("weights") or facts.editor.get("digest"), facts.editor.get("revision")]
        for measure in known(summary):
            rests_on = [
                *made_by,
                editor.versions.get(summary.metrics[measure]),
                *model,
                summary.prepared.manifest.revision,
            ]
            figure = editor.figures[measure]
            rest = [figure.cases, figure.applicable, figure.coverage]
            difference = editor.differences.get(measure)
            minus = [None] * 4 if difference is None else [*_numbers(difference.value), difference.pairs]
            rows.append([name, "all", measure, "micro", *_numbers(figure.micro), *rest, *minus, *rests_on])
            rows.append([name, "all", measure, "macro", *_numbers(figure.macro), *rest, *[None] * 4, *rests_on])
            for task, found in editor.by_task.items():
                n, asked = editor.task_cases[task][measure], summary.applicable[task][measure]
                rest = [n, asked, n / asked if asked else None]
                rows.append([name, task, measure, "micro", *_numbers(found[measure]), *rest, *[None] * 4, *rests_on])
    return csv_text(rows)


def cases_csv(summary: Summary) -> str:
    """A row for each editor and case: its status, and each value."""
    measures = list(known(summary))
    rows: list[list[Any]] = [["editor", "id", "task", "case", "status", *measures]]
    for name, editor in zip(summary.names, summary.editors, strict=True):
        table = np.stack([editor.values[measure] for measure in measures], axis=1).tolist()
        for case, values in zip(summary.prepared.cases, table, strict=True):
            answer = editor.run.answers.get(case.key)
            status = "not_generated" if answer is None else answer.status
            rows.append([name, case.id, case.task, case.key, status, *values])
    return csv_text(rows)


def scores_markdown(summary: Summary) -> str:
    """A table of micro means with 95 % intervals, n and coverage below each."""
    measures = known(summary)
    manifest = summary.prepared.manifest
    lines = [
        f"# {markdown_text(manifest.benchmark)}: {manifest.cases:,} cases",
        "",
        f"Micro means with 95 % intervals; n where it is not all. Cases {manifest.digest[:12]}, bootstrap of "
        f"{summary.groups:,} groups, {summary.draws:,} draws, seed {summary.seed}.",
        "",
        "| editor | " + " | ".join(unit(measure) for measure in measures.values()) + " |",
        "|---" * (len(measures) + 1) + "|",
    ]
    for name, editor in zip(summary.names, summary.editors, strict=True):
        cells = [_cell(editor.figures[key], measure) for key, measure in measures.items()]
        lines.append("| " + " | ".join([markdown_text(name), *cells]) + " |")
    lines += ["", *(f"- {markdown_text(line)}" for line in _rests_on(summary))]
    return "\n".join(lines) + "\n"


def scores_latex(summary: Summary) -> str:
    """A tabular of micro means; the best of each measure among the editors is bold, by its number."""
    measures = known(summary)
    manifest = summary.prepared.manifest
    lines = [
        f"% {one_line(manifest.benchmark)}, {manifest.cases} cases; n and intervals: scores.csv",
        *(f"% {one_line(line)}" for line in _rests_on(summary)),
        f"\\begin{{tabular}}{{l{'r' * len(measures)}}}",
        "editor & " + " & ".join(_latex(unit(measure)) for measure in measures.values()) + " \\\\ \\hline",
    ]
    for name, editor in zip(summary.names, summary.editors, strict=True):
        cells = []
        for key, measure in measures.items():
            value = editor.figures[key].micro.value
            text = "--" if value is None else digits(value, measure)
            cells.append(f"\\textbf{{{text}}}" if is_best(summary, editor, key) else text)
        lines.append(f"{_latex(one_line(name))} & " + " & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\end{tabular}"]) + "\n"


def _rests_on(summary: Summary) -> list[str]:
    """A line for each editor: what its numbers rest on."""
    lines = []
    for name, editor in zip(summary.names, summary.editors, strict=True):
        facts = editor.run.facts
        weights = facts.editor.get("weights") or facts.editor.get("digest")
        metrics = ", ".join(f"{metric} {version}" for metric, version in editor.versions.items())
        versions = ", ".join(f"{part} {version}" for part, version in facts.versions.items())
        known = f"; weights {str(weights)[:12]}" if weights else ""
        lines.append(f"{name}: key {facts.key[:12]}, seed {facts.seed}{known}; metrics {metrics}; made with {versions}")
    return lines


def is_best(summary: Summary, editor: Editor, measure: str) -> bool:
    """Whether this is the best mean; anchors do not compete, and where neither end is better nobody is best."""
    better = summary.measures[measure].better
    rivals = [one for one in summary.editors if one.run.facts.editor.get("kind") != "anchor"]
    values = [value for one in rivals if (value := one.figures[measure].micro.value) is not None]
    own = editor.figures[measure].micro.value
    if better == "neither" or own is None or len(values) < 2 or editor not in rivals:
        return False
    return own == (max(values) if better == "higher" else min(values))


def _cell(figure: Figure, measure: Measure) -> str:
    short = figure.cases != figure.applicable and figure.micro.value is not None
    return shown(figure.micro, measure) + (f", n {figure.cases:,} of {figure.applicable:,}" if short else "")


def _numbers(interval: Number) -> list[float | None]:
    return [interval.value, interval.low, interval.high]


def _latex(text: str) -> str:
    names = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "|": "bar", "<": "less", ">": "greater"}
    escaped = {letter: f"\\text{name}{{}}" for letter, name in names.items()}
    return "".join(escaped.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
