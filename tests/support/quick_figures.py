"""Figures for tests that do not look at where things stand: matplotlib's layout takes half of the drawing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def without_layout() -> Iterator[None]:
    """Draw figures without moving their parts apart; all of them are drawn all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda *_: None)
        yield
