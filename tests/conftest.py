"""Parts shared by tests: one tiny random pipeline of the real classes, built once a session."""

from __future__ import annotations

import gc
import os

# One thread a process: the tests are many tiny operations, and two runs may share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A name that is no folder is looked for on the hub: no test may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from support.kept_components import components_kept
from support.tiny_model import build_pipeline


def pytest_configure(config: pytest.Config) -> None:
    """Fewer examples where the slow tests are left out; a test that says how many takes those."""
    settings.register_profile("quick", max_examples=30)
    if config.getoption("markexpr") in ("not slow", "not slow and not real"):
        settings.load_profile("quick")
    # Imports make objects that stay. To go through them again and again would be a quarter of the collection's time.
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `slow_but_first` the first case stays among the quick tests, all others become slow."""
    known: set[str] = set()
    for item in items:
        if item.get_closest_marker("slow_but_first"):
            name = item.nodeid.partition("[")[0]
            if name in known:
                item.add_marker(pytest.mark.slow)
            known.add(name)


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: to go through the objects of all libraries takes it most of a second."""
    gc.freeze()
    gc.enable()
    # Models and figures are made of many objects that die without the collector. At 700 new ones it runs all the time.
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def components_read_once() -> Iterator[None]:
    """All runs of a session train with the same few components."""
    with components_kept():
        yield


@pytest.fixture(scope="session")
def tiny_pipeline() -> Any:
    """The shared tiny pipeline: use it, do not change it (build your own with `build_pipeline` for that)."""
    return build_pipeline()
