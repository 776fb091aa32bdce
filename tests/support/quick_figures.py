"""Figures for tests that do not look at them: to lay out and write them takes matplotlib most of a page's time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="72pt" viewBox="0 0 72 72"></svg>'


@contextmanager
def without_layout() -> Iterator[None]:
    """Draw figures without moving their parts apart; all of them are drawn all the same."""
    with pytest.MonkeyPatch.context() as patch:
        # With an engine a figure is drawn twice, the first time to measure it.
        patch.setattr("matplotlib.figure.Figure.get_layout_engine", lambda _: None)
        yield


@contextmanager
def without_rendering() -> Iterator[None]:
    """Make figures, but write each as an empty one. Only where another test writes the same figures whole."""

    def write(_: Any, file: Any, **__: Any) -> None:
        file.write(EMPTY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", write)
        yield
