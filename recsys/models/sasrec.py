"""SASRec: self-attention over the history asks for the next item.

Kang & McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018, arXiv 1808.09781), with
the output tied to the item embeddings and trained by the full softmax over every position, which
Klenitskiy & Vasilev (arXiv 2309.07602) found to be what makes it strong; or with the gated blocks
of eSASRec (arXiv 2508.06450).

Good at: order and recency; new users at once. Bad at: items with few events, and histories of no
order. Time an epoch beside the loss: O(positions · (L·D + D²) · blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recsys.models.nets import SelfAttention
from recsys.models.next_item import NextItemConfig
from recsys.models.ranges import Between, OneOf, Range


class SasrecConfig(NextItemConfig):
    """Hyper-parameters of SASRec."""

    kind: ClassVar[str] = "sasrec"
    ranges: ClassVar[Mapping[str, Range]] = {
        **NextItemConfig.ranges,
        "block": OneOf(("classic", "gated")),
        "blocks": Between(1, 4),
        "heads": OneOf((1, 2, 4)),
        "positions": OneOf(("relative", "absolute")),
    }

    dim: int = Field(128, ge=1)
    """Length of an item vector."""

    block: Literal["classic", "gated"] = "gated"
    """The kind of block: the first paper's, normalised before instead of after, or the gated one
    of LiGR with a SwiGLU."""

    blocks: int = Field(2, ge=1)
    """Self-attention blocks, one upon the other."""

    heads: int = Field(2, ge=1)
    """Attention heads of a block; `dim` is a multiple of it."""

    positions: Literal["relative", "absolute"] = "relative"
    """How the network knows an item's place: by its distance from the one that asks, a bias of the
    attention, or by an embedding of its place from the end."""

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        return self

    def network(self, n_items: int) -> SelfAttention:
        return SelfAttention(
            n_items,
            dim=self.dim,
            block=self.block,
            blocks=self.blocks,
            heads=self.heads,
            max_length=self.max_length,
            relative=self.positions == "relative",
            dropout=self.dropout,
        )
