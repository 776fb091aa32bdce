"""The settings of a training run: one YAML file, checked against this schema, changed by `--set a.b=c`.

Every default says where it comes from: [paper 4.1], [release], or [ours] (docs/decisions.md, docs/log.md).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tagmoe.errors import ConfigError
from tagmoe.files.yaml_text import read_yaml

# Copies of constants of tags and world, which this layer may not import. A test keeps them equal.
NUM_TAGS = 18
PICTURE_SIZE = 64
# The transformer packs 2x2 latents into one token.
PATCH_SIZE = 2
RECIPES = Path(__file__).parent / "recipes"
COMMON = "common.yaml"
"""The settings that all arms of an ablation share. A folder with this file is a folder of arms."""
LARGEST_SEED = 2**62
"""A stage adds its step number to the seed, and torch takes seeds below 2**64."""


class Settings(BaseModel):
    """A frozen block of settings that refuses names it does not know and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would take true for the number 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError(f"The setting {info.field_name!r} is {str(value).lower()}; it is no switch.")
        return value


class AutoencoderConfig(Settings):
    """The Qwen-Image autoencoder at TagWorld size: factor 8, so a 64x64 picture is 8x8 latents, 4x4 tokens. [ours]"""

    base_dim: int = Field(8, ge=4)
    z_dim: int = Field(16, ge=1)
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = Field(1, ge=1)
    steps: int = Field(8000, ge=1)
    decoder_steps: int = Field(0, ge=0)
    """Further steps of the decoder alone."""
    batch: int = Field(16, ge=1)
    lr: float = Field(3e-3, gt=0)
    lambda_kl: float = Field(1e-5, ge=0)
    latent_noise: float = Field(0.05, ge=0)
    """Gaussian noise on the latents while training, so that small errors of the transformer decode to small errors."""


class TextEncoderConfig(Settings):
    """The Qwen2.5-VL text encoder at TagWorld size, trained to predict the facts that an instruction states. [ours]"""

    vocab_size: int = Field(512, ge=264)
    hidden_size: int = Field(128, ge=16)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    num_kv_heads: int = Field(2, ge=1)
    intermediate_size: int = Field(256, ge=16)
    steps: int = Field(3000, ge=1)
    batch: int = Field(128, ge=1)
    lr: float = Field(3e-3, gt=0)


