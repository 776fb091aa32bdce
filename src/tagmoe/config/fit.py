"""Settings that exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tagmoe.config.block import Settings
    from tagmoe.config.schema import RunConfig

# Copies of constants of tags and world, which this layer may not import. A test keeps them equal.
NUM_TAGS = 18
NUM_FAMILIES = 4
PICTURE_SIZE = 64
# The transformer packs 2x2 latents into one token.
PATCH_SIZE = 2
SCRATCH = "scratch"
"""The value of `start` for new weights; any other names a folder."""


class Misfits(ValueError):
    """Settings that exclude each other. sentences: one for each pair."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


def misfits(config: RunConfig) -> list[str]:
    """One sentence for each pair of settings that exclude each other."""
    moe, dit, loss, text = config.moe, config.transformer, config.loss, config.text_encoder
    axes, levels = dit.axes_dims_rope, config.autoencoder.dim_mult
    # every level but the first halves the picture, and the transformer then packs 2x2 latents into a token
    allowed = [n for n in range(1, PICTURE_SIZE) if PICTURE_SIZE % (PATCH_SIZE * 2 ** (n - 1)) == 0]
    checks = [
        (
            config.dense is not None and config.base.steps > 0,
            f"The setting 'dense' names a trained base, {config.dense!r}, but 'base.steps' is {config.base.steps}; set "
            "'base.steps' to 0, or leave 'dense' out.",
        ),
        *_misfits_of_mixture(config),
        *_misfits_of_start(config),
        *_misfits_of_training(config),
    ]
    # With a finished mixture these are read from its folder, and its sizes fit together.
    if moe is not None and config.mixture is None and config.start == SCRATCH:
        checks += [
            (
                moe.top_k > moe.num_experts,
                f"The setting 'moe.top_k' is {moe.top_k}, but 'moe.num_experts' is {moe.num_experts}; a token cannot "
                "use more experts than there are.",
            ),
            (
                moe.num_moe_blocks > dit.num_layers,
                f"The setting 'moe.num_moe_blocks' is {moe.num_moe_blocks}, but 'transformer.num_layers' is "
                f"{dit.num_layers}; a model cannot have more mixture blocks than layers.",
            ),
        ]
    checks += [
        (
            any(axis < 2 or axis % 2 for axis in axes) or sum(axes) != dit.attention_head_dim,
            f"The setting 'transformer.axes_dims_rope' is {list(axes)}; it must be three even numbers from 2 that add "
            f"up to 'transformer.attention_head_dim', which is {dit.attention_head_dim}.",
        ),
        (
            loss.tag_embedding == "frozen-orthogonal" and loss.semantic_dim < NUM_TAGS,
            f"The setting 'loss.semantic_dim' is {loss.semantic_dim}, but 'frozen-orthogonal' needs at least "
            f"{NUM_TAGS}, one dimension a tag; raise it or set 'loss.tag_embedding' to 'learned'.",
        ),
        (
            text.hidden_size % (2 * text.num_heads) > 0,
            f"The setting 'text_encoder.hidden_size' is {text.hidden_size}; it must be a multiple of "
            f"{2 * text.num_heads}, so that 'text_encoder.num_heads' = {text.num_heads} heads have an even size.",
        ),
        (
            text.num_heads % text.num_kv_heads > 0,
            f"The setting 'text_encoder.num_kv_heads' is {text.num_kv_heads}; it must divide "
            f"'text_encoder.num_heads', which is {text.num_heads}.",
        ),
        (
            len(levels) not in allowed or min(levels) < 1,
            f"The setting 'autoencoder.dim_mult' is {list(levels)}; it must be {allowed[0]} to {allowed[-1]} "
            f"numbers from 1 (4 of them make {PICTURE_SIZE}x{PICTURE_SIZE} pictures 4x4 tokens).",
        ),
    ]
    if config.wide is not None:
        checks += [
            (
                moe is not None,
                "The setting 'wide' widens the FFNs of a dense model, but 'moe' is given; set 'moe' to null.",
            ),
            (
                config.wide.num_blocks > dit.num_layers,
                f"The setting 'wide.num_blocks' is {config.wide.num_blocks}, but 'transformer.num_layers' is "
                f"{dit.num_layers}; a model cannot have more wide blocks than layers.",
            ),
        ]
    by_family = moe is not None and moe.router == "family"
    checks += [
        (
            by_family and (moe is None or moe.num_experts != NUM_FAMILIES or moe.top_k != 1 or moe.mode != "plain"),
            f"The setting 'moe.router' is 'family', which gives each of {NUM_FAMILIES} families its expert with the "
            f"weight 1; set 'moe.num_experts' to {NUM_FAMILIES}, 'moe.top_k' to 1 and 'moe.mode' to 'plain'.",
        ),
        (
            (by_family or config.conflict > 0) and config.data is not None,
            "Families of tasks are TagWorld's, but 'data.store' is given; leave it out, or 'conflict' and "
            "'moe.router'.",
        ),
        (
            by_family and config.compile,
            "The setting 'moe.router' is 'family', which compiled blocks do not see; set 'compile' to false.",
        ),
        (
            by_family and config.activation_checkpointing,
            "The setting 'moe.router' is 'family', which blocks that are computed again do not see; set "
            "'activation_checkpointing' to false.",
        ),
        (
            (by_family or config.conflict > 0) and config.unified.steps > 0 and config.unified.text_to_image_every != 0,
            "Generation belongs to no family of editing tasks; set 'unified.text_to_image_every' to 0, or leave "
            "'conflict' and 'moe.router' out.",
        ),
    ]
    for name, stage in (("base", config.base), ("unified", config.unified)):
        checks += [
            (
                config.data is None and stage.text_to_image_every is None,
                f"The setting '{name}.text_to_image_every' is null, which needs 'data.store'; give a number.",
            ),
            (
                config.data is not None and stage.edit_tasks is not None,
                f"The setting '{name}.edit_tasks' chooses among TagWorld's stream, but 'data.store' is given; fill a "
                "store with those tasks, or leave 'data' out.",
            ),
        ]
    checks.append(
        (
            config.data is not None and loss.align_tags == "other-task",
            "The setting 'loss.align_tags' is 'other-task', a control on TagWorld's stream, but 'data.store' is given; "
            "leave one of them out.",
        )
    )
    return [sentence for misfit, sentence in checks if misfit]


