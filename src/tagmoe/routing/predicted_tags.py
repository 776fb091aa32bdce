"""Predict tags from a routing signature: Eq. 4 read backwards, from H_pred(g) to rows of W_tag (paper 3.3).

Training moves H_pred(g) towards s, the sum of the embeddings of a sample's tags (Eq. 2). Only the direction counts
(Eq. 4). So the predicted tags are the set whose s is nearest to H_pred(g) by cosine. Every consistent set is tried.
That is cheap, because it only needs the products of W_tag's rows with each other and with H_pred(g).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.losses.alignment import PredictionHead
from tagmoe.losses.semantics import TagEmbedding
from tagmoe.losses.signature import routing_signature, routing_signature_from_scores
from tagmoe.model.routing import RouterStats, RoutingTrace, counted_by_layer
from tagmoe.pipeline.folder import ALIGNMENT, read_alignment
from tagmoe.tags import TAG_NAMES, TAGS, TaskDescriptor

EMBEDDING, HEAD = "tag_embedding.weight", "router_head."
_FIRST = HEAD + "net.0.weight"
# Samples in a batch. Their product with every consistent set then takes about 15 MB.
_CHUNK = 256


@dataclass(frozen=True)
class PredictedTags:
    """The prediction of one signature: the nearest consistent set of tags with its cosine, and a ranking of all tags.

    `ranking`: (tag, cosine of H_pred(g) with the tag's row of W_tag), best first.
    """

    descriptor: TaskDescriptor
    cosine: float
    ranking: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class TagCounts:
    """One tag over n cases: how often it is true, and how well it is predicted (None where that is undefined)."""

    support: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class TagScore:
    """How often predicted tags are right: the share of exact sets, and F1 over all (case, tag) pairs.

    baseline_exact, baseline_f1: scores of always answering `baseline`, the most frequent set of the scored cases.
    """

    n: int
    exact: float
    f1: float
    baseline: TaskDescriptor
    baseline_exact: float
    baseline_f1: float
    tags: dict[str, TagCounts]

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the baseline as a list of tags."""
        return {**asdict(self), "baseline": list(self.baseline.tags)}


def signature(routing: Sequence[RouterStats | RoutingTrace]) -> Tensor:
    """g of Eq. 3 of a whole denoising run: signature_BN, the mean over its steps, layers and image tokens.

    In training g is of one random timestep of a sample; here it is averaged over the steps. The tokens that count are
    those that counted in training: the model keeps their kind in its config, as routing_tokens.
    """
    steps = [
        routing_signature_from_scores(
            step.scores_LBTN, counted_by_layer(step.routing_tokens, step.grids, len(step.scores_LBTN))
        )
        if isinstance(step, RoutingTrace)
        else routing_signature(step.mean_probs_LBN)
        for step in routing
    ]
    if not steps:
        raise UsageError("There is no routing of any denoising step; ask the pipeline for it with return_routing.")
    return torch.stack(steps).mean(dim=0)


class Alignment:
    """W_tag and H_pred of a trained model (Eq. 2 and 4), to predict tags from a routing signature.

    num_experts: N, the length of a signature. effective_rank: that of W_tag, low when its rows are similar.
    """

    def __init__(self, weight_KD: Tensor, head: PredictionHead) -> None:
        embedding = TagEmbedding(weight_KD.shape[1], num_tags=weight_KD.shape[0])
        embedding.load_state_dict({"weight": weight_KD})
        self.weight_KD = embedding.weight.detach()
        self.effective_rank = embedding.effective_rank()
        self.head = head.eval().requires_grad_(False)
        self.num_experts = next(head.parameters()).shape[1]
        # The dot products of all pairs of rows give the length of any sum of rows.
        self._gram_KK = self.weight_KD @ self.weight_KD.T

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, source: str = "The alignment weights") -> Alignment:
        """Build it from the tensors of alignment.safetensors. The head may have 2 or 3 layers and any width.

        Raises CheckpointError, naming the key, for missing, unknown, misshapen or non-finite tensors.
        """
        advice = "copy or train the model again"
        keys = sorted(key for key in tensors if key == EMBEDDING or key.startswith(HEAD))
        missing = [key for key in (EMBEDDING, _FIRST) if key not in tensors]
        if missing:
            raise CheckpointError(f"{source} lacks {missing[0]!r}; {advice}.")
        for key in keys:
            if not torch.isfinite(tensors[key]).all():
                raise CheckpointError(f"{source} has a number in {key!r} that is not finite; {advice}.")
        weight_KD, first = tensors[EMBEDDING], tensors[_FIRST]
        if weight_KD.ndim != 2 or weight_KD.shape[0] != len(TAGS):
            raise CheckpointError(
                f"{source} has {EMBEDDING!r} of shape {tuple(weight_KD.shape)}; it must be ({len(TAGS)}, D), a row for "
                f"each tag."
            )
        if first.ndim != 2:
            raise CheckpointError(f"{source} has {_FIRST!r} of shape {tuple(first.shape)}; it must be a matrix.")
        head = PredictionHead(
            first.shape[1],
            weight_KD.shape[1],
            hidden=first.shape[0],
            num_layers=3 if f"{HEAD}net.4.weight" in tensors else 2,
        )
        wanted = {HEAD + key: value.shape for key, value in head.state_dict().items()}
        given = {key: tensors[key].shape for key in keys if key != EMBEDDING}
        wrong = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
        if wrong:
            raise CheckpointError(
                f"{source} has {wrong[0]!r} {_shape(given.get(wrong[0]))}; it must be {_shape(wanted.get(wrong[0]))}, "
                f"by {_FIRST!r} and {EMBEDDING!r}."
            )
        head.load_state_dict({key.removeprefix(HEAD): tensors[key].float() for key in given})
        return cls(weight_KD, head)

    @classmethod
    def load(cls, folder: Path) -> Alignment:
        """Load a model folder. Raises MissingError without alignment.safetensors, CheckpointError for a bad one."""
        tensors = read_alignment(folder)
        if tensors is None:
            raise MissingError(
                f"The model {folder.name!r} has no {ALIGNMENT} (W_tag and H_pred of its training), without which no "
                "tags can be read off its routing; train with alignment, or convert the authors' release."
            )
        return cls.from_tensors(tensors, source=f"{str(folder / ALIGNMENT)!r}")

    @torch.no_grad()
    def predict(
        self, signature_BN: Tensor, *, candidates: Sequence[TaskDescriptor] | None = None
    ) -> list[PredictedTags]:
        """The tags that each signature predicts. candidates: the sets to choose from, by default all consistent ones.

        Raises UsageError for signatures of another length, and when there are no candidates.
        """
        if signature_BN.ndim != 2 or signature_BN.shape[1] != self.num_experts:
            raise UsageError(
                f"The signatures have shape {tuple(signature_BN.shape)}; this model's head takes "
                f"(samples, {self.num_experts})."
            )
        sets, members_MK = _consistent_sets() if candidates is None else _with_members(candidates)
        if not sets:
            raise UsageError("There are no sets of tags to choose from; give at least one.")
        # |s| of every set from the Gram matrix, so that no sum of rows is built.
        length_M = ((members_MK @ self._gram_KK) * members_MK).sum(dim=1).clamp_min(0).sqrt().clamp_min(1e-12)
        rows_KD = functional.normalize(self.weight_KD, dim=-1)
        found = []
        for part_BN in signature_BN.cpu().split(_CHUNK):
            predicted_BD = functional.normalize(self.head(part_BN), dim=-1)
            cosine_BM = (predicted_BD @ self.weight_KD.T) @ members_MK.T / length_M
            best = cosine_BM.max(dim=1)
            for cosine, chosen, tag_K in zip(
                best.values.tolist(), best.indices.tolist(), (predicted_BD @ rows_KD.T).tolist(), strict=True
            ):
                ranking = sorted(zip(TAG_NAMES, tag_K, strict=True), key=lambda pair: -pair[1])
                found.append(PredictedTags(sets[chosen], cosine, tuple(ranking)))
        return found

    @torch.no_grad()
    def cosine(self, signature_BN: Tensor, tasks: Sequence[TaskDescriptor]) -> list[float]:
        """cos(H_pred(g), s) of every sample with its own tags. It equals 1 - L_align of Eq. 4."""
        semantic_BD = _with_members(tasks)[1] @ self.weight_KD
        return functional.cosine_similarity(self.head(signature_BN.cpu()), semantic_BD, dim=-1).tolist()


