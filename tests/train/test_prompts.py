"""Prompts that are too long, or that the model refuses, do not stop a run; what happens to them is counted and said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.stored_changes import changed

from tagmoe.config import RunConfig
from tagmoe.data.encode import encode_store
from tagmoe.data.encoded_rows import EncodedStore
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.encoder import encoder_of
from tagmoe.train.recipe import train

LONG = "draw a red circle " * 40
SHORT = {"base": {"steps": 0}, "unified": {"steps": 2, "text_to_image_every": None}}


def said(config: RunConfig) -> str:
    """What a run prints."""
    console = Console(record=True, width=400, file=StringIO())
    train(config, validator=lambda *_: {}, console=console)
    return console.export_text()


@pytest.fixture(scope="module")
def stores(tagworld: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores whose records have in turn: a long instruction, a long further wording, a control token."""
    folder = tmp_path_factory.mktemp("stores")

    def every(number: int, **changes: Any) -> Callable[[Any], Any]:
        return lambda record: replace(record, **changes) if int(record.id[:4], 16) % number == 0 else record

    return {
        "long": changed(tagworld, folder / "long", every(2, instruction=LONG)),
        "wording": changed(tagworld, folder / "wording", every(1, instructions=(LONG, LONG))),
        "token": changed(tagworld, folder / "token", every(2, instruction="add a <|im_end|>")),
        "all": changed(tagworld, folder / "all", every(1, instruction=LONG)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["truncate", "skip"])
def test_a_long_prompt_does_not_stop_a_run(
    policy: str, stores: dict[str, Path], config: Callable[..., RunConfig]
) -> None:
    data = {"store": str(stores["long"]), "long_prompts": policy}
    found = said(config(policy, data=data, **SHORT))
    records = Store.open(stores["long"]).records(range(64))
    count = sum(record.instruction == LONG and record.split == "train" for record in records)
    done = {"truncate": "cut to that", "skip": "left out"}[policy]
    assert f"Prompts of more than 64 tokens: {count} of 64, {done} (data.long_prompts: {policy})" in found
    assert (f"Left out: {count} rows without another wording" in found) == (policy == "skip")


@pytest.mark.slow
def test_a_row_with_another_wording_stays(stores: dict[str, Path], config: Callable[..., RunConfig]) -> None:
    data = {"store": str(stores["wording"]), "long_prompts": "skip"}
    found = said(config(data=data, **SHORT))
    assert "Prompts of more than 64 tokens: 128 of 192, left out" in found
    assert "without another wording" not in found


def test_a_control_token_leaves_its_row_out(stores: dict[str, Path], config: Callable[..., RunConfig]) -> None:
    found = said(config(data={"store": str(stores["token"])}, **SHORT))
    assert "prompts, as the model refuses them: The prompt contains the control token '<|im_end|>'" in found


def test_a_store_without_any_readable_row_is_refused(stores: dict[str, Path], config: Callable[..., RunConfig]) -> None:
    with pytest.raises(UsageError, match="rows to train on"):
        said(config(data={"store": str(stores["all"]), "long_prompts": "skip"}, **SHORT))
    assert "64 of 64" in said(config(data={"store": str(stores["all"])}, **SHORT))


@pytest.mark.slow
def test_a_stream_is_cut_to_what_the_components_read(
    components: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components)
    pipeline.register_to_config(max_prompt_tokens=4)
    pipeline.save_pretrained(tmp_path / "narrow")
    found = said(config(components=str(tmp_path / "narrow"), base={"steps": 0}, unified={"steps": 1}))
    assert "Instructions of more than 4 tokens: " in found


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["truncate", "skip"])
def test_encoding_does_the_same(
    policy: str, stores: dict[str, Path], components: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    place = changed(stores["long"], tmp_path / "store", lambda record: record)
    load, fingerprint = encoder_of(Path(components), threads=1, long_prompts=policy)
    result = encode_store(Store.open(place), load, fingerprint)
    long = [record.instruction == LONG for record in Store.open(place).records(range(64))]
    truncates = policy == "truncate"
    assert (result.cut, result.unusable) == ((sum(long), 0) if truncates else (0, sum(long)))
    if truncates:
        text = EncodedStore(Store.open(place)).read([long.index(True)]).text
        own, _ = TagMoEPipeline.from_pretrained(components).encode_texts([LONG], truncate=True)
        assert np.allclose(text.astype(np.float32), own.float().numpy(), atol=0.05)
    found = said(config(data={"store": str(place)}, **SHORT))
    assert (f"Left out: {sum(long)} rows not encoded" in found) != truncates
