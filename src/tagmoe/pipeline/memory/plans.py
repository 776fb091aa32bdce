"""The memory plans, from exact and fast to small and slow, with their estimates, and the choice among them.

Weights are counted exactly. Activations are estimates, and are marked so: their factors below were measured as the peak
of live tensors. `benchmarks/memory.py` measures them again on the CPU, and the real peak on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tagmoe.errors import TagMoEError
from tagmoe.pipeline.memory.sizes import GB, ModelSizes, PartSize
from tagmoe.sentences import counted

# Values that are live at the peak of a forward. Each factor is multiplied by the tokens (or pixels) times the width.
# For the autoencoder, PIXEL_VALUES are added for each pixel. Measured: 14.0 to 14.8 for the transformer in bf16, 15.0
# and 7.8 for Qwen-Image's decoder and encoder at their 96 channels, with the values for each pixel included.
TRANSFORMER_VALUES = 16
DECODER_VALUES = 15
ENCODER_VALUES = 8
PIXEL_VALUES = 64
# LLM.int8() also holds the input in fp16 and int8, and the products in int32: 16 more bytes a token and channel.
INT8_BYTES = 16
# The text encoder keeps the states of all layers. Inside one layer, this many more values are live.
TEXT_VALUES = 32
# The tile of AutoencoderKLQwenImage. The pixels of finished tiles (overlapping, joined, returned) have 3 values each.
TILE_SIDE = 256
TILED_PIXEL_VALUES = 24

# Mean absolute difference of a pixel, out of 255, that is allowed. The tests hold the packaged model to it. Measured on
# that model against fp32, over one picture of each of the 25 tasks: 8-bit 0.46, 4-bit 1.71, bf16 alone 0.34. Over the
# three pictures of the tests, in 3 steps, 4-bit 3.1. For comparison, experts in the wrong order give 6.5, and experts
# of zeros 8.7. Tiling adds 0.7 to 2.2 at 512x512, and nothing to pictures of one tile.
WEIGHT_TOLERANCE: Mapping[str, float] = {"full": 0.0, "8-bit": 1.0, "4-bit": 3.5}
TILING_TOLERANCE = 3.0

# Device memory that plans leave free for the CUDA context, library workspaces and gaps between tensors.
RESERVE = 1.5e9
# On a CPU: for the process itself, with its libraries.
CPU_RESERVE = 1e9
BUDGETS: Mapping[str, float] = {"8gb": 8e9, "16gb": 16e9, "24gb": 24e9, "48gb": 48e9, "80gb": 80e9}
CHOICES = ("auto", *BUDGETS)


@dataclass(frozen=True)
class Line:
    """One summand: its bytes and what they are computed from."""

    what: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Estimate:
    """What a plan needs. moments: bytes on the device in each phase of a call. device: the largest of them. host: bytes
    of host memory while loading or running, whichever is more. lines: the summands.
    """

    lines: tuple[Line, ...]
    moments: Mapping[str, int]
    device: int
    host: int


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is kept in memory. transformer, text_encoder: "full", "8-bit" or "4-bit" weights. offload: "none",
    "component" (one component on the device at a time) or "group" (one transformer block and the next). On a CPU also
    "turns" (one component in memory at a time, read from its folder in each call) or "disk" (the same, and the blocks
    of the transformer are read one by one in each step).
    """

    name: str
    transformer: str
    text_encoder: str
    offload: str
    vae_tiling: bool

    @property
    def tolerance(self) -> float:
        """Allowed mean difference of a pixel, out of 255, from the picture of the first plan. 0: the same picture."""
        weights = max(WEIGHT_TOLERANCE[self.transformer], WEIGHT_TOLERANCE[self.text_encoder])
        return weights + (TILING_TOLERANCE if self.vae_tiling else 0.0)

    @property
    def is_quantised(self) -> bool:
        """Whether it needs the quantisation library."""
        return self.transformer != "full" or self.text_encoder != "full"

    def estimate(self, sizes: ModelSizes) -> Estimate:
        """The memory that this plan needs for a model, to edit one reference into one picture of the default size."""
        value = sizes.quantised_value_bytes if self.is_quantised else sizes.value_bytes
        weights = [
            _weights("transformer", sizes.transformer, self.transformer, value),
            _weights("text encoder", sizes.text_encoder, self.text_encoder, value),
            _weights("autoencoder", sizes.vae, "full", value),
        ]
        transformer, text, vae = (line.bytes for line in weights)
        work = _activations(self, sizes, value)
        text_work, denoise_work, encode_work, decode_work = (line.bytes for line in work)
        lines = weights + work
        if self.offload == "none":
            resident = transformer + text + vae
            moments = {"text": resident, "encode": resident, "denoise": resident, "decode": resident}
        elif self.offload == "component":
            # The autoencoder encodes references while the text encoder is still on the device, and then stays.
            moments = {"text": text, "encode": text + vae, "denoise": transformer + vae, "decode": vae}
        elif self.offload == "turns":
            moments = {"text": text + vae, "encode": vae, "denoise": transformer + vae, "decode": vae}
        elif self.offload == "disk":
            block = Line(
                "transformer, a block",
                (sizes.transformer.largest_group + sizes.transformer.ungrouped) * value,
                "the largest block and all outside the blocks",
            )
            lines.append(block)
            moments = {"text": text + vae, "encode": vae, "denoise": block.bytes + vae, "decode": vae}
        else:
            block = Line(
                "transformer, on the device",
                (2 * sizes.transformer.largest_group + sizes.transformer.ungrouped) * value,
                "the largest block, the next one, and all outside the blocks",
            )
            layer = Line(
                "text encoder, on the device",
                2 * sizes.text_encoder.largest_group * value,
                "the largest layer and the next",
            )
            pinned = Line(
                "transformer, on the host",
                sizes.transformer.pinned * value,
                "pinned memory: every tensor rounded up to a power of two",
            )
            lines += [pinned, block, layer]
            moments = {"text": vae + layer.bytes, "encode": vae, "denoise": vae + block.bytes, "decode": vae}
        extra = {"text": text_work, "encode": encode_work, "denoise": denoise_work, "decode": decode_work}
        moments = {name: size + extra[name] for name, size in moments.items()}
        if self.is_quantised and self.offload == "none":
            # Weights are read one by one and quantised on the device.
            host = max(sizes.transformer.largest_weight, sizes.text_encoder.largest_weight) * value + vae
        elif self.offload in ("turns", "disk"):
            # On a CPU the device is the host.
            host = 0
        elif self.offload == "group":
            host = sizes.transformer.pinned * value + text + vae
        else:
            host = transformer + text + vae
        return Estimate(tuple(lines), moments, max(moments.values()), host)