class TransformerConfig(Settings):
    """The dense diffusion transformer. [ours: size]"""

    num_layers: int = Field(6, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    attention_head_dim: int = Field(32, ge=4)
    axes_dims_rope: tuple[int, int, int] = (8, 12, 12)


class MoEConfig(Settings):
    """The mixture that replaces the image FFN of the last blocks."""

    num_moe_blocks: int = Field(3, ge=1)
    """L. Paper: the last 10 of 60; here half of the blocks. [ours]"""
    num_experts: int = Field(4, ge=2)
    """N. [paper 4.1]"""
    top_k: int = Field(1, ge=1)
    """A. [paper 4.1]"""
    gate: Literal["mlp", "linear"] = "mlp"
    """mlp [paper 4.1], linear [release]."""
    mode: Literal["exact", "plain"] = "exact"
    """How the experts start. exact: scaled, so that the mixture equals the dense FFN at step 0. plain: not. [ours]"""


class LossConfig(Settings):
    """Eq. (5) and the flow matching it adds to."""

    lambda_lbl: float = Field(0.01, ge=0)
    """[release]"""
    lambda_align: float = Field(0.1, ge=0)
    """The paper prints no value. [ours]"""
    semantic_dim: int = Field(128, ge=1)
    """Width of W_tag: the model's hidden size. [paper 3.3.1]"""
    head_hidden: int = Field(256, ge=1)
    head_layers: Literal[2, 3] = 2
    """[paper 3.3.3]; the release has 3."""
    tag_embedding: Literal["learned", "frozen-orthogonal"] = "frozen-orthogonal"
    """learned is the paper's [paper 3.3.1]; on TagWorld it collapses and scored 1.2 points lower. [ours]"""
    align_target: Literal["grad", "stop-grad"] = "grad"
    """Whether the gradient of L_align also reaches W_tag. [paper: learnable]"""
    align_tags: Literal["own", "shuffled", "other-task"] = "own"
    """The tags that L_align sees: the sample's own, or a control. shuffled: those of another sample of the batch.
    other-task: always those of one other task. [ours]"""
    edit_weight: float = Field(1.0, gt=0)
    """Weight in L_flow of the tokens that the edit may change. The others only copy the source and weigh 1. [ours]"""
    timestep_density: Literal["uniform", "logit-normal"] = "logit-normal"
    timestep_mean: float = 0.0
    timestep_std: float = Field(1.0, gt=0)
    timestep_shift: float = Field(1.0, gt=0)


class OptimizerConfig(Settings):
    """Muon for the matrices of the blocks, AdamW for the rest; warm-up, constant, linear decay to zero. [ours]"""

    name: Literal["muon", "adamw"] = "muon"
    muon_lr: float = Field(8e-3, gt=0)
    lr: float = Field(1.5e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(100, ge=0)
    decay_share: float = Field(0.4, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls linearly to zero."""
    grad_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)


class StageConfig(Settings):
    """One stage of training the transformer."""

    steps: int = Field(..., ge=0)
    batch: int = Field(64, ge=1)
    accumulate: int = Field(1, ge=1)
    """Micro-batches a step."""
    text_to_image_every: int | None = Field(8, ge=0)
    """Every n-th step takes a text-to-image batch, the others an editing batch. 1: text-to-image only. 0: editing only.
    null, allowed with a store: the weights of its data sets decide."""
    edit_tasks: tuple[str, ...] | None = None
    """Train on these editing tasks alone, by default on all of them."""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of samples whose instruction is replaced by the empty one, for classifier-free guidance."""
    unique_samples: int = Field(100_000, ge=1)
    """Number of different samples. Each is encoded once and seen again every epoch: encoding costs more than a step."""


class DataConfig(Settings):
    """A store of records to train on (`tagmoe data import`). [ours]"""

    store: str = Field(..., min_length=1)
    """Folder, or address in an object store."""
    version: int | None = Field(None, ge=1)
    """Version of the store's table. By default a run takes the newest at its start and keeps it."""
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Share of the samples for each data set; the sum is free. A data set that is not named is left out. By default a
    data set weighs as much as it has rows."""
    rewritten_share: float = Field(0.5, ge=0, le=1)
    """Share of samples that use the rewritten instruction if they have one. The others use one of the raw ones."""
    long_prompts: Literal["truncate", "skip"] = "truncate"
    """What happens to a wording of more tokens than the model reads: cut to its first ones, or left out (a row without
    other wordings, too). An encoded store keeps what `tagmoe data encode --long-prompts` did."""
    rare_buckets: Literal["weight", "skip"] = "weight"
    """What happens to rows whose picture sizes fewer rows share than a batch has. weight: a batch has each of them
    once, and its gradient counts by their number. skip: they are left out."""
    validation_rows: int = Field(256, ge=0)
    """Rows of the store's split "validation", at most, whose loss is measured at each validation. 0: none."""


class RunConfig(Settings):
    """Everything that defines a run: dense text-to-image base, exact upcycling, unified training. [paper 4.1]"""

    output_dir: str = Field(..., min_length=1)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    components: str | None = "packaged"
    """Where the frozen autoencoder, tokenizer and text encoder come from: "packaged", a model folder, or null to train
    them first."""
    dense: str | None = None
    """A model folder with the dense transformer to start from, in place of training one in stage base."""
    cache_dir: str | None = None
    """Folder of encoded pictures, shared by runs. By default a run keeps them in its own folder until it finishes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the processor computes in bf16, else fp32."""
    threads: int | None = Field(None, ge=1)
    compile: bool = False
    """Compile the transformer's blocks: a minute or two at the start (needs a C++ compiler), then 1.5 times faster."""
    save_every: int = Field(500, ge=1)
    validate_every: int = Field(1000, ge=1)
    validation_cases: int = Field(2, ge=1)
    """Cases of each task edited and judged at each validation."""
    keep_checkpoints: int = Field(2, ge=1)
    tensorboard: bool = False
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    transformer: TransformerConfig = TransformerConfig()
    moe: MoEConfig | None = MoEConfig()
    """null: the model stays dense, and L_flow is the whole loss."""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    # Left out of a dump when it is null, so that runs without a store keep the hash from before stores existed.
    data: DataConfig | None = Field(None, exclude_if=lambda data: data is None)
    """null: the endless stream of TagWorld."""
    base: StageConfig
    unified: StageConfig

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        """Check settings against each other now; a run would otherwise fail hours later, at the stage concerned."""
        for problem in _misfits(self):
            raise ValueError(problem)
        return self


def _misfits(config: RunConfig) -> list[str]:
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
        )
    ]
    if moe is not None:
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


def packaged_recipes() -> dict[str, Path]:
    """The recipes of the package by name, such as "tagworld/quick"; without those of an ablation's arms."""
    return {
        path.relative_to(RECIPES).with_suffix("").as_posix(): path
        for path in sorted(RECIPES.rglob("*.yaml"))
        if not (path.parent / COMMON).is_file()
    }


def packaged_arms() -> dict[str, Path]:
    """The folders of arms of the package by name, such as "tagworld/ablation"."""
    return {path.parent.relative_to(RECIPES).as_posix(): path.parent for path in sorted(RECIPES.rglob(COMMON))}


def find_recipe(given: Path) -> Path:
    """The file of a recipe, given by its path or by the name of a packaged recipe.

    Raises ConfigError if it is neither; the message names the nearest recipe.
    """
    if given.exists() and not given.is_dir():
        return given
    hint = 'give the path of a YAML file, or a name that "tagmoe train --list" prints.'
    return _packaged(given, packaged_recipes(), f"There is no recipe {str(given)!r}", hint)


def find_arms(given: Path) -> Path:
    """The folder of arms, given by its path or by the name of a packaged one.

    Raises ConfigError if it is neither; the message names the nearest folder.
    """
    if given.is_dir():
        return given
    known = packaged_arms()
    hint = f"give a folder with a {COMMON}, or the name {' or '.join(known)}."
    return _packaged(given, known, f"There is no folder of arms {str(given)!r}", hint)


def _packaged(given: Path, known: Mapping[str, Path], problem: str, hint: str) -> Path:
    # Many documents print the path that a recipe has in a checkout, so that path works as its name everywhere.
    name = given.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    near = near or [full for full in known if difflib.get_close_matches(name, [full.split("/")[-1]])][:1]
    raise ConfigError(f"{problem}; {f'did you mean {near[0]!r}?' if near else hint}")


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML recipe, apply `a.b=c` overrides in order, and check the result.

    Raises ConfigError for an unreadable file, an unknown name (the message has the nearest one) or a bad value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"There is no recipe {str(path)!r}; give the path of a YAML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recipe {str(path)!r} cannot be read as YAML: {reason}.") from error
    data = read_yaml(text, f"The recipe {str(path)!r}")
    if not isinstance(data, dict):
        raise ConfigError(f"The recipe {str(path)!r} holds no settings; it must be a mapping such as 'seed: 0'.")
    for override in overrides:
        apply_override(data, override)
    return check_config(data)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted name in place: "loss.lambda_align=0.2". The value is read as YAML."""
    name, equals, value = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {override!r} is no assignment; write --set name=value, e.g. --set seed=1.")
    *parents, last = name.strip().split(".")
    block = data
    for parent in parents:
        block = block.setdefault(parent, {})
        if not isinstance(block, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a block of settings.")
    if not value.strip():
        raise ConfigError(f"--set {override!r} gives no value; write null for none.")
    block[last] = read_yaml(value, f"The value of --set {override!r}")


def check_config(data: dict[str, Any]) -> RunConfig:
    """Validate plain data. Raises ConfigError naming the first setting at fault."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], len(error.errors()))) from error


def _explain(problem: Any, count: int) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    others = "1 more setting is" if count == 2 else f"{count - 1} more settings are"
    more = f" ({others} wrong.)" if count > 1 else ""
    if problem["type"] == "value_error":
        return f"{problem['ctx']['error']}{more}"
    if problem["type"] == "extra_forbidden":
        names = setting_names()
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        # a setting written in the wrong block is a common slip: look for its last part as well
        near = near or [known for known in names if known.split(".")[-1] == name.split(".")[-1]][:1]
        hint = f"did you mean {near[0]!r}?" if near else 'see "tagmoe info settings" for all of them.'
        return f"Unknown setting {name!r}; {hint}{more}"
    if problem["type"] == "missing":
        return f"The setting {name!r} is missing; add it to the recipe.{more}"
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    return f"The setting {name!r} is {json.dumps(problem['input'], default=str)}, but {reason}.{more}"


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _names(kind, f"{prefix}{name}.")


def setting_names() -> list[str]:
    """Every dotted setting name, for `tagmoe info settings`."""
    return list(_names(RunConfig))