def score(predicted: Sequence[PredictedTags | TaskDescriptor], truth: Sequence[TaskDescriptor]) -> TagScore:
    """Score predicted sets of tags against the true ones, in the same order. Raises UsageError without cases."""
    if not truth:
        raise UsageError("There are no cases to score; give at least one.")
    answers = [set((one.descriptor if isinstance(one, PredictedTags) else one).indices) for one in predicted]
    right = [set(task.indices) for task in truth]
    frequent = Counter(task.indices for task in truth).most_common(1)[0][0]
    baseline = [set(frequent)] * len(truth)
    counts = {}
    for index, name in enumerate(TAG_NAMES):
        said = sum(index in one for one in answers)
        support = sum(index in one for one in right)
        hits = sum(index in one and index in other for one, other in zip(answers, right, strict=True))
        counts[name] = TagCounts(support, hits / said if said else None, hits / support if support else None)
    return TagScore(
        n=len(truth),
        exact=_exact(answers, right),
        f1=_f1(answers, right),
        baseline=TaskDescriptor.from_tags(TAG_NAMES[index] for index in frequent),
        baseline_exact=_exact(baseline, right),
        baseline_f1=_f1(baseline, right),
        tags=counts,
    )


def _exact(answers: Sequence[set[int]], right: Sequence[set[int]]) -> float:
    return sum(one == other for one, other in zip(answers, right, strict=True)) / len(right)


def _f1(answers: Sequence[set[int]], right: Sequence[set[int]]) -> float:
    hits = sum(len(one & other) for one, other in zip(answers, right, strict=True))
    total = sum(map(len, answers)) + sum(map(len, right))
    return 2 * hits / total if total else 0.0


@cache
def _consistent_sets() -> tuple[tuple[TaskDescriptor, ...], Tensor]:
    """All consistent descriptors, smaller ones first, and their members (M, K) as zeros and ones."""
    names = {tier: [tag.name for tag in TAGS if tag.tier == tier] for tier in ("type", "preservation")}
    # A consistent set has one scope. "image generation" takes the place of a scope.
    scopes = [(tag.name,) for tag in TAGS if tag.tier in ("scope", "generation")]
    every = (
        TaskDescriptor(scope, types, kept)
        for scope in scopes
        for types in _subsets(names["type"])
        for kept in _subsets(names["preservation"])
    )
    return _with_members(
        sorted((task for task in every if not task.broken_rules()), key=lambda task: len(task.indices))
    )


def _with_members(tasks: Sequence[TaskDescriptor]) -> tuple[tuple[TaskDescriptor, ...], Tensor]:
    return tuple(tasks), torch.tensor([task.multi_hot() for task in tasks], dtype=torch.float32)


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)))


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else f"of shape {tuple(shape)}"
