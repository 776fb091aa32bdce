"""The settings of a training run: one YAML file, checked against this schema, changed by `--set a.b=c`.

Every default says where it comes from: [paper 4.1], [release], or [ours] (docs/decisions.md, docs/log.md).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tagmoe.config.block import Settings
from tagmoe.config.fit import Misfits, misfits
from tagmoe.config.watching import WatchConfig

LARGEST_SEED = 2**62
"""A stage adds its step number to the seed, and torch takes seeds below 2**64."""
# Bounds that only catch slips. Nothing beyond them can be meant, and much of it would fill the memory or never end.
MOST_STEPS = 10**8
MOST_SAMPLES = 10**9
WIDEST = 2**16
DEEPEST = 1000
MOST_THREADS = 1024


class AutoencoderConfig(Settings):
    """The Qwen-Image autoencoder at TagWorld size: factor 8, so a 64x64 picture is 8x8 latents, 4x4 tokens. [ours]"""

    base_dim: int = Field(8, ge=4, le=WIDEST)
    z_dim: int = Field(16, ge=1, le=WIDEST)
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = Field(1, ge=1, le=DEEPEST)
    steps: int = Field(8000, ge=1, le=MOST_STEPS)
    decoder_steps: int = Field(0, ge=0, le=MOST_STEPS)
    """Further steps of the decoder alone."""
    batch: int = Field(16, ge=1, le=WIDEST)
    lr: float = Field(3e-3, gt=0)
    lambda_kl: float = Field(1e-5, ge=0)
    latent_noise: float = Field(0.05, ge=0)
    """Gaussian noise on the latents while training, so that small errors of the transformer decode to small errors."""


class TextEncoderConfig(Settings):
    """The Qwen2.5-VL text encoder at TagWorld size, trained to predict the facts that an instruction states. [ours]"""

    vocab_size: int = Field(512, ge=264, le=10**6)
    hidden_size: int = Field(128, ge=16, le=WIDEST)
    num_layers: int = Field(2, ge=1, le=DEEPEST)
    num_heads: int = Field(4, ge=1, le=WIDEST)
    num_kv_heads: int = Field(2, ge=1, le=WIDEST)
    intermediate_size: int = Field(256, ge=16, le=10 * WIDEST)
    steps: int = Field(3000, ge=1, le=MOST_STEPS)
    batch: int = Field(128, ge=1, le=WIDEST)
    lr: float = Field(3e-3, gt=0)


class TransformerConfig(Settings):
    """The dense diffusion transformer. [ours: size]"""

    num_layers: int = Field(6, ge=1, le=DEEPEST)
    num_attention_heads: int = Field(4, ge=1, le=WIDEST)
    attention_head_dim: int = Field(32, ge=4, le=WIDEST)
    axes_dims_rope: tuple[int, int, int] = (8, 12, 12)


class MoEConfig(Settings):
    """The mixture that replaces the image FFN of the last blocks."""

    num_moe_blocks: int = Field(3, ge=1, le=DEEPEST)
    """L. Paper: the last 10 of 60; here half of the blocks. [ours]"""
    num_experts: int = Field(4, ge=2, le=1024)
    """N. [paper 4.1]"""
    top_k: int = Field(1, ge=1, le=1024)
    """A. [paper 4.1]"""
    gate: Literal["mlp", "linear", "text"] = "mlp"
    """mlp [paper 4.1], linear [release]. text: mlp that also reads the mean of the text tokens. [ours]"""
    mode: Literal["exact", "plain"] = "exact"
    """How the experts start. exact: scaled, so that the mixture equals the dense FFN at step 0. plain: not. [ours]"""
    # Settings from here on are left out of a dump at their default, so that older runs keep their hash and resume.
    noise: float = Field(0.0, ge=0, le=10, exclude_if=lambda share: share == 0)
    """Noise on the experts' first weights, as a share of their standard deviation. [ours]"""
    drop: float = Field(0.0, ge=0, le=1, exclude_if=lambda share: share == 0)
    """Share of each expert's hidden units that start anew, others in each: Drop-Upcycling. [arXiv 2502.19261]"""
    gate_input: Literal["modulated", "normed"] = Field("modulated", exclude_if=lambda kind: kind == "modulated")
    """What the gate sees of a token: the expert's input [paper 3.1], or the same before the modulation by time."""
    router: Literal["gate", "family"] = Field("gate", exclude_if=lambda kind: kind == "gate")
    """Who chooses: the gate [paper], or as a control the task's family, one expert each, with the weight 1. [ours]"""


