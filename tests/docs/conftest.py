"""Commands and examples of the documents share the models that they load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.kept_models import models_kept


@pytest.fixture(scope="module")
def models() -> Iterator[None]:
    with models_kept():
        yield
