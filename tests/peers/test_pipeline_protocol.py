"""diffusers' tests of its Qwen-Image pipelines, on them and on TagMoEPipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from peers.checkout import load_tests
from peers.parts import our_parts, picture_processor, stock_parts

from tagmoe.pipeline.pipeline import TagMoEPipeline

generate = load_tests("pipelines.qwenimage.test_qwenimage")
edit = load_tests("pipelines.qwenimage.test_qwenimage_edit")


class Stock:
    side = "stock"
    # It compares with numbers of the weights and the tokenizer of the hub.
    test_inference = None

    def get_dummy_components(self) -> dict[str, Any]:
        return stock_parts()


class StockEditor(Stock):
    @pytest.fixture(autouse=True, scope="class")
    def small_references(self) -> Iterator[None]:
        """Stock resizes every reference to a megapixel, which takes minutes on a CPU."""
        resize = pipeline_qwenimage_edit.calculate_dimensions
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: resize(64 * 64, ratio))
            yield

    def get_dummy_components(self) -> dict[str, Any]:
        parts = stock_parts()
        return parts | {"processor": picture_processor(parts["tokenizer"])}


class Ours:
    side = "ours"
    pipeline_class = TagMoEPipeline
    test_inference = None

    def get_dummy_components(self) -> dict[str, Any]:
        return our_parts()


class TestStockGenerate(Stock, generate.TestQwenImagePipeline):
    pass


class TestStockGenerateMemory(Stock, generate.TestQwenImagePipelineMemory):
    pass


class TestStockEdit(StockEditor, edit.TestQwenImageEditPipeline):
    pass


class TestStockEditMemory(StockEditor, edit.TestQwenImageEditPipelineMemory):
    pass


class TestOursGenerate(Ours, generate.TestQwenImagePipeline):
    pass


class TestOursGenerateMemory(Ours, generate.TestQwenImagePipelineMemory):
    pass


class TestOursEdit(Ours, edit.TestQwenImageEditPipeline):
    pass


class TestOursEditMemory(Ours, edit.TestQwenImageEditPipelineMemory):
    pass
