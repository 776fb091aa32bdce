"""Tests of diffusers that our classes fail on purpose, by name, with the reason. Each is a strict expected failure."""

from __future__ import annotations

NO_VARIANT = "a folder without the wanted files is a CheckpointError of one sentence, and no ValueError or OSError"

PART_OF_A_LORA = "a LoRA that would be loaded in part, or not at all, is a CheckpointError, and no warning"
UNKNOWN_SETTINGS = "settings in the header that a LoRA has no use for are passed over; stock raises a TypeError"

DIFFERENCES = {
    "Generate::test_loading_with_incorrect_variants_raises_error": NO_VARIANT,
    "Edit::test_loading_with_incorrect_variants_raises_error": NO_VARIANT,
    "Common::test_loading_with_incorrect_variants_raises_error": NO_VARIANT,
    "Model::test_from_save_pretrained_variant": NO_VARIANT,
    "LoRA::test_lora_missing_keys_warning": PART_OF_A_LORA,
    "LoRA::test_lora_unexpected_keys_warning": PART_OF_A_LORA,
    "LoRA::test_logs_info_when_no_lora_keys_found": PART_OF_A_LORA,
    "LoRA::test_lora_adapter_wrong_metadata_raises_error": UNKNOWN_SETTINGS,
}
