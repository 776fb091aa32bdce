"""The metrics that need no weights, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tagmoe.errors import UsageError
from tagmoe.evaluate.metrics.alignment import Alignment
from tagmoe.evaluate.metrics.control import Controllability
from tagmoe.evaluate.metrics.copying import NearCopy
from tagmoe.evaluate.metrics.differences import SourceDifference, TargetDifference
from tagmoe.evaluate.metrics.metric import Measure, Metric
from tagmoe.evaluate.metrics.oracle import Oracle

METRICS: dict[str, Callable[[], Metric]] = {
    "oracle": Oracle,
    "source": SourceDifference,
    "target": TargetDifference,
    "control": Controllability,
    "alignment": Alignment,
    "copying": NearCopy,
}


def make_metrics(names: Sequence[str] | None = None) -> list[Metric]:
    """These metrics, by default all. Raises UsageError for an unknown name or none."""
    unknown = [name for name in names or () if name not in METRICS]
    if unknown or (names is not None and not names):
        raise UsageError(
            f"There is no metric {unknown[0]!r}; give some of {', '.join(METRICS)}."
            if unknown
            else f"The metrics name nothing; give some of {', '.join(METRICS)}."
        )
    return [METRICS[name]() for name in METRICS if names is None or name in names]


def measures_of(names: Sequence[str]) -> dict[str, Measure]:
    """The values of these metrics by name, in the order of the registry."""
    return {measure.name: measure for name in METRICS if name in names for measure in METRICS[name]().measures}


def metric_of_measures() -> dict[str, str]:
    """The metric that gives a value, by the name of the value."""
    return {measure.name: name for name in METRICS for measure in METRICS[name]().measures}