PLANS: tuple[MemoryPlan, ...] = (
    MemoryPlan("resident", "full", "full", "none", vae_tiling=False),
    MemoryPlan("component-offload", "full", "full", "component", vae_tiling=False),
    MemoryPlan("8-bit", "8-bit", "8-bit", "none", vae_tiling=False),
    MemoryPlan("4-bit", "4-bit", "4-bit", "none", vae_tiling=True),
    MemoryPlan("4-bit-component-offload", "4-bit", "4-bit", "component", vae_tiling=True),
    MemoryPlan("group-offload", "full", "full", "group", vae_tiling=False),
)
# On a CPU, host and device memory are the same, so what is not in use can only be read again.
CPU_PLANS = (
    PLANS[0],
    MemoryPlan("in-turns", "full", "full", "turns", vae_tiling=False),
    *(plan for plan in PLANS[1:] if plan.offload == "none"),
    MemoryPlan("4-bit-in-turns", "4-bit", "4-bit", "turns", vae_tiling=True),
    MemoryPlan("blocks-from-disk", "full", "4-bit", "disk", vae_tiling=True),
)


def choose_plan(
    sizes: ModelSizes, budget_bytes: float, host_bytes: float, plans: Sequence[MemoryPlan] = PLANS
) -> MemoryPlan:
    """The first plan that fits into `budget_bytes` on the device and `host_bytes` beside it.

    Raises TagMoEError when no plan fits.
    """
    for plan in plans:
        if fits(plan, sizes, budget_bytes, host_bytes):
            return plan
    smallest = min((plan.estimate(sizes) for plan in plans), key=lambda estimate: estimate.device)
    raise TagMoEError(
        f"No memory plan fits {sizes.name}: the smallest needs {smallest.device / GB:.1f} GB on the device and "
        f"{smallest.host / GB:.1f} GB of host memory, and there are {budget_bytes / GB:.1f} GB and "
        f"{host_bytes / GB:.1f} GB; free some memory or use a larger device."
    )


