"""Measure the model of one arm: edit and judge held-out cases, L_flow by timestep, and the routing.

Pictures and routing are kept beside the result, so that a new oracle or statistic needs no new edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagmoe.editor import Editor, run_cases
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.laboratory.ablation.results import Cases, FlowByTimestep, Routing, Verdicts
from tagmoe.losses.flow import flow_loss, interpolate
from tagmoe.model.intervention import given_experts
from tagmoe.model.routing import RoutingTrace
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.routing import predicted_tags
from tagmoe.routing.predicted_tags import Alignment
from tagmoe.routing.specialization import group_means, mutual_information
from tagmoe.train.dial import turned, turned_back
from tagmoe.train.stream import EDITING
from tagmoe.world import SIZE, Sample, rule_sets
from tagmoe.world.families import side_of

TIMESTEPS = tuple((i + 0.5) / 8 for i in range(8))
FLOW_CASES = 16
"""Held-out samples of each editing task for L_flow."""
FLOW_SEED = 77
BATCH = 128


@dataclass(frozen=True)
class Plan:
    """How every arm is measured: the held-out cases of every task, and the settings to edit them with.

    curve_cases: cases of every task for success during training; 0 for none. tasks: None for all. conflict: alpha of
    the dial, at which the model was trained; None for 0. by_family: the experts are given by the tasks' families.
    """

    per_task: int = 60
    seed: int = 5000
    steps: int = 12
    cfg: float = 3.0
    curve_cases: int = 2
    tasks: Sequence[str] | None = None
    conflict: float | None = None
    by_family: bool | None = None

    def record(self) -> dict[str, Any]:
        """The plan as plain data, without settings that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def samples(self) -> list[Sample]:
        """The cases, in the order of tasks."""
        return cases(self.per_task, self.seed, self.tasks)

    def meter(self, pipeline: TagMoEPipeline) -> FlowMeter:
        """The meter of L_flow on the editing tasks of the plan."""
        tasks = [task for task in EDITING if self.tasks is None or task in self.tasks]
        return FlowMeter(pipeline, tasks, self.conflict or 0.0, by_family=bool(self.by_family))

    def experts(self, pipeline: TagMoEPipeline, tasks: Sequence[str]) -> AbstractContextManager[None]:
        """The experts of the tasks' families for one forward over these tasks, where the plan gives them."""
        return family_experts(pipeline, tasks) if self.by_family else nullcontext()


def family_experts(pipeline: TagMoEPipeline, tasks: Sequence[str]) -> AbstractContextManager[None]:
    """Give each sample of a batch the expert of its task's family."""
    return given_experts(pipeline.transformer, torch.tensor([side_of(task) for task in tasks]))


class FlowSamples:
    """Cases encoded for L_flow, each with one fixed noise. conflict, by_family: those of `Plan`."""

    def __init__(
        self,
        pipeline: TagMoEPipeline,
        samples: Sequence[Sample],
        *,
        seed: int,
        conflict: float = 0.0,
        by_family: bool = False,
    ) -> None:
        self.tasks = [case.task for case in samples]
        self.by_family = by_family
        self.target_BTC = turned(_encode(pipeline, [case.target for case in samples]), self.tasks, conflict)
        self.reference_BTC = _encode(pipeline, [case.sources[0] for case in samples])
        self.text_BSD, self.mask_BS = pipeline.encode_texts(
            [case.instruction for case in samples], [[Image.fromarray(case.sources[0])] for case in samples]
        )
        self.noise_BTC = torch.randn(self.target_BTC.shape, generator=torch.Generator().manual_seed(seed))

    def loss(self, pipeline: TagMoEPipeline, t_B: Tensor, part: slice) -> Tensor:
        """The unweighted flow loss of each sample of a part. t_B: times of all samples, not only of the part."""
        x0, noise, t = self.target_BTC[part], self.noise_BTC[part], t_B[part]
        side = round(x0.shape[1] ** 0.5)
        with family_experts(pipeline, self.tasks[part]) if self.by_family else nullcontext():
            output = pipeline.transformer(
                hidden_states=torch.cat([interpolate(x0, noise, t), self.reference_BTC[part]], dim=1),
                encoder_hidden_states=self.text_BSD[part],
                encoder_hidden_states_mask=self.mask_BS[part],
                timestep=t,
                img_shapes=[[(1, side, side)] * 2] * len(x0),
            )
        return flow_loss(output.sample[:, : x0.shape[1]], x0, noise, per_sample=True)


