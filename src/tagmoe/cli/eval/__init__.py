"""`tagmoe eval`: score any editor on a benchmark: prepare its cases, generate outputs, score them, report."""

from __future__ import annotations

from tagmoe.cli.eval.calibrate import calibrate
from tagmoe.cli.eval.caption import caption
from tagmoe.cli.eval.compare import compare
from tagmoe.cli.eval.generate import generate
from tagmoe.cli.eval.judge import judge
from tagmoe.cli.eval.listing import list_
from tagmoe.cli.eval.prepare import prepare
from tagmoe.cli.eval.report import report
from tagmoe.cli.eval.score import score
from tagmoe.cli.verbs import make_group

app = make_group("Score any editor on a benchmark: prepare cases, generate outputs, score, report, compare.")
app.command("list")(list_)
for _verb in (prepare, caption, generate, score, judge, report, compare, calibrate):
    app.command()(_verb)
