"""A training set-up of real classes, so small that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.tiny_training import SETTINGS, TAGWORLD_SEED, write_components

from tagmoe.config import RunConfig, check_config
from tagmoe.train.recipe import train


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
        merged = {
            key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
            for key, value in SETTINGS.items()
        }
        merged |= {key: value for key, value in changes.items() if key not in merged or not isinstance(value, dict)}
        places = {"components": components, "cache_dir": latents, "output_dir": str(tmp_path / name)}
        return check_config({**places, **merged})

    return make


@pytest.fixture
def run_training() -> Callable[..., Path]:
    """Train quietly without validation."""

    def run(config: RunConfig, *, resume: bool = False) -> Path:
        torch.manual_seed(torch.seed() % 2**31)  # the result must not depend on global random state
        return train(config, validator=lambda *_: {}, resume=resume, console=Console(quiet=True))

    return run


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
