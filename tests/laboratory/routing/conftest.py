"""A random pipeline that can read any TagWorld instruction."""

from __future__ import annotations

from typing import Any

import pytest
from support.tiny_model import tagworld_pipeline


@pytest.fixture(scope="session")
def pipeline(tiny_pipeline: Any) -> Any:
    return tagworld_pipeline(tiny_pipeline)
