"""The networks of the sequential recommenders: item sequences in, a vector for every position out.

All have `items`, the item embeddings that scores are inner products with, and one way to be asked:

    network(sequences Int64[B, L], lengths Int64[B]) -> Float[B, L, D]
    network.last(sequences, lengths) -> Float[B, D], the same at each sequence's last item

where the vector of a position asks for the item that comes next and knows only the items up to it.
Sequences are aligned left, and what stands after a sequence's end is of no meaning: nothing before
it ever sees it, so padding needs no mask.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import dropout, silu


class Dropout(nn.Module):
    """Dropout whose mask comes from random bytes, so the share is a multiple of 1/256.

    On a processor torch draws one number an element, which was an eighth of all training time; a
    byte costs an eighth of that. A GPU has a kernel for the whole of it.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = min(round(share * 256), 255)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, some of it 0 while training, the rest scaled to keep the mean."""
        if not self.training or self.dropped == 0:
            return x
        if x.is_cuda:
            return dropout(x, self.dropped / 256)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - self.dropped))


class Attention(nn.Module):
    """Causal multi-head self-attention: a position mixes the values of itself and those before.

    With `reach`, each head adds to its logits a learned bias of how far back an item stands, as in
    HSTU (Zhai et al., arXiv 2402.17152) and before it in T5 (arXiv 1910.10683):

        softmax_j≤i(q_i · k_j / √d + b[i - j])

    The B · heads · L² weights are held: histories are short, and on a processor torch's fused
    kernel, which holds none, takes twice the time in bfloat16.
    """

    def __init__(self, dim: int, heads: int, reach: int | None) -> None:
        """reach: the longest sequence that distances are told apart in; None for no bias."""
        super().__init__()
        self.heads = heads
        self.projections = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.bias = None if reach is None else nn.Parameter(torch.zeros(heads, reach))

    def forward(self, x: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """Float[B, L, D] to the same shape; or, asked at a position Int64[B] each, Float[B, 1, D].

        There is no dropout of the attention weights.
        """
        query, key, value = self._heads(x).unbind(2)
        if asked is not None:
            query = at(query, asked)
        logits = (query * query.shape[-1] ** -0.5).transpose(1, 2) @ key.permute(0, 2, 3, 1)
        place = torch.arange(x.shape[1], device=x.device)
        if asked is None:
            mask = self._mask(place[:, None] - place)
        else:
            mask = self._mask(asked[:, None] - place).transpose(0, 1)[:, :, None]
        mixed = torch.softmax(logits + mask.to(logits.dtype), -1) @ value.transpose(1, 2)
        output: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """Float[B, L, 3, heads, D / heads]: the queries, keys and values."""
        projected: torch.Tensor = self.projections(x)
        return projected.view(*x.shape[:2], 3, self.heads, -1)

    def _mask(self, distance: torch.Tensor) -> torch.Tensor:
        """Float[1 or heads, R, L] of how far back Int64[R, L]: the bias, -inf of what is later."""
        bias = self.output.weight.new_zeros(1, *distance.shape)
        if self.bias is not None:
            bias = self.bias[:, distance.clamp_min(0)]
        return bias.masked_fill(distance < 0, float("-inf"))


def at(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Of Float[B, L, ..] what stands at a position Int64[B] each: Float[B, 1, ..]."""
    return x[torch.arange(len(x), device=x.device), positions][:, None]


