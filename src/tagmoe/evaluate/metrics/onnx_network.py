"""Networks in ONNX files, run by onnxruntime, which the extra `specialists` brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.extras import require
from tagmoe.sentences import reason_of

QUIET = 3
"""Severity of onnxruntime's log: errors alone."""


def _runtime() -> Any:
    """onnxruntime. Raises MissingError without it."""
    require("specialists", "onnxruntime", purpose="A network in an ONNX file")
    import onnxruntime

    return onnxruntime


def providers_of(device: str) -> list[str]:
    """The execution provider of a device. Raises UsageError where this build of onnxruntime has none for it."""
    runtime = _runtime()
    wanted = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
    if wanted not in runtime.get_available_providers():
        raise UsageError(f"The device {device!r} cannot be used: this onnxruntime has no {wanted}; give cpu.")
    return [wanted]


def session_options() -> Any:
    """As many threads as torch has: the order of sums, and with it the last bits, depends on their number."""
    import torch

    options = _runtime().SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    return options


def open_session(file: Path, device: str) -> Any:
    """An inference session. Raises CheckpointError for a file that is no network."""
    runtime = _runtime()
    providers, options = providers_of(device), session_options()
    try:
        return runtime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:
        # onnxruntime has a class of error for each kind of damage, without a common one.
        raise CheckpointError(f"The network {file.name!r} cannot be read ({reason_of(error)}).") from None


def run(session: Any, *inputs: Any) -> Any:
    """The first output for inputs in the order of the graph."""
    named = {own.name: given for own, given in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, named)[0]
