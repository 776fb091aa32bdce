"""Eq. 2: the global semantic embedding s of a task (section 3.3.1), the sum of the embeddings of its tags."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmoe.errors import ConfigError
from tagmoe.tags import TAGS

TagEmbeddingKind = Literal["learned", "frozen-orthogonal", "text"]


class TagEmbedding(nn.Module):
    """W_tag of Eq. 2 (section 3.3.1): K tags in D dimensions, learned (the paper) or fixed orthonormal rows [ours].

    A learned W_tag gives Eq. 4 its target and is trained by Eq. 4, so a collapse of all tags to one direction is a
    minimum. `effective_rank` and `mean_cosine` show such a collapse. Fixed orthonormal rows cannot collapse. Rows of
    kind "text" [ours] are fixed too: they are given, and come from a text encoder's reading of the tags' names.
    Raises ConfigError for an unknown kind, or when K orthonormal rows do not fit into D.
    """

    weight: Tensor

    def __init__(self, dim: int, *, num_tags: int = len(TAGS), kind: TagEmbeddingKind = "learned") -> None:
        super().__init__()
        if kind == "learned":
            self.weight = nn.Parameter(torch.randn(num_tags, dim))
        elif kind == "frozen-orthogonal":
            if dim < num_tags:
                raise ConfigError(
                    f"tag_embedding is {kind!r} with dim {dim}, but {num_tags} orthogonal rows need dim >= {num_tags}: "
                    "raise the dimension or use 'learned'."
                )
            # A buffer under the same key: no optimiser sees it, and checkpoints of both kinds look alike.
            self.register_buffer("weight", nn.init.orthogonal_(torch.empty(num_tags, dim)))
        elif kind == "text":
            self.register_buffer("weight", torch.zeros(num_tags, dim))
        else:
            raise ConfigError(f"tag_embedding is {kind!r}: it must be 'learned', 'frozen-orthogonal' or 'text'.")

    def forward(self, multi_hot_BK: Tensor) -> Tensor:
        """s = sum over t in T_p of W_tag[index(t)] (Eq. 2): semantic_BD in fp32 from zeros and ones (B, K)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return multi_hot_BK.float() @ self.weight.float()

    @torch.no_grad()
    def read_names(self, names_KD: Tensor) -> None:
        """Set the rows of kind "text": the encodings of the tags' names (K, D), without their mean, of length 1.

        Raises ConfigError when they have another shape than the rows.
        """
        if names_KD.shape != self.weight.shape:
            raise ConfigError(
                f"tag_embedding is 'text', and the text encoder gives {names_KD.shape[1]} numbers a tag, but "
                f"semantic_dim is {self.weight.shape[1]}; set it to {names_KD.shape[1]}."
            )
        rows = names_KD.float() - names_KD.float().mean(dim=0)
        self.weight.copy_(functional.normalize(rows, dim=-1))

    @torch.no_grad()
    def effective_rank(self) -> float:
        """exp of the entropy of the normalised singular values of W_tag: 1 when collapsed, at most min(K, D)."""
        values = torch.linalg.svdvals(self.weight.float())
        share = values / values.sum()
        return float(torch.exp(torch.special.entr(share).sum()))

    @torch.no_grad()
    def mean_cosine(self) -> float:
        """Mean cosine between different tags' rows: about 0 at the start, 1 when collapsed."""
        rows = functional.normalize(self.weight.float(), dim=-1)
        count = rows.shape[0]
        return float(((rows @ rows.T).sum() - rows.square().sum()) / (count * (count - 1)))
