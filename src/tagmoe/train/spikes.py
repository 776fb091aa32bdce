"""Steps whose loss is a spike, or not finite: whether they may change the weights, and which samples they had."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tagmoe.config import WatchConfig
from tagmoe.train.ranks import ALONE, Ranks
from tagmoe.train.seen import Seen

FEWEST = 10
"""Steps before the first spike: a median of fewer says little."""
MOST_SKIPPED = 10
"""Steps in a row that may be skipped. More of them are no accident of the data."""
MOST_NAMED = 5


class Spikes:
    """Judges each step before it changes the weights. The medians are by kind of batch: an edit's loss is lower than
    that of a picture from text alone. Its state belongs into a checkpoint, as `skip` decides about weights."""

    def __init__(self, settings: WatchConfig, ranks: Ranks = ALONE) -> None:
        self._settings = settings
        self._ranks = ranks
        self._losses: dict[str, deque[float]] = {}
        self._in_a_row = 0
        self.sentence: str | None = None
        """What is wrong with the last step; None for a step like others."""

    def accepts(self, terms: Mapping[str, float], seen: Sequence[Seen]) -> bool:
        """Whether this step may change the weights. terms: of the loss, and the norm of the gradient, over all ranks.

        seen: this rank's. All ranks must ask together, with the same terms.
        """
        wrong = [f"{name} {value}" for name, value in terms.items() if not math.isfinite(value)]
        kind = seen[0].kind if seen else ""
        losses = self._losses.setdefault(kind, deque(maxlen=self._settings.spike_window))
        loss = loss_of(terms)
        self.sentence = None
        if wrong:
            self.sentence = f"{', '.join(wrong)} is not finite{self._named(seen)}"
        elif len(losses) >= FEWEST and loss > self._settings.spike_factor * median(losses):
            self.sentence = (
                f"a loss of {loss:.4g} is a spike, as the median of the last {len(losses)} steps of its kind is "
                f"{median(losses):.4g}{self._named(seen)}"
            )
        if self.sentence is None:
            losses.append(loss)
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        if self._settings.spike == "warn" and not wrong:
            # Otherwise a level that the loss has come to stay at would be a spike for ever.
            losses.append(loss)
        return not wrong and self._settings.spike == "warn"

    @property
    def skips(self) -> bool:
        """Whether the run goes on after a step that was not accepted."""
        return self._settings.spike == "skip" and self._in_a_row <= MOST_SKIPPED

    def _named(self, seen: Sequence[Seen]) -> str:
        """The samples of a step, that of the largest loss first, as an end of a sentence; "" where none is known."""
        own = [(float(flow), name) for one in seen for flow, name in zip(one.flow_B, one.names, strict=True)]
        rows = [row for rows in self._ranks.all(own) for row in rows]
        # What is not a number comes first.
        rows.sort(key=lambda row: (not math.isnan(row[0]), -row[0]))
        if not rows:
            return ""
        shown = ", ".join(f"{name} ({flow:.3g})" for flow, name in rows[:MOST_NAMED])
        more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
        return f"; its samples by their loss: {shown}{more}"

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON values."""
        return {"losses": {kind: list(losses) for kind, losses in self._losses.items()}, "in_a_row": self._in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        window = self._settings.spike_window
        self._losses = {kind: deque(losses, maxlen=window) for kind, losses in state.get("losses", {}).items()}
        self._in_a_row = state.get("in_a_row", 0)


def loss_of(terms: Mapping[str, float]) -> float:
    """The loss that spikes are seen in: L_flow, or of a stage without it the sum of its terms."""
    if "flow" in terms:
        return terms["flow"]
    return sum(value for name, value in terms.items() if name != "grad_norm" and "/" not in name)
