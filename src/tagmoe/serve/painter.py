"""A pipeline that draws the works of the queue: what may run together, the LoRAs, previews, and the routing.

On a CPU with a fixed number of threads the pixels of a picture never depend on what is drawn with it, bit for bit
(`tagmoe.model.cpu.batches`). Where that cannot be had on a CPU, as with LoRAs, pictures are drawn one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image

from tagmoe.errors import ImageError, UsageError
from tagmoe.model.cpu.batches import keep_samples_apart
from tagmoe.model.cpu.experts import LEAST_ROWS
from tagmoe.model.routing import RoutingTrace
from tagmoe.pictures import fit_size
from tagmoe.pipeline.apart import SamplesApart
from tagmoe.pipeline.arguments import check_output_size, check_steps
from tagmoe.pipeline.masking import fit_mask
from tagmoe.routing.predicted_tags import signature
from tagmoe.sentences import counted
from tagmoe.serve.asked import Asked
from tagmoe.serve.refusal import Refusal
from tagmoe.serve.work import Drawn, Work

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipeline, TagMoEPipelineOutput
    from tagmoe.routing.predicted_tags import Alignment


@dataclass(frozen=True)
class Scene:
    """A request that is ready to be drawn. prompt: after rewriting. size: (width, height) that the model draws.

    tokens: of the text, of the references, and of one result.
    """

    prompt: str
    pictures: tuple[Image.Image, ...]
    mask: Image.Image | None
    size: tuple[int, int]
    steps: int
    cfg: float
    negative: str | None
    lora: tuple[tuple[str, float], ...]
    routing: bool
    key: Hashable
    tokens: tuple[int, int, int]


@dataclass(frozen=True)
class Facts:
    """What a page should know of a model. side: pixels, by default. is_world: it knows the words of TagWorld alone."""

    steps: int = 12
    cfg: float = 1.0
    side: int = 64
    multiple: int = 16
    has_mixtures: bool = False
    is_world: bool = False


class PipelinePainter:
    """A loaded pipeline. loras: {name: file} that requests may name. name: the model's, for clients.

    alignment: W_tag and H_pred to predict tags; None: no tags. threads: of a CPU, by default as many as torch has now.
    """

    def __init__(
        self,
        pipeline: TagMoEPipeline,
        name: str,
        *,
        loras: Mapping[str, Path] | None = None,
        alignment: Alignment | None = None,
        threads: int | None = None,
    ) -> None:
        """Raises the errors of loading a LoRA."""
        self.pipeline, self.name, self._alignment = pipeline, name, alignment
        self.loras = tuple(loras or ())
        self._threads = threads or torch.get_num_threads()
        for adapter, file in (loras or {}).items():
            pipeline.load_lora_weights(str(file), adapter_name=adapter)
        self._active: tuple[tuple[str, float], ...] | None = None
        pipeline.set_progress_bar_config(disable=True)
        on_cpu = pipeline.device.type == "cpu"
        pipeline.samples_apart = SamplesApart() if on_cpu else None
        self.batches = keep_samples_apart(pipeline.part("transformer")) if on_cpu else True

    @property
    def facts(self) -> Facts:
        """The model's own settings."""
        config = self.pipeline.config
        mixtures = bool(getattr(self.pipeline.part("transformer").config, "num_moe_blocks", 0))
        return Facts(
            config.default_steps,
            config.default_cfg,
            config.default_size,
            self.pipeline.size_multiple,
            mixtures,
            config.known_words is not None,
        )

    def begin(self) -> None:
        """Torch counts threads by thread, so the one that draws must be told its number."""
        torch.set_num_threads(self._threads)

    def check(self, asked: Asked, pictures: Sequence[Image.Image], mask: Image.Image | None, prompt: str) -> Scene:
        """The request with the model's defaults. Raises Refusal, naming the field, for what the model cannot draw."""
        config = self.pipeline.config
        cfg = config.default_cfg if asked.cfg is None else asked.cfg
        tokens = _checked("prompt", lambda: self.pipeline.prompt_tokens(prompt))
        negative_tokens = 0
        if asked.negative is not None:
            if cfg <= 1:
                raise Refusal(
                    f"negative_prompt needs guidance, but cfg is {cfg:g}; give cfg above 1.", "negative_prompt"
                )
            negative = asked.negative
            negative_tokens = _checked("negative_prompt", lambda: self.pipeline.prompt_tokens(negative))
        scheduler = self.pipeline.part("scheduler").config
        steps = _checked("steps", lambda: check_steps(asked.steps, config, scheduler))
        if mask is not None and asked.size is not None:
            raise Refusal("size does not go with mask: the result has the size of the picture; leave it out.", "size")
        if mask is not None:
            _checked("mask", lambda: fit_mask(mask, pictures[0]))
        if unknown := [name for name, _ in asked.lora if name not in self.loras]:
            known = f"it has {', '.join(self.loras)}" if self.loras else "it has none"
            raise Refusal(f"This server has no LoRA {unknown[0]!r}; {known}.", "lora")
        if asked.routing and not getattr(self.pipeline.part("transformer").config, "num_moe_blocks", 0):
            raise Refusal("routing shows what experts did, and this model is dense; leave it out.", "routing")
        width, height = asked.size or (None, None)
        first = pictures[0] if pictures else None
        multiple = self.pipeline.size_multiple
        height, width = _checked("size", lambda: check_output_size(height, width, first, config.default_size, multiple))
        grids = tuple(fit_size(*picture.size, height * width, multiple) for picture in pictures)
        # A model that sees the pictures has tokens for each, as many as its size gives.
        seen = tuple(picture.size for picture in pictures) if config.picture_template is not None else ()
        key: tuple[Any, ...] = (width, height, steps, cfg, grids, mask is not None, asked.lora, asked.routing)
        key += (tokens, negative_tokens, seen)
        drawn_tokens = (height // multiple) * (width // multiple)
        if not self.batches or min(tokens, drawn_tokens) < LEAST_ROWS:
            # Equal to no other key: it is drawn alone.
            key += (object(),)
        shown_tokens = sum((down // multiple) * (across // multiple) for down, across in grids)
        return Scene(
            prompt,
            tuple(pictures),
            mask,
            (width, height),
            steps,
            cfg,
            asked.negative,
            asked.lora,
            asked.routing,
            key,
            (tokens, shown_tokens, drawn_tokens),
        )

    def draw(self, works: Sequence[Work], on_step: Callable[[], None]) -> list[Drawn]:
        """Draw scenes of one key. Raises what `on_step` raises."""
        scenes = [cast(Scene, work.asked) for work in works]
        first = scenes[0]
        self._use(first.lora)
        watch = _Watch(self.pipeline, works, first.size, on_step)
        needs = any(work.previews for work in works)
        negatives = [scene.negative or " " for scene in scenes] if first.cfg > 1 else None
        try:
            output = cast(
                "TagMoEPipelineOutput",
                self.pipeline(
                    [scene.prompt for scene in scenes],
                    [list(scene.pictures) for scene in scenes] if first.pictures else None,
                    negatives,
                    mask_image=None if first.mask is None else [scene.mask for scene in scenes],
                    height=first.size[1],
                    width=first.size[0],
                    num_inference_steps=first.steps,
                    true_cfg_scale=first.cfg,
                    seed=[work.seed for work in works],
                    return_routing="full" if first.routing else None,
                    callback_on_step_end=watch,
                    callback_on_step_end_tensor_inputs=("latents",) if needs else (),
                ),
            )
        except BaseException:
            # Where parts move between devices, a call that ends early leaves them where they are.
            self.pipeline.maybe_free_model_hooks()
            raise
        return [
            Drawn(image, self._routing(output.routing, place, scenes[place], image) if output.routing else None)
            for place, image in enumerate(output.images)
        ]

    def _use(self, lora: tuple[tuple[str, float], ...]) -> None:
        if not self.loras or lora == self._active:
            return
        if lora:
            self.pipeline.enable_lora()
            self.pipeline.set_adapters([name for name, _ in lora], [strength for _, strength in lora])
        else:
            self.pipeline.disable_lora()
        self._active = lora

    def _routing(self, steps: Sequence[RoutingTrace], place: int, scene: Scene, image: Image.Image) -> dict[str, Any]:
        """The predicted tags, the shares of the experts, and the page of `edit --explain`, of one picture."""
        from tagmoe.routing.explained import explain_picture

        traces = [
            RoutingTrace(
                scores_LBTN=step.scores_LBTN[:, place : place + 1],
                expert_ids_LBTA=step.expert_ids_LBTA[:, place : place + 1],
                grids=step.grids,
                routing_tokens=step.routing_tokens,
            )
            for step in steps
        ]
        explained = explain_picture(
            traces,
            prompt=scene.prompt,
            sources=scene.pictures,
            image=image,
            facts={"steps": str(scene.steps), "cfg": f"{scene.cfg:g}", "model": self.name},
            alignment=self._alignment,
            why_not_predicted="This server's model has no W_tag and H_pred of its training.",
            is_tagworld=self.pipeline.config.known_words is not None,
        )
        shares_LN = torch.stack([trace.utilisation(0)[:, 0] for trace in traces]).mean(dim=0)
        return {
            "predicted_tags": explained.predicted_tags,
            "rule_tags": explained.rule_tags,
            "signature": [round(value, 6) for value in signature(traces)[0].tolist()],
            "expert_shares": [[round(share, 6) for share in row] for row in shares_LN.tolist()],
            "explanation": explained.page,
        }


class _Watch:
    """A callback of the pipeline: look after each step whether anybody waits, and show previews.

    A preview is the picture that the step points at: with the velocity v of the step, x0 = x - sigma v.
    """

    def __init__(
        self, pipeline: Any, works: Sequence[Work], size: tuple[int, int], on_step: Callable[[], None]
    ) -> None:
        self._pipeline, self._works, self._size, self._on_step = pipeline, works, size, on_step
        self._before: torch.Tensor | None = None

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        self._on_step()
        for work in self._works:
            if work.tell is not None:
                work.tell(step + 1)
        latents = tensors.get("latents")
        if latents is None:
            return {}
        for place, work in enumerate(self._works):
            if step + 1 in work.previews and not work.gone and work.show is not None:
                work.show(self._picture(latents[place : place + 1], place, step))
        self._before = latents.clone()
        return {}

    def _picture(self, latents: torch.Tensor, place: int, step: int) -> Image.Image:
        sigmas = self._pipeline.scheduler.sigmas
        if self._before is not None:
            before, now = float(sigmas[step]), float(sigmas[step + 1])
            latents = latents - now * (latents - self._before[place : place + 1]) / (now - before)
        width, height = self._size
        pixels = self._pipeline.decode(self._pipeline.unpack_latents(latents, height, width))
        image: Image.Image = self._pipeline.image_processor.postprocess(pixels, output_type="pil")[0]
        return image


def _checked(param: str, check: Callable[[], Any]) -> Any:
    """What a check of the pipeline gives; its error as a refusal of this field."""
    try:
        return check()
    except (UsageError, ImageError) as error:
        raise Refusal(str(error), param) from None


def check_pixels(image_size: tuple[int, int], most: int, name: str) -> None:
    """Raise Refusal for a picture of more pixels."""
    width, height = image_size
    if width * height > most:
        raise Refusal(
            f"{name} is {width}x{height}; at most {counted(most, 'pixel')} are allowed: scale it down.",
            name,
            code="too_large",
        )