class FlowMeter:
    """L_flow at fixed timesteps, samples and noise, so that values of arms, seeds and steps are paired."""

    def __init__(
        self,
        pipeline: TagMoEPipeline,
        tasks: Sequence[str] = EDITING,
        conflict: float = 0.0,
        *,
        by_family: bool = False,
    ) -> None:
        drawn = cases(FLOW_CASES, FLOW_SEED, tasks)
        self.samples = FlowSamples(pipeline, drawn, seed=FLOW_SEED, conflict=conflict, by_family=by_family)
        self.count = FLOW_CASES * len(tasks)

    @torch.no_grad()
    def __call__(self, pipeline: TagMoEPipeline) -> FlowByTimestep:
        """The unweighted flow loss by timestep."""
        parts = [slice(start, start + BATCH) for start in range(0, self.count, BATCH)]
        losses = []
        for timestep in TIMESTEPS:
            t_B = torch.full((self.count,), timestep)
            losses.append(float(torch.cat([self.samples.loss(pipeline, t_B, part) for part in parts]).mean()))
        return FlowByTimestep(timesteps=TIMESTEPS, loss=tuple(losses), samples=self.count)


def curve_validator(plan: Plan) -> Callable[[TagMoEPipeline, int, Path], dict[str, float]]:
    """A validator for training: {"flow": mean over timesteps, "success": of a few cases} (Fig. 6 left)."""
    samples = cases(plan.curve_cases, plan.seed + 1, plan.tasks) if plan.curve_cases else []
    meter: list[FlowMeter] = []

    def validate(pipeline: TagMoEPipeline, step: int, folder: Path) -> dict[str, float]:
        if not meter:
            meter.append(plan.meter(pipeline))
        scores = {"flow": float(np.mean(meter[0](pipeline).loss))}
        if samples:
            scores["success"] = score(samples, list(edit_cases(pipeline, samples, plan).images)).success.value
        return scores

    return validate


