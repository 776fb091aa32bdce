"""What watches a stage while it trains: metrics, routing, alarms, trackers, progress and the page of the run.

It reads what a step computed and draws no random numbers. So the weights do not depend on it, but for the steps that
the setting `watch.spike: skip` leaves out. Ranks other than 0 take part in sums and decisions, and write nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmoe.files.atomic import write_whole
from tagmoe.train.progress import Pace, shown
from tagmoe.train.ranks import ALONE, Ranks
from tagmoe.train.routing_watch import RoutingWatch, scalars
from tagmoe.train.run_page import ABOUT, ALARMS, METRICS, ROUTING, RunPage, lines
from tagmoe.train.seen import Seen, Watched
from tagmoe.train.spikes import Spikes
from tagmoe.train.throughput import peak_flops, step_flops
from tagmoe.train.trackers import Tracker, trackers

if TYPE_CHECKING:
    from tagmoe.train.loop import Run

SHARE = 0.01
"""Most of a run's time that writing its page takes."""

Report = Mapping[str, float]


class Watch:
    """Of one stage. step: the steps done before. stop: why the run must end after the running step, or None."""

    def __init__(self, stage: Any, run: Run, precision: str, ranks: Ranks = ALONE) -> None:
        config = run.config
        self._stage = stage
        self._run = run
        self._settings = config.watch
        self._folder = run.folder
        self._console = run.console
        self._precision = precision
        self._ranks = ranks
        self._spikes = Spikes(config.watch, ranks)
        self._routing = RoutingWatch(getattr(stage, "mixtures", ()), getattr(stage, "experts", 0), config.watch, ranks)
        device = ranks.device
        self._peak = peak_flops(precision, device, config.watch.peak_flops) if isinstance(stage, Watched) else None
        self._flops = None
        if self._peak is not None and ranks.is_first:
            self._flops = step_flops(stage.name, stage.transformer.config, config, precision, device.type)
        self._page: RunPage | None = None
        self._next_page = 0.0
        self._refused = False
        self._left_out = 0
        self._bad: set[str] = set()
        self._step = 0
        self._trackers: Sequence[Tracker] = ()
        self._show: Callable[..., None] = lambda *_: None
        self.stop: str | None = None

    @property
    def seen(self) -> list[Seen]:
        """The micro-batches of the last step; none of a stage that does not tell."""
        return self._stage.seen if isinstance(self._stage, Watched) else []

    def accepts(self, report: Report) -> bool:
        """Whether the step may change the weights. report: terms of the loss, summed over ranks, and `grad_norm`.

        A spike is an alarm. Sets `stop` when the run must not go on.
        """
        accepted = self._spikes.accepts({n: v for n, v in report.items() if "/" not in n}, self.seen)
        self._refused = not accepted
        if sentence := self._spikes.sentence:
            self._alarm(self._step + 1, "spike", f"{sentence}{'' if accepted else '; the step changes no weight'}.")
            if not accepted and not self._spikes.skips:
                self.stop = sentence
        return accepted

    def done(self, step: int, report: dict[str, float], learning_rate: float) -> None:
        """Log a finished step, its number from 1. report: its numbers with `seconds`."""
        self._step = step
        report = {name: round(value, 6) for name, value in report.items() if math.isfinite(value)}
        report["learning_rate"] = float(f"{learning_rate:.6g}")
        if self._refused:
            report["skipped"] = 1
        pace = self._pace(report["seconds"])
        if pace is not None:
            report |= {"samples": pace.samples, "tokens": pace.tokens}
            if pace.utilisation is not None:
                report["utilisation"] = round(pace.utilisation, 4)
        self._log(METRICS, step, report)
        self._track(report | ({} if pace is None else pace.rates), step)
        if isinstance(self._stage, Watched) and (record := self._routing.add(step, self.seen)) is not None:
            self._log(ROUTING, step, record)
            self._track(scalars(record), step)
            for sentence in self._routing.alarms(record):
                self._alarm(step, "routing", sentence)
                if self._settings.routing_alarm == "stop":
                    self.stop = sentence
        self._show(step, report, pace, self._routing.load)
        self._write_page()

    def validated(self, step: int, scores: Report) -> None:
        """Log the scores of a validation."""
        if not scores:
            return
        report = {f"validation/{name}": value for name, value in scores.items()}
        self._log(METRICS, step, report)
        self._track(report, step)
        said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if "/" not in name)
        self._console.print(f"{self._stage.name} {step}: {said}")
        self._next_page = 0.0
        self._write_page()

    @property
    def skipped(self) -> int:
        """Samples of the last step that this rank could not read."""
        return sum(len(one.skipped) for one in self.seen)

    def report_skipped(self, step: int) -> None:
        """List the samples of a step that could not be read, of all ranks, which must ask together.

        Sets `stop` when the run must not go on without them.
        """
        for own in self._ranks.all([sentence for one in self.seen for sentence in one.skipped]):
            for sentence in own:
                self._left_out += 1
                what = f"{sentence}; samples left out so far: {self._left_out:,}."
                self._alarm(step, "sample", what, aloud=sentence not in self._bad)
                self._bad.add(sentence)
                if self._settings.bad_sample == "stop":
                    self.stop = sentence

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON values."""
        return {**self._spikes.state(), "left_out": self._left_out}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self._spikes.restore(state)
        self._left_out = state.get("left_out", 0)

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """Everything that is open while the stage trains, in rank 0. However it ends, the page is written then.

        step: the steps done before. What was logged of later ones is removed, as they are done again.
        """
        stage, config, settings = self._stage, self._run.config, self._run.settings
        self._step = step
        if not self._ranks.is_first:
            yield
            return
        forget_after(self._folder, stage.name, step)
        about = {"precision": self._precision, "versions": dict(self._run.versions)}
        write_whole(self._folder / ABOUT, json.dumps(about, indent=1) + "\n")
        if self._settings.page_seconds is not None:
            self._page = RunPage(self._folder, settings)
            self._page.read_files()
        with ExitStack() as stack:
            self._show = stack.enter_context(shown(self._console, stage.name, step, stage.steps))
            if step < stage.steps:
                where = (self._folder, stage.name, step)
                opened = trackers(config.watch.report_to, *where, tensorboard=config.tensorboard, settings=settings)
                self._trackers = stack.enter_context(opened)
            try:
                yield
            except BaseException as error:
                self._write_page(f"stopped: {error}" if str(error) else f"stopped by {type(error).__name__}")
                raise
            self._write_page(f"stage {stage.name} is finished")

    def _pace(self, seconds: float) -> Pace | None:
        if not self.seen:
            return None
        ranks = self._ranks.count
        used = None
        if self._flops is not None and self._peak is not None and seconds > 0:
            used = self._flops.of_step(self.seen) / seconds / self._peak
        return Pace(
            seconds,
            ranks * sum(len(one.names) for one in self.seen),
            ranks * sum(one.tokens for one in self.seen),
            used,
        )

    def _alarm(self, step: int, kind: str, sentence: str, *, aloud: bool = True) -> None:
        if aloud:
            self._console.print(f"{self._stage.name}, step {step}: {sentence}", soft_wrap=True, highlight=False)
        self._log(ALARMS, step, {"kind": kind, "what": sentence})

    def _log(self, file: str, step: int, record: Mapping[str, Any]) -> None:
        if not self._ranks.is_first:
            return
        whole = {"stage": self._stage.name, "step": step, **record}
        with (self._folder / file).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(whole) + "\n")
        if self._page is not None:
            view = self._page.view(self._stage.name)
            {METRICS: view.add, ROUTING: view.add_routing, ALARMS: view.alarms.append}[file](whole)

    def _track(self, numbers: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(dict(numbers), step)

    def _write_page(self, state: str = "") -> None:
        """Write the page when it is time; in any case with a `state`, which is the end of the stage."""
        now = time.monotonic()
        every = self._settings.page_seconds
        if self._page is None or every is None or (now < self._next_page and not state):
            return
        self._page.write(state or "running", refresh=None if state else every)
        done = time.monotonic()
        self._next_page = done + max(every, (done - now) / SHARE)


def forget_after(folder: Path, stage: str, step: int) -> None:
    """Remove what was logged of a stage after a step, because a resumed stage does those steps again."""
    for name in (METRICS, ROUTING, ALARMS):
        path = folder / name
        if path.exists():
            kept = [one for one in lines(path) if one["stage"] != stage or one["step"] <= step]
            write_whole(path, "".join(json.dumps(one) + "\n" for one in kept))
