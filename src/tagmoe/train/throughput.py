"""FLOPs of any step, from a few traces, and the peak of the processor that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tagmoe.config import RunConfig
from tagmoe.train.seen import Seen
from tagmoe.train.trace import Shapes, trace
from tagmoe.train.trained import choose_trained

# Dense bf16 with fp32 sums, in FLOPs a second, from the makers' data sheets (half of the numbers "with sparsity").
# torch's own table (torch._inductor.analysis.device_info) has other names than torch.cuda.get_device_name gives.
PEAKS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIE": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
}
"""By a part of the name; the longest part that fits counts."""
CORNERS = ((4, 4), (16, 4), (4, 16), (16, 16))
"""(image tokens, text tokens) of the traces that the polynomial goes through."""


def peak_flops(precision: str, device: torch.device, setting: float | None) -> float | None:
    """FLOPs a second of the device that trains: the setting, else that of the GPU's name in bf16, else None."""
    if setting is not None or precision != "bf16" or device.type != "cuda":
        return setting
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The dense bf16 peak of a GPU by its name; None for one that is not in `PEAKS`."""
    fitting = [part for part in PEAKS if part in name.upper().split("(")[0]]
    return PEAKS[max(fitting, key=len)] if fitting else None


class StepFlops:
    """FLOPs of forward and backward passes of a transformer, for micro-batches of any shape. Recompute is not counted.

    A sample of I image and T text tokens costs a + b I + c T + d (I + T)^2, as every layer but attention works on
    tokens one by one. So four small traces give all of them. The reference tokens that the last mixture leaves out
    (`loss.routing_tokens`) are counted.
    """

    def __init__(
        self, config: Mapping[str, Any], precision: str, prepare: Callable[[Any], None], device: str = "cpu"
    ) -> None:
        rows = []
        for image, text in CORNERS:
            traced = trace(config, Shapes(1, ((1, image),), text), precision, prepare=prepare, device=device)
            rows.append(traced.forward + traced.backward)
        self._factors = np.linalg.solve(np.array([_powers(*corner) for corner in CORNERS]), np.array(rows, dtype=float))

    def of(self, shapes: Shapes) -> float:
        """FLOPs of one micro-batch."""
        return float(shapes.batch * (np.array(_powers(shapes.image_tokens, shapes.text_tokens)) @ self._factors))

    def of_step(self, seen: Sequence[Seen]) -> float:
        """FLOPs of the micro-batches of a step."""
        return sum(self.of(one.shapes) for one in seen)


def _powers(image: int, text: int) -> tuple[float, ...]:
    return 1.0, image, text, (image + text) ** 2


def step_flops(
    stage: str, described: Mapping[str, Any], config: RunConfig, precision: str, device: str = "cpu"
) -> StepFlops:
    """The FLOPs of a stage's steps. described: config of its transformer."""
    # The bits of nf4 are no torch dtype; they are multiplied in bf16.
    kept = config.model_copy(update={"frozen_dtype": "bf16"} if config.frozen_dtype == "nf4" else {})

    def prepare(model: Any) -> None:
        if stage == "unified":
            choose_trained(model, kept)

    names = {name: value for name, value in described.items() if not name.startswith("_")}
    return StepFlops(names, precision, prepare, device)
