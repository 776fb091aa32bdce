"""The stages that train the transformer: the dense text-to-image base, then the unified TAG-MoE model (paper 4.1).

`FlowStage.loss` computes Eq. (5) on one micro-batch: noise a latent, predict the velocity, read the routing, add the
terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tagmoe.config import LossConfig, OptimizerConfig, StageConfig
from tagmoe.data.order.sampler import uniform
from tagmoe.errors import ConfigError, DataError
from tagmoe.losses.balance import expert_load
from tagmoe.losses.flow import flow_loss, interpolate
from tagmoe.losses.objective import Objective
from tagmoe.model.intervention import given_experts
from tagmoe.model.routing import RouterStats
from tagmoe.model.transformer import pooled_text
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.schedule import dynamic_shift
from tagmoe.sentences import counted
from tagmoe.tags import TAG_NAMES
from tagmoe.train.batch import Batch, Samples, draw_noise
from tagmoe.train.dial import turned
from tagmoe.train.expert_load import ExpertLoad
from tagmoe.train.facts import Facts
from tagmoe.train.loop import Report
from tagmoe.train.ranks import ALONE, Ranks
from tagmoe.train.routing_watch import bin_name, bin_of
from tagmoe.train.seen import Seen, seen_of
from tagmoe.train.stored import StoredRows, StoredSamples, batch_kinds, held_out_draws
from tagmoe.train.stream import EDITING, TEXT_TO_IMAGE, EncodedSamples
from tagmoe.train.trained import trained_part
from tagmoe.world import Divide, mistaken_tags
from tagmoe.world.families import side_of

Validator = Callable[[TagMoEPipeline, int, Path], Report]
Draw = tuple[Batch, Tensor, Tensor]


def aligned_tags(batch: Batch, kind: str) -> Tensor:
    """The tags_BK for Eq. 4: with kind "own" those of the samples, else wrong ones, as a control.

    "shuffled": tags of another sample of the batch, so that only the mean can be learned. "other-task": each task
    always gets the tags of one other task. Then tasks can still be told apart, but the tags they share are wrong.
    """
    if kind == "shuffled":
        return batch.tags_BK.roll(1, dims=0)
    if kind == "other-task":
        rows = [mistaken_tags(case).multi_hot() for case in batch.samples if isinstance(case, Facts)]
        return torch.tensor(rows, dtype=torch.float32)
    return batch.tags_BK


def tasks_of(batch: Batch) -> list[str]:
    """The tasks of a batch of TagWorld's stream."""
    return [case.task for case in batch.samples if isinstance(case, Facts)]


def without_references(batch: Batch) -> Batch:
    """The batch without its reference tokens (dropout of references)."""
    return replace(batch, reference_BTC=None, grids=batch.grids[:1])


def tag_readings(pipeline: TagMoEPipeline) -> Tensor:
    """The text encoder's reading of every tag's name, the mean over its tokens: (K, D)."""
    text_KSD, mask_KS = pipeline.encode_texts_of_any_words(TAG_NAMES)
    return pooled_text(text_KSD, mask_KS)


