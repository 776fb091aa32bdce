"""Options of `tagmoe eval score` that choose the metrics, and how these are made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.assigned import assigned
from tagmoe.cli.eval.options import names_of
from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.evaluate.benchmarks.cases import Prepared
    from tagmoe.evaluate.metrics.metric import Metric

MOST_BATCH = 4096


class ProfileName(StrEnum):
    """Names of `tagmoe.evaluate.metrics.learned.Profile`; a test compares them."""

    faithful = "faithful"
    official = "official"


@dataclass(frozen=True)
class MetricOptions:
    """Which metrics, and the weights and choices of the learned ones."""

    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics, separated by commas; by default those without weights and those of --weights."),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=FOLDER",
            help="Backbone of a learned metric: a folder, or owner/name[@revision] of the hub, which is downloaded.",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METRIC.CHOICE=VALUE", help="A choice of a learned metric (`tagmoe eval list`)."),
    ] = None
    profile: Annotated[
        ProfileName, typer.Option(help="faithful: as ICE-Bench's evaluators. official: the benchmark's own protocol.")
    ] = ProfileName.faithful
    device: Annotated[str, typer.Option(help="Where backbones run: cpu, cuda, cuda:1.")] = "cpu"
    batch: Annotated[int, typer.Option(min=1, max=MOST_BATCH, help="Pictures that go through a backbone at once.")] = 16

    def make(self, prepared: Prepared) -> list[Metric]:
        """The metrics. Raises UsageError for settings that cannot be, MissingError for weights that are not there."""
        from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics

        settings = LearnedSettings(
            weights=assigned(self.weights, "--weights"),
            choices=self._choices(),
            profile=self.profile.value,
            benchmark=prepared.manifest.benchmark,
            device=self.device,
            batch=self.batch,
        )
        return make_metrics(names_of(self.metrics), settings)

    def of_metrics(self) -> MetricOptions:
        """These options alone, as a worker gets them; folders are named from the root."""
        own = {one.name: getattr(self, one.name) for one in fields(MetricOptions)}
        own["weights"] = [
            f"{name}={Path(source).resolve() if Path(source).is_dir() else source}"
            for name, source in assigned(self.weights, "--weights").items()
        ]
        return MetricOptions(**own)

    def _choices(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for name, value in assigned(self.settings, "--set").items():
            metric, point, choice = name.rpartition(".")
            if not point or not metric or not choice:
                raise UsageError(f"--set {name!r} names no metric; write --set METRIC.CHOICE=VALUE.")
            found.setdefault(metric, {})[choice] = value
        return found
