"""Losses of next-item prediction over a catalogue, from query vectors and item vectors.

For P positions with query vectors h_p and the item y_p that came next, with scores s = h_p · E:

    cross_entropy     -1/n Σ_p log softmax(s)_{y_p}, over all items
    sampled_softmax   the same over y_p and S drawn items
    gbce              -1/n Σ_p 1/(S+1) (log σ(s_{y_p})^β + Σ_drawn log(1 - σ(s)))

`n` is given: it is the number of positions of the whole batch, which may be spread over workers.

None holds a logit of every position at once: they are made a chunk of positions at a time, and the
gradients with them, so that backward only scales. O(P·N·D) or O(P·S·D) time in three matrix
products; O(chunk · N + (P + N)·D) memory. Queries may be Float32 or BFloat16, and the products are
made in their type, so a chunk's part of the items' gradients is rounded to it; softmaxes, the
losses and the sums over chunks are Float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import Function
from torch.nn.functional import embedding, softplus

LOGITS_AT_ONCE = 2**22
"""How many logits are held at a time: 16 MB, which a processor's cache still helps with."""

TINY = torch.finfo(torch.float32).tiny


def _chunk(positions: int, width: int) -> int:
    """How many positions a chunk has, such that all chunks are of about the same size."""
    chunks = -(-positions * width // LOGITS_AT_ONCE)
    return max(1, -(-positions // max(1, chunks)))


class _CrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, queries: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, n: float
    ) -> torch.Tensor:
        grad_queries = torch.empty_like(queries)
        grad_items = torch.zeros_like(items)
        items = items.to(queries.dtype)
        loss = queries.new_zeros((), dtype=torch.float32)
        rows = _chunk(len(queries), len(items))
        minus_one = loss.new_full((rows, 1), -1.0)
        for start in range(0, len(queries), rows):
            some = queries[start : start + rows]
            wanted = targets[start : start + rows, None]
            softmax = torch.softmax(some @ items.T, 1, dtype=torch.float32)
            # The gradient is exact; only a loss above 87 would be told as 87.
            loss -= softmax.gather(1, wanted).clamp_min_(TINY).log_().sum()
            softmax.scatter_add_(1, wanted, minus_one[: len(some)])
            gradient = softmax.to(queries.dtype)
            torch.mm(gradient, items, out=grad_queries[start : start + rows])
            grad_items += gradient.T @ some
        ctx.save_for_backward(grad_queries.div_(n), grad_items.div_(n))
        return loss / n

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_queries, grad_items = ctx.saved_tensors
        return grads[0] * grad_queries, grads[0] * grad_items, None, None


Pointwise = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Float32 scores of the targets [P, 1] and of the drawn [P, S], -inf where a drawn item is the
target, to the sum of the losses and its derivatives by both. It may write into the scores."""


class _OverDrawn(Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        wanted: torch.Tensor,
        drawn: torch.Tensor,
        targets: torch.Tensor,
        negatives: torch.Tensor,
        pointwise: Pointwise,
        n: float,
    ) -> torch.Tensor:
        grad_queries, grad_wanted = torch.empty_like(queries), torch.empty_like(wanted)
        grad_drawn = torch.zeros_like(drawn)
        wanted, drawn = wanted.to(queries.dtype), drawn.to(queries.dtype)
        loss = queries.new_zeros((), dtype=torch.float32)
        rows = _chunk(len(queries), len(drawn))
        for start in range(0, len(queries), rows):
            chunk = slice(start, start + rows)
            some, right = queries[chunk], wanted[chunk]
            of_target = (some * right).sum(1, keepdim=True, dtype=torch.float32)
            of_drawn = (some @ drawn.T).float()
            of_drawn.masked_fill_(targets[chunk, None] == negatives, float("-inf"))
            part, by_target, by_drawn = pointwise(of_target, of_drawn)
            loss += part
            by_target, by_drawn = by_target.to(queries.dtype), by_drawn.to(queries.dtype)
            grad_queries[chunk] = by_drawn @ drawn + by_target * right
            grad_wanted[chunk] = by_target * some
            grad_drawn += by_drawn.T @ some
        ctx.save_for_backward(grad_queries.div_(n), grad_wanted.div_(n), grad_drawn.div_(n))
        return loss / n

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [grads[0] * gradient for gradient in ctx.saved_tensors]
        return (*scaled, None, None, None, None)


def cross_entropy(
    queries: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, n: float
) -> torch.Tensor:
    """The loss over the full catalogue, exact.

    queries: Float[P, D]; items: Float32[N, D]; targets: Int64[P], rows of `items`;
    n: what the sum over positions is divided by. Returns a Float32 scalar.
    """
    loss: torch.Tensor = _CrossEntropy.apply(queries, items, targets, n)  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    n: float,
    *,
    negatives: torch.Tensor,
    log_q: torch.Tensor,
) -> torch.Tensor:
    """The loss over the target and S items drawn once for the batch, for large catalogues.

    A drawn item stands for 1 / (S q) of its kind, so its logit is lowered by log(S q) (Bengio &
    Senécal 2008); the target is there anyway and keeps its own, and is left out where it is
    drawn as a negative of itself. So the drawn sum estimates that over all other items without
    bias, and the loss nears the full one as S grows. O(P·S·D) time; O(chunk·S + (P + N)·D) memory.

    negatives: Int64[S], drawn with replacement by the probabilities q; log_q: Float32[N], log q.
    """
    correction = log_q[negatives] + math.log(len(negatives))

    def pointwise(
        of_target: torch.Tensor, of_drawn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = of_drawn.sub_(correction)
        total = torch.logaddexp(of_target, logits.logsumexp(1, keepdim=True))
        by_target = torch.expm1(of_target - total)
        return (total - of_target).sum(), by_target, logits.sub_(total).exp_()

    return _over_drawn(queries, items, targets, negatives, pointwise, n)


def gbce(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    n: float,
    *,
    negatives: torch.Tensor,
    calibration: float,
) -> torch.Tensor:
    """The generalised binary cross-entropy of gSASRec (Petrov & Macdonald, arXiv 2308.07192).

    Drawing a share α = S / (N - 1) of the negatives makes a model too sure of itself; raising the
    target's probability to the power β = α(t(1 - 1/α) + 1/α) takes that back, wholly at t = 1.
    A drawn item that is the target is left out.

    negatives: Int64[S], drawn evenly with replacement; calibration: t.
    """
    alpha = min(1.0, len(negatives) / max(1, len(items) - 1))
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)

    def pointwise(
        of_target: torch.Tensor, of_drawn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        losses = softplus(of_drawn).sum() + beta * softplus(-of_target).sum()
        return losses, -beta * torch.sigmoid(-of_target), of_drawn.sigmoid_()

    return _over_drawn(queries, items, targets, negatives, pointwise, n * (len(negatives) + 1))


def _over_drawn(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    negatives: torch.Tensor,
    pointwise: Pointwise,
    n: float,
) -> torch.Tensor:
    # Not items[targets], whose gradient sums in an order that threads decide.
    wanted_and_drawn = embedding(targets, items), embedding(negatives, items)
    loss: torch.Tensor = _OverDrawn.apply(  # type: ignore[no-untyped-call]
        queries, *wanted_and_drawn, targets, negatives, pointwise, n
    )
    return loss
