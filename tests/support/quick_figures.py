"""Figures for tests that do not look at where things stand: matplotlib's layout takes half of the drawing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def without_layout() -> Iterator[None]:
    """Draw figures without moving their parts apart; all of them are drawn all the same."""
    with pytest.MonkeyPatch.context() as patch:
        # With an engine a figure is drawn twice, the first time to measure it.
        patch.setattr("matplotlib.figure.Figure.get_layout_engine", lambda _: None)
        yield