@dataclass(frozen=True)
class Measured:
    """The edits of all cases. images_CHWc: uint8. target_CLN: share of the target's tokens with each expert as first
    choice. signature_CN: g of Eq. 3, over all image tokens. Both are means over denoising steps, None for dense models.
    """

    images: np.ndarray
    target_CLN: np.ndarray | None = None
    signature_CN: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors, whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        save_file({k: torch.from_numpy(v) for k, v in asdict(self).items() if v is not None}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Measured | None:
        """Inverse of `save`. None where the file is missing or incomplete."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError):
            return None
        return cls(**{name: value.numpy() for name, value in tensors.items()})


def edit_cases(pipeline: TagMoEPipeline, samples: Sequence[Sample], plan: Plan, cases: range | None = None) -> Measured:
    """Edit (or generate) all cases, or those of a range. Case i has the noise of seed plan.seed + i in every arm."""
    cases = range(len(samples)) if cases is None else cases
    sparse = bool(pipeline.part("transformer").config.num_moe_blocks)
    shares: dict[int, np.ndarray] = {}
    signatures: dict[int, np.ndarray] = {}

    def keep(seeds: Sequence[int], routing: list[RoutingTrace]) -> None:
        share_BLN = torch.stack([trace.utilisation(0) for trace in routing]).mean(dim=0).transpose(0, 1)
        shares.update(zip(seeds, share_BLN.cpu().numpy(), strict=True))
        signatures.update(zip(seeds, predicted_tags.signature(routing).cpu().numpy(), strict=True))

    read = "full" if sparse else None
    if plan.conflict or plan.by_family:
        editor = _family_editor(pipeline, samples, plan, read, keep)
    else:
        editor = pipeline_editor(pipeline, steps=plan.steps, cfg=plan.cfg, return_routing=read, on_routing=keep)
    images = np.stack(run_cases(editor, [samples[i] for i in cases], batch=64, seed=plan.seed + cases.start))
    if not sparse:
        return Measured(images)
    order = [plan.seed + i for i in cases]
    return Measured(images, np.stack([shares[i] for i in order]), np.stack([signatures[i] for i in order]))


def _family_editor(
    pipeline: TagMoEPipeline,
    samples: Sequence[Sample],
    plan: Plan,
    read: str | None,
    keep: Callable[[Sequence[int], list[RoutingTrace]], None],
) -> Editor:
    """An editor that knows a case's task by its seed. It gives the experts, and turns results back to decode them."""
    pipeline.set_progress_bar_config(disable=True)

    def editor(
        instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Image.Image]:
        tasks = [samples[seed - plan.seed].task for seed in seeds]
        # Guidance stacks the texts and the empty texts of a batch into one forward.
        with plan.experts(pipeline, tasks * (2 if plan.cfg > 1 else 1)):
            output: Any = pipeline(
                list(instructions),
                [list(pictures) for pictures in images],
                num_inference_steps=plan.steps,
                true_cfg_scale=plan.cfg,
                seed=list(seeds),
                output_type="latent",
                return_routing=read,
            )
        if output.routing is not None:
            keep(seeds, output.routing)
        tokens_BTC = turned_back(output.images, tasks, plan.conflict or 0.0)
        pixels = pipeline.decode(pipeline.unpack_latents(tokens_BTC, SIZE, SIZE))
        return list(pipeline.image_processor.postprocess(pixels, output_type="pil"))

    return editor


def judged(samples: Sequence[Sample], images: np.ndarray) -> Verdicts:
    """The oracle's verdict of every case."""
    rows = score(samples, list(images)).judged
    return Verdicts(**{name: tuple(getattr(row, name) for row in rows) for name in Verdicts.model_fields})


def described(plan: Plan, samples: Sequence[Sample]) -> Cases:
    """The cases as a result records them."""
    return Cases(
        per_task=plan.per_task,
        seed=plan.seed,
        steps=plan.steps,
        cfg=plan.cfg,
        tasks=tuple(case.task for case in samples),
        held_out_paraphrase=tuple(case.held_out_paraphrase for case in samples),
        held_out_combination=tuple(case.held_out_combination for case in samples),
    )


def routed(samples: Sequence[Sample], measured: Measured, alignment: Alignment | None = None) -> Routing | None:
    """The routing of the cases, and how well `alignment` predicts tags from it. None for a dense model."""
    if measured.target_CLN is None:
        return None
    tags = None
    if alignment is not None and measured.signature_CN is not None:
        predicted = alignment.predict(torch.from_numpy(measured.signature_CN), candidates=rule_sets())
        tags = predicted_tags.score(predicted, [case.tags for case in samples])
    tasks = [case.task for case in samples]
    shares_CLN = measured.target_CLN.astype(np.float64)
    means = group_means(shares_CLN, tasks)
    return Routing(
        mutual_information_L=tuple(mutual_information(shares_CLN, tasks).value_L.tolist()),
        utilisation={task: tuple(map(tuple, mean_LN.round(4).tolist())) for task, mean_LN in means.items()},
        tags_exact=None if tags is None else tags.exact,
        tags_f1=None if tags is None else tags.f1,
    )


@torch.no_grad()
def _encode(pipeline: TagMoEPipeline, pictures: Sequence[np.ndarray]) -> Tensor:
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return cast(Tensor, pipeline.pack_latents(pipeline.encode_images(pixels)))
