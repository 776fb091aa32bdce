"""The settings of a training run: the schema, what excludes what, reading a recipe, and the settings in words."""

from tagmoe.config.describe import Setting, setting_names, settings
from tagmoe.config.load import (
    COMMON,
    RECIPES,
    apply_overrides,
    check_config,
    find_arms,
    find_plan,
    find_recipe,
    load_config,
    packaged_arms,
    packaged_plans,
    packaged_recipes,
)
from tagmoe.config.schema import (
    AutoencoderConfig,
    DataConfig,
    LoraConfig,
    LossConfig,
    MoEConfig,
    OptimizerConfig,
    RunConfig,
    StageConfig,
    TextEncoderConfig,
    TransformerConfig,
    WideConfig,
)
from tagmoe.config.watching import WatchConfig

__all__ = [
    "COMMON",
    "RECIPES",
    "AutoencoderConfig",
    "DataConfig",
    "LoraConfig",
    "LossConfig",
    "MoEConfig",
    "OptimizerConfig",
    "RunConfig",
    "Setting",
    "StageConfig",
    "TextEncoderConfig",
    "TransformerConfig",
    "WatchConfig",
    "WideConfig",
    "apply_overrides",
    "check_config",
    "find_arms",
    "find_plan",
    "find_recipe",
    "load_config",
    "packaged_arms",
    "packaged_plans",
    "packaged_recipes",
    "setting_names",
    "settings",
]