class WideConfig(Settings):
    """Wider image FFNs in the last blocks of a dense model: a control for what capacity alone does. [ours]"""

    num_blocks: int = Field(..., ge=1, le=DEEPEST)
    factor: int = Field(4, ge=2, le=64)
    """How many times as wide as the others."""


class LossConfig(Settings):
    """Eq. (5) and the flow matching it adds to."""

    lambda_lbl: float = Field(0.01, ge=0)
    """[release]"""
    lambda_align: float = Field(0.1, ge=0)
    """The paper prints no value. [ours]"""
    semantic_dim: int = Field(128, ge=1, le=WIDEST)
    """Width of W_tag: the model's hidden size. [paper 3.3.1]"""
    head_hidden: int = Field(256, ge=1, le=WIDEST)
    head_layers: Literal[2, 3] = 2
    """[paper 3.3.3]; the release has 3."""
    tag_embedding: Literal["learned", "frozen-orthogonal", "text"] = "frozen-orthogonal"
    """learned is the paper's [paper 3.3.1]; on TagWorld it collapses. frozen-orthogonal: fixed orthonormal rows. text:
    fixed, from the text encoder's reading of the tags' names. [ours]"""
    align_target: Literal["grad", "stop-grad"] = "grad"
    """Whether the gradient of L_align also reaches W_tag. [paper: learnable]"""
    align_tags: Literal["own", "shuffled", "other-task"] = "own"
    """The tags that L_align sees: the sample's own, or a control. shuffled: those of another sample of the batch.
    other-task: always those of one other task. [ours]"""
    # Left out of a dump at its default, so that other runs keep the hash from before it existed.
    routing_tokens: Literal["all", "live", "target"] = Field("all", exclude_if=lambda tokens: tokens == "all")
    """The image tokens that count in g (Eq. 3) and in L_lbl. all: every one [paper 3.3.2]. live: all but the reference
    tokens of the last mixture, which cannot change a pixel. target: those of the picture that is made. [ours]"""
    # Settings of this block from here to edit_weight are left out of a dump at their default, as those of `moe`.
    align_loss: Literal["cosine", "contrastive"] = Field("cosine", exclude_if=lambda kind: kind == "cosine")
    """cosine [paper 3.3.3]. contrastive: InfoNCE against the other tasks of the batch. [ours]"""
    signature: Literal["mean", "by-layer"] = Field("mean", exclude_if=lambda kind: kind == "mean")
    """The routing signature g: the mean over layers [paper 3.3.2], or every layer's own numbers. [ours]"""
    hard_signature: bool = Field(False, exclude_if=lambda hard: not hard)
    """Whether g counts the chosen experts, with the scores' gradient (straight-through), not the scores. [ours]"""
    edit_weight: float = Field(1.0, gt=0)
    """Weight in L_flow of the tokens that the edit may change. The others only copy the source and weigh 1. [ours]"""
    timestep_density: Literal["uniform", "logit-normal"] = "logit-normal"
    timestep_mean: float = 0.0
    timestep_std: float = Field(1.0, gt=0)
    timestep_shift: float = Field(1.0, gt=0)
    resolution_shift: bool = Field(False, exclude_if=lambda shifted: not shifted)
    """Shift times by the target's number of tokens, as the model's scheduler does (Qwen-Image: exp(mu)), in place of
    `timestep_shift`. [release]"""


