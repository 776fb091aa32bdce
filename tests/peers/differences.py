"""Tests of diffusers that our classes fail on purpose, by name, with the reason. Each is a strict expected failure."""

from __future__ import annotations

NO_VARIANT = "a folder without the wanted files is a CheckpointError of one sentence, and no ValueError or OSError"

DIFFERENCES = {
    "Generate::test_loading_with_incorrect_variants_raises_error": NO_VARIANT,
    "Edit::test_loading_with_incorrect_variants_raises_error": NO_VARIANT,
    "Common::test_loading_with_incorrect_variants_raises_error": NO_VARIANT,
    "Model::test_from_save_pretrained_variant": NO_VARIANT,
}