class ClassicBlock(nn.Module):
    """Self-attention and a position-wise feed-forward layer (Kang & McAuley, arXiv 1808.09781),
    each normalised before and added after (Xiong et al., arXiv 2002.04745):

        x ← x + attention(norm(x)),   x ← x + W₂ gelu(W₁ norm(x))
    """

    def __init__(self, dim: int, heads: int, reach: int | None, dropout: float) -> None:
        """As Attention, and the share dropped of what is added."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, reach)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, dim),
            Dropout(dropout),
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """As Attention."""
        mixed = self.dropout(self.attention(self.attention_norm(x), asked))
        x = mixed + (x if asked is None else at(x, asked))
        fed: torch.Tensor = self.feed_forward(x)
        return x + fed


class GatedBlock(nn.Module):
    """The block of LiGR (Borisyuk et al., arXiv 2502.03417), which eSASRec (arXiv 2508.06450) found
    best among those it compared: what is added is gated by what is there, and the feed-forward
    layer is a SwiGLU (Shazeer, arXiv 2002.05202).

        x ← x + σ(W x) ⊙ attention(norm(x)),   x ← x + σ(W'x) ⊙ W₂(silu(W₁ norm(x)) ⊙ W₃ norm(x))
    """

    def __init__(self, dim: int, heads: int, reach: int | None, dropout: float) -> None:
        """As Attention, and the share dropped of what is added."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, reach)
        self.attention_gate = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 8 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.feed_forward_gate = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """As Attention."""
        mixed = self.dropout(self.attention(self.attention_norm(x), asked))
        x = x if asked is None else at(x, asked)
        x = x + self.attention_gate(x).sigmoid() * mixed
        gate, value = self.expand(self.feed_forward_norm(x)).chunk(2, -1)
        fed = self.dropout(self.contract(silu(gate) * value))
        gated: torch.Tensor = x + self.feed_forward_gate(x).sigmoid() * fed
        return gated


BLOCKS: dict[str, type[ClassicBlock] | type[GatedBlock]] = {
    "classic": ClassicBlock,
    "gated": GatedBlock,
}


class SelfAttention(nn.Module):
    """Item embeddings, positions, blocks and norms before and after.

    Where an item stands is known by its distance from the one that asks (`relative`, a bias of the
    attention), so that every position of a history trains what the last one answers with; or, as
    in SASRec, by an embedding of its place, counted from the end, so that the newest item always
    has the same one.

    Embeddings are normalised on their way in (as in BERT, arXiv 1810.04805, but before places are
    added): how long one has grown belongs to its score.
    """

    def __init__(
        self,
        n_items: int,
        *,
        dim: int,
        block: str,
        blocks: int,
        heads: int,
        max_length: int,
        relative: bool,
        dropout: float,
    ) -> None:
        """block: a name of BLOCKS."""
        super().__init__()
        self.items = nn.Embedding(n_items, dim)
        self.input_norm = nn.LayerNorm(dim)
        self.positions = None if relative else nn.Embedding(max_length, dim)
        self.dropout = Dropout(dropout)
        reach = max_length if relative else None
        self.blocks = nn.ModuleList(
            BLOCKS[block](dim, heads, reach, dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.apply(_initialise)

    def forward(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """As the module says; lengths are at most `max_length`."""
        normed: torch.Tensor = self.norm(self._mixed(sequences, lengths, None))
        return normed

    def last(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """As the module says; the last block is spared all other positions."""
        normed: torch.Tensor = self.norm(self._mixed(sequences, lengths, lengths - 1))
        return normed[:, 0]

    def _mixed(
        self, sequences: torch.Tensor, lengths: torch.Tensor, asked: torch.Tensor | None
    ) -> torch.Tensor:
        x: torch.Tensor = self.input_norm(self.items(sequences))
        if self.positions is not None:
            place = torch.arange(sequences.shape[1], device=lengths.device)
            x = x + self.positions((lengths[:, None] - 1 - place).clamp_min(0))
        x = self.dropout(x)
        final = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x, asked if number == final else None)
        return x


CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """Item embeddings, recurrent layers (Hidasi et al., arXiv 1511.06939) and a last projection to
    the space of the items."""

    def __init__(
        self, n_items: int, *, dim: int, cell: str, hidden: int, layers: int, dropout: float
    ) -> None:
        """cell: a name of CELLS."""
        super().__init__()
        self.items = nn.Embedding(n_items, dim)
        self.dropout = Dropout(dropout)
        between = dropout if layers > 1 else 0.0
        self.cells = CELLS[cell](dim, hidden, layers, batch_first=True, dropout=between)
        self.output = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.apply(_initialise)

    def forward(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """As the module says."""
        return self._asking(self._states(sequences))

    def last(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """As the module says."""
        return self._asking(at(self._states(sequences), lengths - 1))[:, 0]

    def _states(self, sequences: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.items(sequences) * self.items.embedding_dim**0.5)
        states: torch.Tensor = self.cells(x)[0]
        return states

    def _asking(self, states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.output(self.dropout(states)))
        return normed


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