class OptimizerConfig(Settings):
    """Muon for the matrices of the blocks, AdamW for the rest; warm-up, constant, linear decay to zero. [ours]

    Muon needs whole matrices: one process only, and its momentum is fp32.
    """

    name: Literal["muon", "adamw"] = "muon"
    muon_lr: float = Field(8e-3, gt=0)
    lr: float = Field(1.5e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(100, ge=0, le=MOST_STEPS)
    decay_share: float = Field(0.4, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls linearly to zero."""
    grad_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    # Left out of a dump at their default, as the later settings of `moe`.
    gate_rate: float = Field(1.0, ge=0, le=1000, exclude_if=lambda factor: factor == 1)
    """The learning rate of the gates, as a multiple of that of other weights of their kind. [ours]"""
    expert_rate: float = Field(1.0, ge=0, le=1000, exclude_if=lambda factor: factor == 1)
    """The learning rate of the experts, as a multiple of that of other weights of their kind. [ours]"""
    schedule: Literal["wsd", "cosine", "constant"] = Field("wsd", exclude_if=lambda kind: kind == "wsd")
    """After the warm-up. wsd: constant, then linear to zero over `decay_share`. cosine: half a cosine to zero.
    constant: the peak to the end."""
    states: Literal["fp32", "bf16", "8bit"] = Field("fp32", exclude_if=lambda kind: kind == "fp32")
    """The two moments of AdamW. 8bit: blockwise, by bitsandbytes, in one process. With muon fp32 only."""
    gradients: Literal["fp32", "bf16"] = Field("fp32", exclude_if=lambda kind: kind == "fp32")
    """The dtype in which AdamW's gradients are kept. Weights and their update stay fp32. With muon fp32 only."""
    ema_offload: bool = Field(False, exclude_if=lambda offloaded: not offloaded)
    """Keep the moving average in host memory, not on the device that trains."""


class StageConfig(Settings):
    """One stage of training the transformer."""

    steps: int = Field(..., ge=0, le=MOST_STEPS)
    batch: int = Field(64, ge=1, le=WIDEST)
    accumulate: int = Field(1, ge=1, le=WIDEST)
    """Micro-batches a step."""
    text_to_image_every: int | None = Field(8, ge=0, le=MOST_STEPS)
    """Every n-th step takes a text-to-image batch, the others an editing batch. 1: text-to-image only. 0: editing only.
    null, allowed with a store: the weights of its data sets decide."""
    edit_tasks: tuple[str, ...] | None = None
    """Train on these editing tasks alone, by default on all of them."""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of samples whose instruction is replaced by the empty one, for classifier-free guidance."""
    reference_dropout: float = Field(0.0, ge=0, lt=1, exclude_if=lambda share: share == 0)
    """Share of editing batches that are trained without their reference tokens, for guidance by the references. A whole
    batch, as its samples have one length. The text is as before, also where the text encoder sees the pictures."""
    unique_samples: int = Field(100_000, ge=1, le=MOST_SAMPLES)
    """Number of different samples. Each is encoded once and seen again every epoch: encoding costs more than a step."""
    keep_texts: bool = Field(False, exclude_if=lambda keep: not keep)
    """Of TagWorld's stream: encode each instruction once and keep it (5 KB a sample), not again at every step."""


class DataConfig(Settings):
    """A store of records to train on (`tagmoe data import`). [ours]"""

    store: str = Field(..., min_length=1)
    """Folder, or address in an object store."""
    version: int | None = Field(None, ge=1)
    """Version of the store's table. By default a run takes the newest at its start and keeps it."""
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Share of the samples for each data set; the sum is free. A data set that is not named is left out. By default a
    data set weighs as much as it has rows."""
    reference_weights: dict[int, Annotated[float, Field(ge=0)]] | None = Field(
        None, exclude_if=lambda weights: weights is None
    )
    """By number of references, how often such a row is drawn beside others of its data set. A number that is not named
    has 1; 0 leaves its rows out. Shares of the data sets stay those of `weights`, or of their rows."""
    rewritten_share: float = Field(0.5, ge=0, le=1)
    """Share of samples that use the rewritten instruction if they have one. The others use one of the raw ones."""
    long_prompts: Literal["truncate", "skip"] = "truncate"
    """What happens to a wording of more tokens than the model reads: cut to its first ones, or left out (a row without
    other wordings, too). An encoded store keeps what `tagmoe data encode --long-prompts` did."""
    rare_buckets: Literal["weight", "skip"] = "weight"
    """What happens to rows whose picture sizes fewer rows share than a batch has. weight: a batch has each of them
    once, and its gradient counts by their number. skip: they are left out."""
    validation_rows: int = Field(256, ge=0, le=10**6)
    """Rows of the store's split "validation", at most, whose loss is measured at each validation. 0: none."""


class LoraConfig(Settings):
    """The low-rank updates that `parameters: lora` trains (Hu et al., 2021), by PEFT. [ours]"""

    rank: int = Field(16, ge=1, le=WIDEST)
    alpha: float | None = Field(None, gt=0)
    """The update counts by alpha / rank. null: the rank, so by 1."""
    modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"), min_length=1
    )
    """Ends of names of linear layers. By default those of attention, both streams. net.0.proj, net.2: every FFN, each
    expert by itself."""


class RunConfig(Settings):
    """Everything that defines a run: dense text-to-image base, exact upcycling, unified training. [paper 4.1]"""

    output_dir: str = Field(..., min_length=1)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    divide: Literal["content", "stream"] = "content"
    """What keeps TagWorld's test cases from training. content: a hash of pictures and wordings. stream: other draws
    alone, as before 2026-11-30, so that test cases may be seen in training; for runs that began so. [ours]"""
    components: str | None = "packaged"
    """Where the frozen autoencoder, tokenizer and text encoder come from: "packaged", a model folder, or null to train
    them first."""
    # Left out of a dump at their default, so that other runs keep the hash from before they existed.
    start: str = Field("scratch", min_length=1, exclude_if=lambda start: start == "scratch")
    """What training starts from. scratch: new weights, by stage base. Else a model folder or the folder of its run: a
    dense model is upcycled, as by `dense`; a mixture (upcycled, a converted release, a run) goes on, as `mixture`."""
    parameters: Literal["all", "moe", "lora"] = Field("all", exclude_if=lambda kind: kind == "all")
    """What stage unified trains. all [paper 4.1]. moe: experts, gates, W_tag and H_pred. lora: low-rank updates of
    `lora.modules`, W_tag and H_pred. [ours]"""
    frozen_dtype: Literal["fp32", "bf16", "fp8", "nf4"] = Field("bf16", exclude_if=lambda kind: kind == "bf16")
    """How linear layers are kept that `parameters` leaves out. fp8: one scale a layer. nf4: 4 bits, by bitsandbytes.
    With fp8 and nf4 the first and last layers and the gates stay in fp32, as norms do always."""
    lora: LoraConfig = Field(LoraConfig(), exclude_if=lambda lora: lora == LoraConfig())
    dense: str | None = None
    """A model folder, or the folder of its run, with the dense transformer to start from, in place of stage base."""
    # Left out of a dump when it is null, so that other runs keep the hash from before it existed.
    mixture: str | None = Field(None, exclude_if=lambda mixture: mixture is None)
    """A finished mixture, as a model folder or the folder of its run, whose unified training goes on. Experts, gates,
    W_tag and H_pred come from it, and so do the settings `transformer`, `moe` and those of the head in `loss`;
    `components` are its own where the recipe names none."""
    cache_dir: str | None = None
    """Folder of encoded pictures, shared by runs. By default a run keeps them in its own folder until it finishes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the processor computes in bf16, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = Field("auto", exclude_if=lambda device: device == "auto")
    """Where the run computes. auto: a GPU where there is one. Under torchrun each process of a machine has its own."""
    replicate: int = Field(1, ge=1, le=WIDEST, exclude_if=lambda groups: groups == 1)
    """Under torchrun: groups of processes that each hold a whole model, sharded within the group (HSDP). 1: all
    processes share one (FSDP)."""
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    compile: bool = False
    """Compile the transformer's blocks: a minute or two at the start (needs a C++ compiler), then 1.5 times faster."""
    activation_checkpointing: bool = Field(False, exclude_if=lambda recomputes: not recomputes)
    """Keep only the inputs of each block for backward, which computes it again: less memory, more time, the same
    gradients. The choice of experts is kept, not made again."""
    save_every: int = Field(500, ge=1, le=MOST_STEPS)
    save_minutes: float | None = Field(None, gt=0, le=10**6, exclude_if=lambda minutes: minutes is None)
    """Save also when so many minutes have passed since the last checkpoint."""
    validate_every: int = Field(1000, ge=1, le=MOST_STEPS)
    validation_cases: int = Field(2, ge=1, le=10**4)
    """Cases of each task edited and judged at each validation."""
    keep_checkpoints: int = Field(2, ge=1, le=10**6)
    tensorboard: bool = False
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    transformer: TransformerConfig = TransformerConfig()
    moe: MoEConfig | None = MoEConfig()
    """null: the model stays dense, and L_flow is the whole loss."""
    wide: WideConfig | None = Field(None, exclude_if=lambda wide: wide is None)
    """Wider FFNs in the last blocks, for a dense model. Started from a base, they compute at step 0 what it did."""
    conflict: float = Field(0.0, ge=0, le=1, exclude_if=lambda alpha: alpha == 0)
    """alpha of TagWorld's conflict dial: how far families of tasks want other latents for the same picture. [ours]"""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    # Left out of a dump when it is null, so that runs without a store keep the hash from before stores existed.
    data: DataConfig | None = Field(None, exclude_if=lambda data: data is None)
    """null: the endless stream of TagWorld."""
    watch: WatchConfig = Field(WatchConfig(), exclude_if=lambda watch: watch == WatchConfig())
    base: StageConfig
    unified: StageConfig

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        """Check settings against each other now; a run would otherwise fail hours later, at the stage concerned."""
        if found := misfits(self):
            raise Misfits(found)
        return self
