"""The memory that the frozen autoencoder and text encoder of a run take: how much, and whether at all."""

from __future__ import annotations

from dataclasses import dataclass

from tagmoe.config import RunConfig
from tagmoe.errors import TagMoEError
from tagmoe.extras import require
from tagmoe.pipeline.memory.sizes import read_sizes
from tagmoe.train.components_folder import are_used, components_path
from tagmoe.train.stored import BUCKETS, TAGWORLD

SAVED_BYTES = 2
"""Bytes of a number in a model folder."""


@dataclass(frozen=True)
class Encoders:
    """The autoencoder and the text encoder together. numbers: of parameters, 0 where their folder is not there.

    used: whether the run encodes or draws by them; else only their settings are read, and rank 0 reads their weights
    when it saves the model. note: what is not known, as a sentence.
    """

    numbers: int
    used: bool = True
    note: str | None = None


def encoders_of(config: RunConfig) -> Encoders:
    """What a run's components need. A store is opened, but no row of it is read."""
    if config.components is None or not (folder := components_path(config.components)).is_dir():
        return Encoders(0)
    sizes = read_sizes(folder)
    numbers = sizes.vae.parameters + sizes.text_encoder.parameters
    if config.data is None:
        return Encoders(numbers)
    try:
        encoded, judged = _facts_of_store(config)
    except TagMoEError:
        note = (
            f"The store {config.data.store!r} cannot be opened here, so the autoencoder and the text encoder are "
            "counted; training on an encoded store takes neither."
        )
        return Encoders(numbers, note=note)
    return Encoders(numbers, are_used(config, encoded=encoded, judged=judged))


def _facts_of_store(config: RunConfig) -> tuple[bool, bool]:
    """(whether a run's store is encoded, whether it trains on TagWorld). Raises the errors of `Store.open`."""
    assert config.data is not None
    require("data", "lance", "pyarrow", purpose="A store of data")
    from tagmoe.data.store.store import Store

    store = Store.open(config.data.store, version=config.data.version)
    weights = config.data.weights
    judged = weights is None or weights.get(TAGWORLD, 0) > 0
    if weights is None:
        judged = bool(store.rows_where(f"dataset = '{TAGWORLD}'"))
    return BUCKETS in store.columns, judged
