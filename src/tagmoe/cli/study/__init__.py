"""`tagmoe study`: a preference study from folders of pictures: plan, build, serve, simulate, analyze."""

from __future__ import annotations

from tagmoe.cli.study.analyze import analyze
from tagmoe.cli.study.build import build
from tagmoe.cli.study.plan import plan
from tagmoe.cli.study.serve import serve
from tagmoe.cli.study.simulate import simulate
from tagmoe.cli.verbs import make_group

app = make_group("Ask people which picture is best (paper 4.6): plan, build the page, serve it, analyze the answers.")
for _verb in (plan, build, serve, simulate, analyze):
    app.command()(_verb)