def fits(plan: MemoryPlan, sizes: ModelSizes, budget_bytes: float, host_bytes: float) -> bool:
    """Whether the estimate of a plan fits the budget of the device and the memory of the host."""
    estimate = plan.estimate(sizes)
    return estimate.device <= budget_bytes and estimate.host <= host_bytes


def _weights(what: str, part: PartSize, form: str, value: int) -> Line:
    rest = f"at {counted(value, 'byte')}"
    if part.stored is not None:
        how = "quantised in the file"
    elif form == "full":
        how = f"{counted(part.parameters, 'parameter')} {rest}"
    else:
        per_value = {"8-bit": "1 byte and a scale of 4 a row", "4-bit": "half a byte and a scale of 4 for 64 values"}
        how = (
            f"{counted(part.quantised, 'parameter')} at {per_value[form]}, {part.parameters - part.quantised:,} {rest}"
        )
    return Line(what, part.bytes_as(form, value), how)


def _activations(plan: MemoryPlan, sizes: ModelSizes, value: int) -> list[Line]:
    """Estimated activations of the text encoder, the transformer, the encoder and the decoder, in this order."""
    pixels = sizes.side**2
    tokens = sizes.batch * (sizes.image_tokens + sizes.text_tokens)
    denoise, how = TRANSFORMER_VALUES * tokens * sizes.width * value, f"{TRANSFORMER_VALUES} values"
    if plan.transformer == "8-bit":
        denoise, how = denoise + INT8_BYTES * tokens * sizes.width, f"{how} and {counted(INT8_BYTES, 'byte')}"
    elif plan.transformer == "4-bit":
        denoise, how = (
            denoise + sizes.transformer.largest_weight * value,
            f"the largest weight in full precision, and {how}",
        )
    tile = min(pixels, TILE_SIDE**2) if plan.vae_tiling else pixels
    joined = TILED_PIXEL_VALUES * pixels * value if plan.vae_tiling else 0
    where = f"a tile of {TILE_SIDE}x{TILE_SIDE}" if plan.vae_tiling else f"{sizes.side}x{sizes.side}"
    states = sizes.text_layers + TEXT_VALUES
    return [
        Line(
            "activations, text",
            states * sizes.text_tokens * sizes.text_width * value,
            f"estimate: {states} values for each of {sizes.text_tokens} tokens and {sizes.text_width} channels",
        ),
        Line(
            "activations, transformer",
            denoise,
            f"estimate: {how} for each of {tokens} tokens ({counted(sizes.batch, 'sample')}) and {sizes.width} "
            "channels",
        ),
        Line(
            "activations, encoder",
            (ENCODER_VALUES * sizes.vae_width + PIXEL_VALUES) * tile * value + joined,
            f"estimate: {ENCODER_VALUES} values a channel ({sizes.vae_width}) and {PIXEL_VALUES} a pixel of {where}",
        ),
        Line(
            "activations, decoder",
            (DECODER_VALUES * sizes.vae_width + PIXEL_VALUES) * tile * value + joined,
            f"estimate: {DECODER_VALUES} values a channel ({sizes.vae_width}) and {PIXEL_VALUES} a pixel of {where}",
        ),
    ]
