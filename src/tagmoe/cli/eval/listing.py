"""`tagmoe eval list`: what can be scored, how, and by what."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from tagmoe.cli.options import AsJson
from tagmoe.cli.output import print_result

if TYPE_CHECKING:
    from tagmoe.evaluate.metrics.learned import Learned


def list_(as_json: AsJson = False) -> None:
    """List benchmarks with their licences, editors, and metrics with their values."""
    from tagmoe.evaluate.answers.anchors import ANCHORS
    from tagmoe.evaluate.answers.diffusers_editor import CALLS
    from tagmoe.evaluate.benchmarks.registry import BENCHMARKS
    from tagmoe.evaluate.metrics.registry import LEARNED, make_metrics

    editors = {
        "model": "a pipeline of tagmoe: --model, by default the packaged one",
        "--outputs DIR": "a folder of ready outputs: ID.png, or gen_info.json",
        "--endpoint URL": "an images server of OpenAI's protocol",
        "module:function": "a Python function",
        "diffusers:FOLDER": f"a pipeline of diffusers: {', '.join(CALLS)}",
        **dict.fromkeys(ANCHORS, "an anchor"),
    }
    data = {
        "benchmarks": {
            name: {
                "about": kind.about,
                "licence": kind.licence,
                "from": kind.reads,
                "options": dict(kind.options),
                "accept_licence": kind.needs_acceptance,
            }
            for name, kind in BENCHMARKS.items()
        },
        "editors": editors,
        "metrics": {
            metric.name: {
                "version": metric.version,
                "values": {one.name: {"better": one.better, "about": one.about} for one in metric.measures},
            }
            for metric in make_metrics()
        },
        "learned_metrics": {
            name: {
                "version": kind.version,
                "values": {one.name: {"better": one.better, "about": one.about} for one in kind.measures},
                "weights": kind.published,
                "licence": kind.licence,
                "choices": _choices(kind),
                "official": sorted(kind.official),
            }
            for name, kind in LEARNED.items()
        },
    }
    lines = ["benchmarks"]
    for name, kind in BENCHMARKS.items():
        lines.append(f"  {name:<16}{kind.about} (licence: {kind.licence})")
        lines += [f"  {'':<16}--set {option}={values}" for option, values in kind.options.items()]
    lines.append(f"  {'FILE.yaml':<16}any other: a description of its rows and fields (docs/evaluation.md)")
    lines += ["editors", *(f"  {name:<16}{about}" for name, about in editors.items())]
    for metric in make_metrics():
        lines.append(f"metric {metric.name}")
        lines += [f"  {one.name:<16}{one.about}; better: {one.better}" for one in metric.measures]
    for name, learned in LEARNED.items():
        lines.append(f"metric {name}: needs --weights {name}=FOLDER, as {learned.published} ({learned.licence})")
        lines += [f"  {one.name:<16}{one.about}; better: {one.better}" for one in learned.measures]
        lines += [f"  {'':<16}--set {name}.{choice}={values}" for choice, values in _choices(learned).items()]
    print_result(data, "\n".join(lines), as_json=as_json)


def _choices(kind: type[Learned]) -> dict[str, str]:
    """The values that each choice of a metric takes; the first is the default."""
    found = {}
    for name, field in kind.choices.model_fields.items():
        values = [str(value) for value in get_args(field.annotation)]
        first = str(field.default)
        found[name] = ", ".join([f"{first} (default)", *(value for value in values if value != first)])
    return found
