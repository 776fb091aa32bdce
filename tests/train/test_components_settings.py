"""What a components folder states about prompts, defaults and sampling is what the trained model states."""

from __future__ import annotations

import json
import shutil
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
from tagmoe.pictures import load_image
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.components_folder import SETTINGS
from tagmoe.train.encoder import encoder_of
from tagmoe.train.recipe import train

STATED = {
    "prompt_template": "<|im_start|>read this: {} and draw<|im_end|>",
    "max_prompt_tokens": 200,
    "known_words": None,
    "default_steps": 7,
    "default_cfg": 1.5,
    "default_size": 32,
    "picture_template": "<|im_start|>look at {} and draw<|im_end|>",
    "picture_mark": "<|vision_start|><|image_pad|><|vision_end|>",
    "picture_area": 4096,
}
SHORT = {"base": {"steps": 0}, "unified": {"steps": 1}}


@pytest.fixture(scope="module")
def stating(components: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A components folder whose every setting differs from TagWorld's."""
    folder = tmp_path_factory.mktemp("stating") / "model"
    shutil.copytree(components, folder)
    for file, changes in (
        (folder / "model_index.json", STATED),
        (folder / "scheduler" / "scheduler_config.json", {"shift": 3.0, "use_dynamic_shifting": True}),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.fixture(scope="module")
def photographs(tagworld: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of edits that are not TagWorld's, with words that TagWorld does not have."""

    def photograph(record: Any) -> Any:
        return replace(record, dataset="photographs", instruction=f"brighten the mountains {record.id[:4]}")

    return changed(tagworld, tmp_path_factory.mktemp("photographs") / "store", photograph)


@pytest.mark.slow
def test_every_setting_of_the_folder_is_that_of_the_model(
    stating: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    model = TagMoEPipeline.from_pretrained(run_training(config(components=str(stating), cache_dir=None, **SHORT)))
    assert set(STATED) == set(SETTINGS)
    assert {name: model.config[name] for name in SETTINGS} == STATED
    assert model.scheduler.config.shift == 3.0
    assert model.scheduler.config.use_dynamic_shifting


def test_the_model_reads_a_prompt_as_the_encoded_store_has_it(
    stating: Path,
    photographs: Path,
    config: Callable[..., RunConfig],
    run_training: Callable[..., Path],
    tmp_path: Path,
) -> None:
    place = shutil.copytree(photographs, tmp_path / "store")
    encode_store(Store.open(place), *encoder_of(stating, [(64, 64)], threads=1))
    model = TagMoEPipeline.from_pretrained(
        run_training(config(components=str(stating), data={"store": str(place)}, **SHORT))
    )
    stored = EncodedStore(Store.open(place)).read([0]).text.astype(np.float32)
    record = Store.open(place).records([0])[0]
    seen = [load_image(picture.data) for picture in record.images if picture.role != "mask"]
    own, _ = model.encode_prompt(record.instruction, image=seen)
    assert stored.shape == tuple(own.shape)
    assert np.allclose(stored, own.float().numpy(), atol=0.05)  # the model is saved in bf16
    cosine = (stored * own.float().numpy()).sum() / np.linalg.norm(stored) / float(own.float().norm())
    assert cosine > 0.999


@pytest.mark.slow
def test_the_oracle_of_tagworld_judges_tagworld_only(
    tagworld: Path, photographs: Path, config: Callable[..., RunConfig]
) -> None:
    for store, judged in ((tagworld, True), (photographs, False)):
        calls: list[int] = []
        console = Console(record=True, width=400, file=StringIO())
        train(
            config(store.parent.name, data={"store": str(store)}, **SHORT),
            validator=lambda pipeline, step, folder, calls=calls: calls.append(step) or {},
            console=console,
        )
        assert bool(calls) == judged
        assert ("oracle does not judge" in console.export_text()) != judged


@pytest.mark.slow
def test_known_words_stay_unless_the_run_trains_on_others(
    tagworld: Path, photographs: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    for store, takes_any in ((tagworld, False), (photographs, True)):
        model = run_training(config(store.parent.name, data={"store": str(store)}, **SHORT))
        assert (json.loads((model / "model_index.json").read_text())["known_words"] is None) == takes_any
