"""Losses of next-item prediction over a catalogue, from query vectors and item vectors.

For P positions with query vectors h_p and the item y_p that came next, both compute

    L = -1/n Σ_p log softmax(h_p · E)_{y_p}

over all items (`cross_entropy`) or over drawn ones (`sampled_softmax`). `n` is given: it is the
number of positions of the whole batch, which may be spread over workers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd import Function

LOGITS_AT_ONCE = 2**22
"""How many logits are held at a time: 16 MB, which a processor's cache still helps with."""


class _CrossEntropy(Function):
    """Full softmax cross-entropy that never holds the P × N logits.

    The gradients are made with the loss, chunk by chunk, so backward only scales them: three
    matrix products a chunk, none of them twice. O(P·N·D) time; O(chunk·N + (P + N)·D) memory.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, n: float
    ) -> torch.Tensor:
        grad_queries = torch.empty_like(queries)
        grad_items = torch.zeros_like(items, dtype=torch.float32)
        loss = queries.new_zeros((), dtype=torch.float32)
        rows = max(1, LOGITS_AT_ONCE // len(items))
        minus_one = loss.new_full((rows, 1), -1.0)
        for start in range(0, len(queries), rows):
            some = queries[start : start + rows]
            wanted = targets[start : start + rows, None]
            log_softmax = torch.log_softmax((some @ items.T).float(), 1)
            loss -= log_softmax.gather(1, wanted).sum()
            softmax = log_softmax.exp_()
            softmax.scatter_add_(1, wanted, minus_one[: len(some)])
            gradient = softmax.to(queries.dtype)
            torch.mm(gradient, items, out=grad_queries[start : start + rows])
            grad_items += gradient.T @ some
        ctx.save_for_backward(grad_queries.div_(n), grad_items.div_(n).to(items.dtype))
        return loss / n

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_queries, grad_items = ctx.saved_tensors
        return grads[0] * grad_queries, grads[0] * grad_items, None, None


class _SampledSoftmax(Function):
    """The sampled softmax, which never holds the P × S logits: made as `_CrossEntropy` is."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        wanted: torch.Tensor,
        drawn: torch.Tensor,
        targets: torch.Tensor,
        negatives: torch.Tensor,
        correction: torch.Tensor,
        n: float,
    ) -> torch.Tensor:
        grad_queries, grad_wanted = torch.empty_like(queries), torch.empty_like(wanted)
        grad_drawn = torch.zeros_like(drawn, dtype=torch.float32)
        loss = queries.new_zeros((), dtype=torch.float32)
        rows = max(1, LOGITS_AT_ONCE // len(drawn))
        for start in range(0, len(queries), rows):
            chunk = slice(start, start + rows)
            some, right = queries[chunk], wanted[chunk]
            of_target = (some * right).sum(1, keepdim=True).float()
            logits = (some @ drawn.T).float().sub_(correction)
            logits.masked_fill_(targets[chunk, None] == negatives, float("-inf"))
            total = torch.logaddexp(of_target, logits.logsumexp(1, keepdim=True))
            loss += (total - of_target).sum()
            gradient = logits.sub_(total).exp_().to(queries.dtype)
            of_right = torch.expm1(of_target - total).to(queries.dtype)
            grad_queries[chunk] = gradient @ drawn + of_right * right
            grad_wanted[chunk] = of_right * some
            grad_drawn += gradient.T @ some
        ctx.save_for_backward(
            grad_queries.div_(n), grad_wanted.div_(n), grad_drawn.div_(n).to(drawn.dtype)
        )
        return loss / n

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [grads[0] * gradient for gradient in ctx.saved_tensors]
        return (*scaled, None, None, None, None)


def cross_entropy(
    queries: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, n: float
) -> torch.Tensor:
    """The loss over the full catalogue, exact.

    queries: Float[P, D]; items: Float[N, D], same dtype; targets: Int64[P], rows of `items`;
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
    loss: torch.Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
        queries, items[targets], items[negatives], targets, negatives, correction, n
    )
    return loss
