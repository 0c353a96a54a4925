"""The losses against their definitions, written down densely."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from recsys.models import losses
from recsys.models.losses import cross_entropy, gbce, sampled_softmax


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries Float[37, 8], items Float[50, 8] and targets Int64[37]."""
    torch.manual_seed(0)
    queries = torch.randn(37, 8, requires_grad=True)
    items = torch.randn(50, 8, requires_grad=True)
    return queries, items, torch.randint(0, 50, (37,))


def test_cross_entropy_is_that_of_all_logits_at_once(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 50 * 10)  # four chunks, the last one shorter
    queries, items, targets = batch
    dense = functional.cross_entropy(queries @ items.T, targets, reduction="sum") / 40
    wanted = torch.autograd.grad(dense, [queries, items])
    loss = cross_entropy(queries, items, targets, 40)
    gradients = torch.autograd.grad(loss, [queries, items])
    torch.testing.assert_close(loss, dense)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want)


def test_a_hopeless_target_has_a_finite_loss_and_its_full_gradient() -> None:
    queries = torch.tensor([[100.0]], requires_grad=True)
    items = torch.tensor([[5.0], [-5.0]], requires_grad=True)
    loss = cross_entropy(queries, items, torch.tensor([1]), 1)
    assert 80 < loss.item() < 90  # 1000, told as the largest there is
    loss.backward()
    assert queries.grad is not None
    assert queries.grad.item() == 10


def test_the_sampled_softmax_nears_the_full_one_as_more_is_drawn(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    queries, items, targets = batch
    q = torch.rand(50) + 0.1
    q /= q.sum()
    negatives = torch.multinomial(q, 200_000, replacement=True)
    full = cross_entropy(queries, items, targets, 37)
    sampled = sampled_softmax(queries, items, targets, 37, negatives=negatives, log_q=q.log())
    torch.testing.assert_close(sampled, full, rtol=5e-3, atol=0)


def test_the_sampled_softmax_in_chunks_is_that_of_all_logits_at_once(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 30 * 10)  # four chunks, the last one shorter
    queries, items, targets = batch
    log_q = torch.rand(50).softmax(0).log()
    drawn = torch.randint(0, 50, (30,))  # with items drawn twice, and targets among them
    assert (targets[:, None] == drawn).any()

    of_target = (queries * items[targets]).sum(1, keepdim=True)
    logits = queries @ items[drawn].T - log_q[drawn] - math.log(30)
    logits = logits.masked_fill(targets[:, None] == drawn, float("-inf"))
    every = torch.cat([of_target, logits], 1)
    dense = functional.cross_entropy(every, torch.zeros(37, dtype=torch.int64), reduction="sum")
    wanted = torch.autograd.grad(dense / 40, [queries, items])

    loss = sampled_softmax(queries, items, targets, 40, negatives=drawn, log_q=log_q)
    gradients = torch.autograd.grad(loss, [queries, items])
    torch.testing.assert_close(loss, dense / 40)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want)


def test_a_drawn_target_is_no_negative_of_its_own() -> None:
    queries, items = torch.ones(1, 1), torch.ones(3, 1)
    log_q = torch.full((3,), 1 / 3).log()
    only_target = torch.tensor([2, 2, 2])
    loss = sampled_softmax(queries, items, torch.tensor([2]), 1, negatives=only_target, log_q=log_q)
    assert loss.item() == 0


def test_gbce_in_chunks_is_its_definition(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 30 * 10)  # four chunks, the last one shorter
    queries, items, targets = batch
    drawn = torch.randint(0, 50, (30,))
    alpha = 30 / 49
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    of_target = beta * functional.logsigmoid((queries * items[targets]).sum(1))
    of_drawn = functional.logsigmoid(-queries @ items[drawn].T)
    of_drawn = of_drawn.masked_fill(targets[:, None] == drawn, 0)
    dense = -(of_target.sum() + of_drawn.sum()) / (31 * 40)
    wanted = torch.autograd.grad(dense, [queries, items])

    loss = gbce(queries, items, targets, 40, negatives=drawn, calibration=0.75)
    gradients = torch.autograd.grad(loss, [queries, items])
    torch.testing.assert_close(loss, dense)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want)


def test_half_precision_is_near_the_full_one(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    queries, items, targets = batch
    half = cross_entropy(queries.bfloat16(), items, targets, 37)
    torch.testing.assert_close(half, cross_entropy(queries, items, targets, 37), rtol=0.02, atol=0)
