"""The self-attention network of SASRec: item sequences in, a vector for every position out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Block(nn.Module):
    """Causal self-attention and a position-wise feed-forward layer, each normalised before and
    added after (pre-norm; Xiong et al., arXiv 2002.04745)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.projections = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float[B, L, D] to the same shape; a position sees itself and those before it."""
        batch, length, dim = x.shape
        shape = (batch, length, 3, self.heads, dim // self.heads)
        query, key, value = self.projections(self.attention_norm(x)).view(shape).unbind(2)
        mixed = scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            is_causal=True,  # and no dropout of the weights, which would need them all in memory
        )
        x = x + self.dropout(self.output(mixed.transpose(1, 2).reshape(batch, length, dim)))
        fed: torch.Tensor = self.feed_forward(x)
        return x + fed


class SelfAttention(nn.Module):
    """Item embeddings, positions, blocks and a last norm.

    Sequences are aligned left and padded right: under a causal mask no item ever sees the
    padding, so padding changes nothing and needs no mask of its own. Positions are counted from
    the end, so that the newest item, the one that a query asks from, always has the same one.
    """

    def __init__(
        self, n_items: int, *, dim: int, blocks: int, heads: int, max_length: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, dim)
        self.positions = nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)
        self.apply(_initialise)

    def forward(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Float[B, L, D]: for each position the vector that the next item is asked with.

        sequences: Int64[B, L], rows of items, any valid row as padding after the end; lengths:
        Int64[B], at most `max_length`. What stands after a sequence's end is of no meaning.
        """
        from_end = lengths[:, None] - 1 - torch.arange(sequences.shape[1], device=lengths.device)
        scale = self.items.embedding_dim**0.5
        x = self.items(sequences) * scale + self.positions(from_end.clamp_min(0))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        normed: torch.Tensor = self.norm(x)
        return normed


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
