"""A training set-up of real classes, so small that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import TAGWORLD_SEED, tiny_config, train_quietly, write_components

from tagmoe.config import RunConfig


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an untrained pipeline whose autoencoder and text encoder a run can use."""
    return write_components(tmp_path_factory.mktemp("components") / "model")


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Encoded pictures of all runs of these components: to encode them takes longer than to train on them."""
    return str(tmp_path_factory.mktemp("latents"))


@pytest.fixture
def config(components: str, latents: str, tmp_path: Path) -> Callable[..., RunConfig]:
    """Make a checked config; keyword arguments replace whole blocks, `name` the output folder.

    `cache_dir=None` gives the run a cache of its own.
    """

    def make(name: str = "run", **changes: Any) -> RunConfig:
        return tiny_config(tmp_path / name, components, latents, **changes)

    return make


@pytest.fixture
def run_training() -> Callable[..., Path]:
    """Train quietly without validation."""
    return train_quietly


@pytest.fixture(scope="session")
def whole(components: str, latents: str, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of the tiny settings that was never stopped, for those that were. Read its folder, do not change it."""
    config = tiny_config(tmp_path_factory.mktemp("whole") / "run", components, latents)
    train_quietly(config)
    return config


@pytest.fixture(scope="session")
def tagworld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 40 edits and 24 generated pictures: in no stage below does a pass over the edits end."""
    from tagmoe.data.sources.importing import import_source
    from tagmoe.data.sources.tagworld import TagWorldSource
    from tagmoe.data.store.store import Store

    path = tmp_path_factory.mktemp("tagworld") / "store"
    store = Store.create(path)
    import_source(store, TagWorldSource(40, TAGWORLD_SEED, "editing"))
    import_source(store, TagWorldSource(24, TAGWORLD_SEED, "generate"))
    return path