def _misfits_of_mixture(config: RunConfig) -> list[tuple[bool, str]]:
    given = f"The setting 'mixture' names a finished mixture, {config.mixture!r}, but"
    checks = [
        (config.dense is not None, f"{given} 'dense' names a base, {config.dense!r}; leave one of them out."),
        (config.base.steps > 0, f"{given} 'base.steps' is {config.base.steps}; set 'base.steps' to 0."),
        (config.moe is None, f"{given} 'moe' is null, which makes a dense model; leave 'moe' out."),
        (config.components is None, f"{given} 'components' is null, which trains others; leave 'components' out."),
    ]
    if config.moe is not None:
        checks += [
            (
                value > 0,
                f"{given} 'moe.{name}' is {value:g}, which changes experts when a dense model is upcycled; leave it "
                "out.",
            )
            for name, value in (("noise", config.moe.noise), ("drop", config.moe.drop))
        ]
    return [(config.mixture is not None and misfit, sentence) for misfit, sentence in checks]


def _misfits_of_start(config: RunConfig) -> list[tuple[bool, str]]:
    given = f"The setting 'start' names {config.start!r}, but"
    checks = [
        (config.dense is not None, f"{given} 'dense' names {config.dense!r}; leave 'dense' out."),
        (config.mixture is not None, f"{given} 'mixture' names {config.mixture!r}; leave 'mixture' out."),
        (config.base.steps > 0, f"{given} 'base.steps' is {config.base.steps}; set 'base.steps' to 0."),
    ]
    return [(config.start != SCRATCH and misfit, sentence) for misfit, sentence in checks]