class FlowStage:
    """One stage of flow matching, on TagWorld's stream or on `stored` rows. The loss is L_total with mixture blocks and
    L_flow without."""

    def __init__(
        self,
        name: str,
        pipeline: TagMoEPipeline,
        config: StageConfig,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        *,
        seed: int,
        cache: Path,
        validator: Validator,
        stored: StoredRows | None = None,
        conflict: float = 0.0,
        by_family: bool = False,
        divide: Divide = "content",
        ranks: Ranks = ALONE,
    ) -> None:
        """conflict: alpha of the dial. by_family: a mixture's experts are given by the tasks' families. ranks: those
        that share each batch."""
        self.name = name
        self.steps = config.steps
        self.accumulate = config.accumulate
        self.optimizer = optimizer
        self.pipeline = pipeline
        self.transformer = pipeline.transformer.train()
        self.config = config
        self.loss_config = loss
        self.seed = seed
        self.validator = validator
        self.is_moe = self.transformer.config.num_moe_blocks > 0
        if self.is_moe:
            # Kept with the model, because whoever reads tags off g later must count the same tokens.
            self.transformer.register_to_config(routing_tokens=loss.routing_tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.objective = Objective(
                self.transformer.config.num_experts,
                loss.semantic_dim,
                lambda_lbl=loss.lambda_lbl,
                lambda_align=loss.lambda_align,
                tag_embedding=loss.tag_embedding,
                align_target=loss.align_target,
                head_hidden=loss.head_hidden,
                head_layers=loss.head_layers,
                align_loss=loss.align_loss,
                signature=loss.signature,
                hard_signature=loss.hard_signature,
                num_layers=self.transformer.config.num_moe_blocks,
            )
        if self.is_moe and loss.tag_embedding == "text":
            self.objective.tag_embedding.read_names(tag_readings(pipeline))
        if loss.resolution_shift and not pipeline.part("scheduler").config.get("use_dynamic_shifting", False):
            raise ConfigError(
                "The setting 'loss.resolution_shift' is true, but the scheduler of the components does not shift by "
                "the size of the picture; set 'loss.timestep_shift' instead."
            )
        self._conflict = conflict
        self._by_family = by_family and self.is_moe
        self.modules: Mapping[str, nn.Module] = {"transformer": trained_part(self.transformer)}
        if self.is_moe:
            self.modules = {**self.modules, "objective": self.objective}
        self.seen: list[Seen] = []
        layers, mixtures = (self.transformer.config[name] for name in ("num_layers", "num_moe_blocks"))
        self.mixtures = tuple(f"transformer_blocks.{n}.img_mlp" for n in range(layers - mixtures, layers))
        self.experts = self.transformer.config.num_experts if self.is_moe else 0
        self._cache = cache
        self._stored = stored
        self._divide = divide
        # Opened now, so that a store without the needed rows is refused early. A stream encodes when it is first read.
        kinds = batch_kinds(config.text_to_image_every) if stored is not None and config.steps else []
        self._samples: dict[str, Samples] = {kind: self._open(kind) for kind in kinds}
        self._held_out = [] if stored is None else held_out_draws(stored, kinds, config.batch)
        self._ranks = ranks
        self._load = ExpertLoad(self.transformer.config.num_moe_blocks, self.transformer.config.num_experts, ranks)
        # The next micro-batch is drawn (rendered and encoded) while the current one trains.
        self._drawer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"draw-{name}")
        self._ahead: tuple[tuple[int, int], Future[Draw]] | None = None

    def _open(self, kind: str) -> Samples:
        if self._stored is not None:
            return StoredSamples(
                self.pipeline,
                self._stored,
                kind,
                batch=self.config.batch,
                seed=self.seed,
                dropout=self.config.condition_dropout,
            )
        return EncodedSamples(
            self.pipeline,
            TEXT_TO_IMAGE if kind == "generate" else EDITING,
            batch_size=self.config.batch,
            seed=self.seed,
            unique=self.config.unique_samples,
            folder=self._cache,
            name=kind,
            only=None if kind == "generate" else self.config.edit_tasks,
            dropout=self.config.condition_dropout,
            keep_texts=self.config.keep_texts,
            divide=self._divide,
        )

    def _place(self, step: int) -> tuple[str, int]:
        """The kind of batch that a step uses, and the number of earlier steps that used this kind."""
        every = self.config.text_to_image_every
        if every is None:
            return "all", step
        generate_steps = -(-step // every) if every else 0
        if every > 0 and step % every == 0:
            return "generate", generate_steps
        return "edit", step - generate_steps

    def state(self, step: int) -> dict[str, Any]:
        """The state beside the weights at a step: the load of the experts, and the place in the stored rows by kind."""
        return {
            "samples": {
                kind: stored.sampler.state(self._before(step, kind) * self.accumulate)
                for kind, stored in self._stored_samples()
            },
            "load": self._load.state(),
        }

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """The inverse of `state`. Raises DataError when a checkpoint at this step read its rows in another order."""
        for kind, stored in self._stored_samples():
            number = stored.sampler.resume(state.get("samples", {}).get(kind, {}))
            if number != self._before(step, kind) * self.accumulate:
                raise DataError(
                    f"The checkpoint at step {step} was at batch {number} of its {kind} rows, and here that would "
                    f"be batch {self._before(step, kind) * self.accumulate}; resume with the recipe of the run."
                )
        self._load.restore(state.get("load", {}))

    def _stored_samples(self) -> list[tuple[str, StoredSamples]]:
        return [(kind, samples) for kind, samples in self._samples.items() if isinstance(samples, StoredSamples)]

    def _before(self, step: int, kind: str) -> int:
        here, nth = self._place(step)
        return nth if here == kind else step - nth

    def _next(self, step: int, micro: int) -> Draw:
        """The result of `draw`, from the drawing thread. The thread then starts to draw the next micro-batch."""
        wanted = (step, micro)
        if self._ahead is not None and self._ahead[0] == wanted:
            future = self._ahead[1]
        else:
            future = self._drawer.submit(self.draw, step, micro)
        following = (step, micro + 1) if micro + 1 < self.accumulate else (step + 1, 0)
        batch, noise_BTC, t_B = future.result()
        self._ahead = (following, self._drawer.submit(self.draw, *following)) if following[0] < self.steps else None
        return self._placed(batch, noise_BTC, t_B)

    def _placed(self, batch: Batch, noise_BTC: Tensor, t_B: Tensor) -> Draw:
        """What was drawn, on the device of the model."""
        device = self.transformer.device
        return batch.to(device), noise_BTC.to(device), t_B.to(device)

    @torch.no_grad()
    def draw(self, step: int, micro: int) -> Draw:
        """(batch, noise_BTC, t_B) of this rank's part of a micro-batch: a pure function of the seed and the
        micro-batch's number."""
        kind, nth = self._place(step)
        if kind not in self._samples:
            self._samples[kind] = self._open(kind)
        number = nth * self.accumulate + micro
        batch = self._samples[kind].draw(number, rank=self._ranks.rank, count=self._ranks.count)
        if self._conflict and kind == "edit":
            batch = replace(batch, target_BTC=turned(batch.target_BTC, tasks_of(batch), self._conflict))
        dropped = self.config.reference_dropout
        if batch.reference_BTC is not None and dropped:
            drawn = uniform(self.seed, f"{self.name} reference dropout", np.array([number]))
            batch = without_references(batch) if drawn[0] < dropped else batch
        name = f"{self.name} {kind}"
        shift = self._shift(batch.target_BTC.shape[1])
        noise = draw_noise(batch.target_BTC, batch.numbers, self.loss_config, seed=self.seed, name=name, shift=shift)
        return batch, *noise

    def _shift(self, tokens: int) -> float | None:
        """The shift of the times of a target of so many tokens; None: that of `loss.timestep_shift`."""
        if not self.loss_config.resolution_shift:
            return None
        return math.exp(dynamic_shift(self.pipeline.part("scheduler").config, tokens))

    def loss(self, step: int, micro: int) -> tuple[Tensor, Report]:
        """Eq. (5) on one micro-batch. The micro-batches of a step must be asked for in order."""
        kind, _ = self._place(step)
        drawn = self._next(step, micro)
        batch, noise_BTC, t_B = drawn
        prediction_BTC, routing = self._predict(drawn)
        weight_BT = None
        if self.loss_config.edit_weight != 1.0 and batch.reference_BTC is not None:
            weight_BT = 1.0 + (self.loss_config.edit_weight - 1.0) * batch.edited_BT.float()
        terms = self.objective(
            prediction_BTC,
            batch.target_BTC,
            noise_BTC,
            aligned_tags(batch, self.loss_config.align_tags).to(prediction_BTC.device),
            mean_probs_LBN=None if routing is None else routing.mean_probs_LBN,
            counts_LBN=None if routing is None else routing.counts_LBN,
            global_counts_LN=None if routing is None else self._load.of(kind).to(prediction_BTC.device),
            weight_BT=weight_BT,
        )
        measured = [terms.flow.detach().view(1)]
        self.seen = [*(self.seen if micro else []), seen_of(batch, kind, t_B, noise_BTC, prediction_BTC, routing)]
        if routing is not None:
            # A rank that a small batch leaves without samples computes one that does not count.
            counts_LBN = routing.counts_LBN if batch.share else torch.zeros_like(routing.counts_LBN)
            self._load.add(counts_LBN.cpu())
            if micro + 1 == self.accumulate:
                self._load.finish(kind)
            load_LN = expert_load(routing.counts_LBN) / len(batch.samples)
            measured += [terms.balance.detach().view(1), terms.alignment.detach().view(1), load_LN.flatten()]
        # The means over all ranks: the loop must decide alike in each of them.
        means = self._ranks.mean(torch.cat(measured), batch.share)
        report = {"flow": float(means[0])}
        if routing is not None:
            report |= {"balance": float(means[1]), "alignment": float(means[2])}
            for layer, load_N in enumerate(means[3:].view_as(load_LN)):
                report[f"load/{layer}_max"] = float(load_N.max())
                report[f"load/{layer}_min"] = float(load_N.min())
            report["tags/effective_rank"] = float(self.objective.tag_embedding.effective_rank())
            report["tags/mean_cosine"] = float(self.objective.tag_embedding.mean_cosine())
        return terms.total * batch.share, report

    def _predict(self, drawn: Draw) -> tuple[Tensor, RouterStats | None]:
        """The predicted velocity of the target's tokens, and the router statistics of a mixture model.

        Where every token counts, the last block computes its reference tokens too. Nobody reads them, but gradients
        summed over fewer rows would round otherwise than in runs from before they could be left out.
        """
        batch, noise_BTC, t_B = drawn
        tokens = interpolate(batch.target_BTC, noise_BTC, t_B)
        target_tokens = tokens.shape[1]
        if batch.reference_BTC is not None:
            tokens = torch.cat([tokens, batch.reference_BTC], dim=1)
        experts: AbstractContextManager[None] = nullcontext()
        if self._by_family:
            experts = given_experts(self.transformer, torch.tensor([side_of(task) for task in tasks_of(batch)]))
        with experts:
            output = self.transformer(
                hidden_states=tokens,
                encoder_hidden_states=batch.text_BSD,
                encoder_hidden_states_mask=batch.mask_BS,
                timestep=t_B,
                img_shapes=[[(1, *grid) for grid in batch.grids]] * len(t_B),
                return_routing="stats" if self.is_moe else None,
                target_only=self.is_moe and self.loss_config.routing_tokens != "all",
            )
        return output.sample[:, :target_tokens], output.routing

    def validate(self, step: int, folder: Path) -> Report:
        """The validator's scores of the averaged weights, and "held_out_flow": L_flow on held-out rows of the store."""
        # The autoencoder keeps state while it encodes, so this thread must wait until the drawing thread is done.
        if self._ahead is not None:
            self._ahead[1].result()
        self.transformer.eval()
        scores = self.validator(self.pipeline, step, folder)
        if self._held_out:
            scores = {**scores, **self._held_out_loss()}
        self.transformer.train()
        return scores

    def notes(self) -> list[str]:
        """What happens to rows of the store in this stage, in sentences; none without a store."""
        if self._stored is None or not self.config.steps:
            return []
        rare = [(bucket, rows) for _, one in self._stored_samples() for bucket, rows in one.sampler.rare_rows.items()]
        count, notes = sum(len(draw.rows) for draw in self._held_out), []
        if rare:
            done = "left out" if self._stored.settings.rare_buckets == "skip" else "once in a batch, which counts less"
            notes.append(
                f"{self.name}: {counted(rare, 'bucket')} of fewer rows than a batch of {self.config.batch}; "
                f"{counted(sum(rows for _, rows in rare), 'row')} {done} (data.rare_buckets)."
            )
        if count:
            notes.append(
                f"{self.name}: the loss on {counted(count, 'row')} of the split validation is logged as held_out_flow."
            )
        elif self._stored.settings.validation_rows:
            notes.append(f"{self.name}: the store has no rows in its split validation, so there is no held-out loss.")
        return notes

    @torch.no_grad()
    def _held_out_loss(self) -> Report:
        """Mean of L_flow over the held-out rows, each with its own noise and time, the same at every step; and the mean
        over those of each tenth of the time, by "held_out_flow/0.1-0.2"."""
        samples = self._stored_samples()[0][1]
        total, count = 0.0, 0
        by_bin: dict[int, list[float]] = {}
        for drawn in self._held_out:
            read = samples.read(drawn)
            if not read.share:
                continue
            noise = draw_noise(
                read.target_BTC,
                read.numbers,
                self.loss_config,
                seed=0,
                name="held out",
                shift=self._shift(read.target_BTC.shape[1]),
            )
            batch, noise_BTC, t_B = self._placed(read, *noise)
            prediction_BTC, _ = self._predict((batch, noise_BTC, t_B))
            flow_B = flow_loss(prediction_BTC, batch.target_BTC, noise_BTC, per_sample=True)
            total += len(t_B) * float(flow_B.mean())
            count += len(t_B)
            for t, flow in zip(t_B.tolist(), flow_B.tolist(), strict=True):
                by_bin.setdefault(bin_of(t), []).append(flow)
        return {
            "held_out_flow": total / max(1, count),
            **{f"held_out_flow/{bin_name(n)}": sum(flows) / len(flows) for n, flows in sorted(by_bin.items())},
        }
