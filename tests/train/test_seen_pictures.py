"""Pictures in the prompt: as in Qwen-Image-Edit, from the store to training and to inference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from PIL import Image
from support.stored_changes import changed
from support.tiny_model import TEXTS, build_pipeline
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tagmoe.config import DataConfig, RunConfig
from tagmoe.data.encode import encode_store
from tagmoe.data.encoded_rows import EncodedStore
from tagmoe.data.store.store import Store
from tagmoe.errors import CheckpointError, UsageError
from tagmoe.pictures import load_image
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.seen_pictures import EDIT_TEMPLATE, PAD
from tagmoe.train.components_folder import read_components
from tagmoe.train.encoder import encoder_of
from tagmoe.train.recipe import assemble, dense_transformer
from tagmoe.train.stored import StoredRows, StoredSamples

SEEING = {"picture_template": "<|im_start|>change {}<|im_end|>", "picture_area": 64 * 64}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def seeing() -> TagMoEPipeline:
    return build_pipeline(**SEEING)


@pytest.fixture(scope="module")
def seeing_folder(components: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Components whose text encoder sees the references."""
    folder = tmp_path_factory.mktemp("seeing") / "model"
    shutil.copytree(components, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **SEEING}))
    return folder


class Processor:
    """What transformers' processor of whole prompts does, which needs torchvision for videos."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.images = tokenizer, Qwen2VLImageProcessorPil()

    def __call__(self, text: list[str], images: list[Image.Image], **options: Any) -> Any:
        found = self.images(images=images, return_tensors="pt")
        counts = [int(grid.prod()) // 4 for grid in found["image_grid_thw"]]
        for count in counts:
            text = [one.replace(PAD, "<|placeholder|>" * count, 1) for one in text]
        text = [one.replace("<|placeholder|>", PAD) for one in text]
        found.update(self.tokenizer(text, **options))
        return found


@pytest.mark.slow_but_first
@pytest.mark.parametrize("sizes", [[(64, 64)], [(100, 60), (40, 90)]])
def test_the_embedding_is_that_of_the_stock_pipeline(sizes: list[tuple[int, int]]) -> None:
    ours = build_pipeline(picture_template=EDIT_TEMPLATE)
    encoder = ours.text_encoder

    def with_types(**inputs: Any) -> Any:
        # The stock pipeline is of an older transformers, which found the pictures by itself.
        types = (inputs["input_ids"] == encoder.config.image_token_id).int()
        return encoder(**inputs, mm_token_type_ids=types)

    stock = SimpleNamespace(
        processor=Processor(ours.tokenizer),
        text_encoder=with_types,
        prompt_template_encode=EDIT_TEMPLATE,
        prompt_template_encode_start_idx=len(ours._token_ids(EDIT_TEMPLATE.split("{}")[0])),
        _execution_device=torch.device("cpu"),
        _extract_masked_hidden=lambda hidden, mask: QwenImageEditPlusPipeline._extract_masked_hidden(
            None, hidden, mask
        ),
    )
    pictures = [noise(*size, seed) for seed, size in enumerate(sizes)]
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import CONDITION_IMAGE_SIZE, calculate_dimensions

    resized = [
        VaeImageProcessor().resize(one, *reversed(calculate_dimensions(CONDITION_IMAGE_SIZE, one.width / one.height)))
        for one in pictures
    ]
    wanted, _ = QwenImageEditPlusPipeline._get_qwen_prompt_embeds(
        stock, TEXTS[0], resized, torch.device("cpu"), torch.float32
    )
    found, mask = ours.encode_prompt(TEXTS[0], image=pictures)
    assert mask.all()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_prompts_beside_pictures_and_alone_do_not_disturb_each_other(seeing: TagMoEPipeline) -> None:
    beside = [[noise(64, 64)], [], [noise(64, 32, 1), noise(32, 64, 2)]]
    texts = list(TEXTS[:3])
    embeds, mask = seeing.encode_texts(texts, beside)
    for text, own, row, kept in zip(texts, beside, embeds, mask, strict=True):
        alone, _ = seeing.encode_texts([text], [own])
        assert kept.sum() == alone.shape[1]
        torch.testing.assert_close(row[kept], alone[0], rtol=1e-4, atol=1e-4)
    plain = build_pipeline()
    assert torch.equal(plain.encode_prompt(texts[0], image=beside[0])[0], plain.encode_prompt(texts[0])[0])


@pytest.mark.slow
def test_an_edit_is_conditioned_on_the_picture_that_is_seen(seeing: TagMoEPipeline) -> None:
    seen: list[Any] = []
    encode = seeing.encode_texts
    seeing.encode_texts = lambda texts, beside, **options: seen.append(beside) or encode(texts, beside, **options)
    try:
        one = seeing(list(TEXTS[:2]), noise(64, 64), seed=1, num_inference_steps=1, true_cfg_scale=2.0)
        assert [[len(row) for row in pictures] for pictures in seen] == [[1, 1], [1, 1]]  # both halves of the guidance
        assert len(one.images) == 2
        seeing(TEXTS[0], seed=1, num_inference_steps=1)
        assert seen[-1] == [[]]
    finally:
        del seeing.encode_texts
    with pytest.raises(UsageError, match="at most 1:16"):
        seeing(TEXTS[0], noise(400, 1), num_inference_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "numbered"), [("QwenImageEditPlusPipeline", True), ("QwenImageEditPipeline", False)])
def test_a_folder_of_a_stock_editing_pipeline_sees_pictures(
    name: str, numbered: bool, components: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(components, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": name}
    index = {key: value for key, value in index.items() if not key.startswith("picture_")}
    (folder / "model_index.json").write_text(json.dumps(index))
    pipeline = TagMoEPipeline.from_pretrained(folder)
    assert pipeline.config.picture_template == EDIT_TEMPLATE
    assert pipeline.config.picture_mark.startswith("Picture {}: ") == numbered
    assert TagMoEPipeline.from_pretrained(folder, picture_template=None).config.picture_template is None
    assert encoder_of(folder)[1]["prompt"] != encoder_of(Path(components))[1]["prompt"]
    for option, value in (("picture_template", "none"), ("picture_mark", "picture"), ("picture_area", 0)):
        (folder / "model_index.json").write_text(json.dumps({**index, option: value}))
        with pytest.raises(CheckpointError, match=option):
            TagMoEPipeline.from_pretrained(folder)


@pytest.mark.slow
def test_an_encoded_store_has_what_the_model_sees(
    tagworld: Path, seeing_folder: Path, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    place = changed(
        tagworld,
        tmp_path / "store",
        lambda record: replace(record, instruction="remove the hat", instructions=("make the circle red",)),
    )
    assert encode_store(Store.open(place), *encoder_of(seeing_folder, threads=1)).unusable == 0
    store = Store.open(place)
    pipeline = TagMoEPipeline.from_pretrained(seeing_folder, dtype=torch.float32)
    records = store.records(range(64))
    row = next(number for number, record in enumerate(records) if record.images)
    pictures = [load_image(one.data) for one in records[row].images if one.role != "mask"]
    reader = EncodedStore(store)
    for options, text in (({}, "remove the hat"), ({"choice": [0.9]}, "make the circle red"), ({"blank": [True]}, " ")):
        own, _ = pipeline.encode_prompt(text, image=pictures)
        assert np.allclose(reader.read([row], **options).text, own.numpy(), atol=5e-3), text
    generated = next(number for number, record in enumerate(records) if not record.images)
    own, _ = pipeline.encode_prompt(" ")
    assert np.allclose(reader.read([generated], blank=[True]).text, own.numpy(), atol=5e-3)
    other = next(n for n, r in enumerate(records) if r.images and r.images[0].data != records[row].images[0].data)
    assert not np.allclose(reader.read([row]).text, reader.read([other]).text, atol=1e-3)


@pytest.mark.slow
def test_training_on_columns_is_training_on_pictures(
    tagworld: Path,
    seeing_folder: Path,
    config: Callable[..., RunConfig],
    run_training: Callable[..., Path],
    tmp_path: Path,
) -> None:
    encoded = shutil.copytree(tagworld, tmp_path / "store")
    encode_store(Store.open(encoded), *encoder_of(seeing_folder, threads=1))
    parts = read_components(str(seeing_folder))
    pipeline = assemble(dense_transformer(config(components=str(seeing_folder)), parts), parts)
    batches = []
    for place, folder in ((tagworld, None), (encoded, seeing_folder)):
        rows = StoredRows.open(DataConfig(store=str(place)), folder)
        batches.append(StoredSamples(pipeline, rows, "edit", batch=8, seed=0, dropout=0.4).draw(1))
    assert torch.equal(batches[0].mask_BS, batches[1].mask_BS)
    torch.testing.assert_close(batches[0].text_BSD, batches[1].text_BSD, rtol=2**-10, atol=2e-3)
    for name, data in (("columns", {"store": str(encoded)}), ("stream", None)):
        settings = config(name, components=str(seeing_folder), base={"steps": 1}, unified={"steps": 2}, data=data)
        model = TagMoEPipeline.from_pretrained(run_training(settings))
        assert model.config.picture_template == SEEING["picture_template"]


def test_the_limit_of_a_prompt_counts_its_words_and_not_its_pictures(seeing: TagMoEPipeline) -> None:
    pictures = [noise(64, 64)]
    whole, _ = seeing.encode_prompt(TEXTS[0], image=pictures)
    cut, mask = seeing.encode_prompt(TEXTS[0], image=pictures, max_sequence_length=2)
    alone, _ = seeing.encode_prompt(TEXTS[0])
    assert mask.all()
    assert whole.shape[1] - cut.shape[1] == alone.shape[1] - 2
    torch.testing.assert_close(cut, whole[:, : cut.shape[1]], rtol=1e-5, atol=1e-5)
    assert torch.equal(seeing.encode_prompt([TEXTS[0], TEXTS[0]], image=pictures[0])[0][1], whole[0])