def _misfits_of_training(config: RunConfig) -> list[tuple[bool, str]]:
    """Of what trains, and of the optimizer."""
    optimizer, loss = config.optimizer, config.loss
    frozen, adapts = config.parameters != "all", config.parameters == "lora"
    checks = [
        (
            config.parameters == "moe" and config.moe is None,
            "The setting 'parameters' is 'moe', but 'moe' is null, which makes a dense model; set 'parameters' to "
            "'all' or 'lora'.",
        ),
        (
            config.wide is not None and frozen,
            f"The setting 'parameters' is {config.parameters!r}, but 'wide' adds FFNs to be trained with all; set "
            "'parameters' to 'all'.",
        ),
        (
            not frozen and "frozen_dtype" in config.model_fields_set,
            f"The setting 'frozen_dtype' is {config.frozen_dtype!r}, but 'parameters' is 'all', so nothing is frozen; "
            "leave 'frozen_dtype' out.",
        ),
        (
            not adapts and "lora" in config.model_fields_set,
            f"The setting 'lora' is given, but 'parameters' is {config.parameters!r}; leave 'lora' out, or set "
            "'parameters' to 'lora'.",
        ),
        (
            loss.resolution_shift and loss.timestep_shift != 1,
            f"The setting 'loss.resolution_shift' is true, but 'loss.timestep_shift' is {loss.timestep_shift:g}; leave "
            "one of them out.",
        ),
    ]
    checks += [
        (
            optimizer.name == "muon" and value != "fp32",
            f"The setting 'optimizer.{name}' is {value!r}, which only 'adamw' knows; set 'optimizer.name' to 'adamw'.",
        )
        for name, value in (("states", optimizer.states), ("gradients", optimizer.gradients))
    ]
    data = config.data
    if data is not None and data.reference_weights is not None:
        few = [number for number in data.reference_weights if number < 0]
        none = data.reference_weights and not any(data.reference_weights.values())
        checks += [
            (bool(few), f"The setting 'data.reference_weights' names {few[:1]} references; give numbers from 0."),
            (bool(none), "The setting 'data.reference_weights' has only zeros, which leaves no row; raise one."),
        ]
    for name, stage in (("base", config.base), ("unified", config.unified)):
        has_edits = name == "unified" and stage.text_to_image_every != 1
        checks += [
            (
                stage.reference_dropout > 0 and not has_edits,
                f"The setting '{name}.reference_dropout' is {stage.reference_dropout:g}, but the stage has no "
                "editing batches; leave it out.",
            ),
            (
                stage.edit_tasks is not None and not has_edits,
                f"The setting '{name}.edit_tasks' is given, but the stage has no editing batches; leave it out.",
            ),
            (
                stage.keep_texts and data is not None,
                f"The setting '{name}.keep_texts' keeps instructions of TagWorld's stream, but 'data.store' is given; "
                "leave it out, or encode the store.",
            ),
        ]
    return checks + _misfits_without_effect(config)


def _misfits_without_effect(config: RunConfig) -> list[tuple[bool, str]]:
    """Settings that another one leaves without effect."""
    optimizer, loss = config.optimizer, config.loss
    checks = [
        (
            optimizer.schedule != "wsd" and _is_changed(optimizer, "decay_share"),
            f"The setting 'optimizer.decay_share' is for the schedule 'wsd', but 'optimizer.schedule' is "
            f"{optimizer.schedule!r}; leave 'decay_share' out.",
        ),
        (
            optimizer.name != "muon" and _is_changed(optimizer, "muon_lr"),
            f"The setting 'optimizer.muon_lr' is {optimizer.muon_lr:g}, but 'optimizer.name' is {optimizer.name!r}; "
            "set 'optimizer.lr', or leave 'muon_lr' out.",
        ),
        (
            config.parameters == "lora" and optimizer.gate_rate != 1,
            f"The setting 'optimizer.gate_rate' is {optimizer.gate_rate:g}, but with 'parameters' lora no gate trains; "
            "leave it out.",
        ),
        (
            config.base.text_to_image_every != 1 and _is_changed(config.base, "text_to_image_every"),
            "The stage base takes text-to-image batches alone; leave 'base.text_to_image_every' out.",
        ),
    ]
    checks += [
        (
            loss.timestep_density == "uniform" and _is_changed(loss, name),
            f"The setting 'loss.{name}' is {getattr(loss, name):g}, of the density 'logit-normal', but "
            f"'loss.timestep_density' is 'uniform'; leave '{name}' out.",
        )
        for name in ("timestep_mean", "timestep_std")
    ]
    checks += [
        (
            config.components is not None and getattr(config, name) != type(getattr(config, name))(),
            f"The setting '{name}' is given, but 'components' names trained ones, {config.components!r}; set "
            f"'components' to null to train them, or leave '{name}' out.",
        )
        for name in ("autoencoder", "text_encoder")
    ]
    return checks


def _is_changed(block: Settings, name: str) -> bool:
    """Whether a setting differs from its default. Settings that were written out hold their defaults too."""
    return bool(getattr(block, name) != type(block).model_fields[name].default)
