"""Every metric by name: those that need no weights, and those of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.errors import UsageError
from tagmoe.evaluate.metrics.aesthetic import Aesthetic
from tagmoe.evaluate.metrics.alignment import Alignment
from tagmoe.evaluate.metrics.brisque import Brisque
from tagmoe.evaluate.metrics.clip import Clip
from tagmoe.evaluate.metrics.conse import Conse
from tagmoe.evaluate.metrics.control import Controllability
from tagmoe.evaluate.metrics.copying import NearCopy
from tagmoe.evaluate.metrics.differences import SourceDifference, TargetDifference
from tagmoe.evaluate.metrics.dino import Dino
from tagmoe.evaluate.metrics.face import Face
from tagmoe.evaluate.metrics.face_dlib import FaceDlib
from tagmoe.evaluate.metrics.learned import Backbone, Learned, Profile, check_device
from tagmoe.evaluate.metrics.metric import Measure, Metric
from tagmoe.evaluate.metrics.ocr import Ocr
from tagmoe.evaluate.metrics.oracle import Oracle
from tagmoe.evaluate.metrics.reference_copy import ReferenceCopy
from tagmoe.evaluate.metrics.reference_onnx import StyleLite, SubjectSscd
from tagmoe.evaluate.metrics.style import Style

METRICS: dict[str, Callable[[], Metric]] = {
    "oracle": Oracle,
    "source": SourceDifference,
    "target": TargetDifference,
    "control": Controllability,
    "alignment": Alignment,
    "copying": NearCopy,
    "reference-copy": ReferenceCopy,
}
PAPER = (Clip, Dino, Aesthetic, Face, Style)
ALTERNATIVES = (FaceDlib, StyleLite, SubjectSscd, Conse, Ocr, Brisque)
"""What packages bring trained weights for. A colon is in each name, and no value has the name of a paper's column."""
LEARNED: dict[str, type[Learned]] = {kind.name: kind for kind in (*PAPER, *ALTERNATIVES)}


@dataclass(frozen=True)
class LearnedSettings:
    """How metrics of trained networks are run. weights: metric -> folder or repository of its backbone.

    choices: metric -> option -> value, over those of the profile. benchmark: whose own protocol `official` is.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profile: Profile = "faithful"
    benchmark: str = ""
    device: str = "cpu"
    batch: int = 16

    def make(self, name: str) -> Learned:
        """A learned metric; its backbone is found, and not loaded yet.

        Raises UsageError without weights, for unknown choices, and where the benchmark has no such protocol;
        MissingError where the weights are not there.
        """
        kind = LEARNED[name]
        if name not in self.weights:
            given = (
                f"a folder with {', '.join(kind.files)} of {kind.published} ({kind.licence}); see docs/metrics.md."
                if kind.files
                else f"or the repository {kind.published} ({kind.licence}), which is then downloaded."
            )
            raise UsageError(f"The metric {name!r} needs weights: give --weights {name}=FOLDER, {given}")
        chosen: dict[str, str] = {}
        if self.profile == "official":
            if self.benchmark not in kind.official or kind in ALTERNATIVES:
                raise UsageError(
                    f"{self.benchmark} has no protocol of its own for the metric {name!r}; leave out --profile, or "
                    "the metric."
                )
            chosen = dict(kind.official[self.benchmark])
        chosen |= self.choices.get(name, {})
        try:
            choices = kind.choices.model_validate(chosen)
        except ValidationError as error:
            raise UsageError(f"--set for the metric {name!r}: {wrong_field(error, kind.choices)}.") from None
        check_device(self.device)
        backbone = Backbone.find(self.weights[name], kind.files)
        return kind(backbone, choices, profile=self.profile, device=self.device, batch=self.batch)


def metric_names() -> tuple[str, ...]:
    """All metrics, those without weights first."""
    return (*METRICS, *LEARNED)


def make_metrics(names: Sequence[str] | None = None, settings: LearnedSettings = LearnedSettings()) -> list[Metric]:
    """These metrics, by default all without weights and those that weights are given for.

    Raises UsageError for an unknown name or none, for weights and choices of a metric that is not among them, and as
    `LearnedSettings.make` does.
    """
    unknown = [name for name in (*(names or ()), *settings.weights, *settings.choices) if name not in metric_names()]
    if unknown or (names is not None and not names):
        raise UsageError(
            f"There is no metric {unknown[0]!r}; give some of {', '.join(metric_names())}."
            if unknown
            else f"The metrics name nothing; give some of {', '.join(metric_names())}."
        )
    wanted = {*METRICS, *settings.weights} if names is None else set(names)
    chosen = [name for name in metric_names() if name in wanted]
    for option, given in (("--weights", settings.weights), ("--set", settings.choices)):
        unused = [name for name in given if name not in chosen or name in METRICS]
        if unused:
            why = "takes none" if unused[0] in METRICS else "is not among --metrics"
            raise UsageError(f"{option} is given for the metric {unused[0]!r}, which {why}.")
    return [METRICS[name]() if name in METRICS else settings.make(name) for name in chosen]


def kind_of(name: str) -> tuple[int, tuple[Measure, ...]]:
    """The version of a metric and its measures; no weights are needed."""
    if name in LEARNED:
        return LEARNED[name].version, LEARNED[name].measures
    metric = METRICS[name]()
    return metric.version, metric.measures
