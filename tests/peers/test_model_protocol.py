"""diffusers' tests of its Qwen-Image transformer, on it and on TagMoETransformer2DModel with a mixture."""

from __future__ import annotations

from typing import Any

from peers.checkout import load_tests

from tagmoe.model.transformer import TagMoETransformer2DModel

model = load_tests("models.transformers.test_models_transformer_qwenimage")


class Stock:
    side = "stock"


class Ours:
    side = "ours"
    model_class = TagMoETransformer2DModel

    def get_init_dict(self) -> dict[str, Any]:
        return super().get_init_dict() | {"num_moe_blocks": 1}  # type: ignore[misc]


class TestStockModel(Stock, model.TestQwenImageTransformer):
    pass


class TestStockMemory(Stock, model.TestQwenImageTransformerMemory):
    pass


class TestStockTraining(Stock, model.TestQwenImageTransformerTraining):
    pass


class TestStockAttention(Stock, model.TestQwenImageTransformerAttention):
    pass


class TestStockAttentionBackend(Stock, model.TestQwenImageTransformerAttentionBackend):
    pass


class TestStockLoRA(Stock, model.TestQwenImageTransformerLoRA):
    pass


class TestStockLoRAHotSwap(Stock, model.TestQwenImageTransformerLoRAHotSwap):
    pass


class TestStockCompile(Stock, model.TestQwenImageTransformerCompile):
    pass


class TestStockContextParallel(Stock, model.TestQwenImageTransformerContextParallel):
    pass


class TestOursModel(Ours, model.TestQwenImageTransformer):
    pass


class TestOursMemory(Ours, model.TestQwenImageTransformerMemory):
    pass


class TestOursTraining(Ours, model.TestQwenImageTransformerTraining):
    def test_gradient_checkpointing_is_applied(self) -> None:
        # Stock's test names its own class.
        name = TagMoETransformer2DModel.__name__
        model.TrainingTesterMixin.test_gradient_checkpointing_is_applied(self, expected_set={name})


class TestOursAttention(Ours, model.TestQwenImageTransformerAttention):
    pass


class TestOursAttentionBackend(Ours, model.TestQwenImageTransformerAttentionBackend):
    pass


class TestOursLoRA(Ours, model.TestQwenImageTransformerLoRA):
    pass


class TestOursLoRAHotSwap(Ours, model.TestQwenImageTransformerLoRAHotSwap):
    pass


class TestOursCompile(Ours, model.TestQwenImageTransformerCompile):
    pass


class TestOursContextParallel(Ours, model.TestQwenImageTransformerContextParallel):
    pass
