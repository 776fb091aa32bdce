"""The step `measure`: a metric of `tagmoe eval score` as a filter, such as likeness of faces or of subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image

from tagmoe.data.store.record import Picture, Record
from tagmoe.errors import CheckpointError, ImageError, MissingError, UsageError
from tagmoe.evaluate.answers.answer import RAISED, reason_raised
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.metric import FAULTS, Metric, NoValue, Pair
from tagmoe.evaluate.metrics.registry import LEARNED, LearnedSettings, make_metrics
from tagmoe.factory.folder import verdict
from tagmoe.factory.plan import Measure
from tagmoe.pictures import load_image, load_mask

REFERENCE = "reference"


@dataclass
class MeasureLooks:
    """What a metric says of a candidate: it passes within the bounds, and where there is no value."""

    step: Measure
    _metric: Metric | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_metric": None}

    def metric(self) -> Metric:
        """The metric; a network is read with the first picture.

        Raises UsageError for an unknown metric, value or choice, MissingError where the weights are not there.
        """
        if self._metric is None:
            step = self.step
            weights = {} if step.weights is None else {step.by: step.weights}
            choices = {} if not self._choices() else {step.by: self._choices()}
            (self._metric,) = make_metrics([step.by], LearnedSettings(weights, choices, batch=1))
        values = [measure.name for measure in self._metric.measures]
        if self.step.value is not None and self.step.value not in values:
            raise UsageError(
                f"The metric {self.step.by!r} has no value {self.step.value!r}; it has {', '.join(values)}."
            )
        return self._metric

    @property
    def key(self) -> str:
        """A digest of what its values depend on: the weights, the choices, the version."""
        metric = self.metric()
        return metric.key if isinstance(metric, Learned) else f"{metric.name} {metric.version}"

    def __call__(self, record: Record) -> dict[str, Any]:
        step = self.step
        if step.tasks and record.native_task not in step.tasks:
            return verdict(True, status="skipped")
        other = next((one for one in record.images if one.role == step.beside), None)
        if other is None:
            return verdict(True, status="skipped")
        try:
            value = self._value(record, other)
        except ImageError as error:
            return verdict(False, f"unreadable: {error}")
        except (CheckpointError, MissingError, UsageError):
            # What is wrong with the network is no fault of the sample.
            raise
        except RAISED as error:
            return verdict(False, reason_raised(error), status="failed")
        if isinstance(value, NoValue):
            return verdict(value.status not in FAULTS, value.reason, status="refused", model=step.by)
        low, high = step.least, step.most
        passed = (low is None or value >= low) and (high is None or value <= high)
        words = "" if passed else f"{step.by} is {'below the least' if low is not None and value < low else 'too high'}"
        return verdict(passed, words, values={self._name(): round(value, 4)}, model=step.by)

    def _value(self, record: Record, other: Picture) -> float | NoValue:
        mask = next((one for one in record.images if one.role == "mask"), None)
        case = Case(
            bench=record.dataset,
            id=record.id,
            task=record.native_task,
            instruction=record.instruction,
            source=REFERENCE,
            mask=None if mask is None else "mask",
            refs=(REFERENCE,),
        )
        pair = Pair(case, load_image(record.target.data), cast(Prepared, _Pictures(other, mask)))
        return self.metric()(pair)[self._name()]

    def _name(self) -> str:
        return self.step.value or self.metric().measures[0].name

    def _choices(self) -> Mapping[str, str]:
        """The choices, with all cases measured: a sample does not say what its reference shows."""
        kind = LEARNED.get(self.step.by)
        every = {"cases": "all"} if kind is not None and "cases" in kind.choices.model_fields else {}
        return {**every, **self.step.choices}


@dataclass(frozen=True)
class _Pictures:
    """What a metric asks of the pictures of a prepared benchmark, for one sample."""

    other: Picture
    its_mask: Picture | None

    def picture(self, name: str) -> Image.Image:
        return load_image(self.other.data)

    def mask(self, name: str) -> Image.Image:
        assert self.its_mask is not None
        return load_mask(self.its_mask.data)
