"""The training objective (paper section 3.3), one equation a file: tensors in, tensors out, and no model."""

from __future__ import annotations

from tagmoe.losses.alignment import PredictionHead, alignment_loss, contrastive_alignment_loss
from tagmoe.losses.balance import balance_loss, expert_load
from tagmoe.losses.flow import flow_loss, interpolate, sample_timesteps, velocity_target
from tagmoe.losses.objective import LossTerms, Objective
from tagmoe.losses.semantics import TagEmbedding
from tagmoe.losses.signature import (
    hard_probs,
    layered_signature,
    routing_signature,
    routing_signature_from_scores,
)

__all__ = [
    "LossTerms",
    "Objective",
    "PredictionHead",
    "TagEmbedding",
    "alignment_loss",
    "balance_loss",
    "contrastive_alignment_loss",
    "expert_load",
    "flow_loss",
    "hard_probs",
    "interpolate",
    "layered_signature",
    "routing_signature",
    "routing_signature_from_scores",
    "sample_timesteps",
    "velocity_target",
]
