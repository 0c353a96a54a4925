"""What the training benchmark's figures stand on: which epoch is tested, when it ends, and EASE."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.train import PATIENCE, Epoch, Run, run
from benchmarks.train_ours import EASE_RIDGES, ease
from recsys.data.histories import Histories
from recsys.data.split import leave_one_out

N_ITEMS = 40
SPLIT = leave_one_out(Histories.of([[user, user + 10, user + 20] for user in range(10)]))
"""User u's validation item is u + 10 and the test item u + 20."""


def epochs(hits: list[int], drawn: list[int]) -> Iterator[Epoch]:
    """Epochs of a second each that find the right item for so many users, in both parts."""
    for number, right in enumerate(hits):
        drawn.append(number)
        users = np.arange(10)
        top = np.tile(np.arange(30, 40), (10, 1))
        validation, test = top.copy(), top.copy()
        validation[:right, 0] = users[:right] + 10
        test[:right, 0] = users[:right] + 20
        yield Epoch(number + 1.0, 100.0, validation, test)


def test_the_test_part_is_ranked_with_the_epoch_that_validates_best() -> None:
    found = run("ours", epochs([1, 5, 3], []), SPLIT, N_ITEMS, minutes=1)
    assert found.best == 1
    assert found.ndcg == pytest.approx([0.1, 0.5, 0.3])
    assert found.test.metrics["recall@10"].value == pytest.approx(0.5)


def test_it_ends_when_validation_has_long_not_risen() -> None:
    drawn: list[int] = []
    run("ours", epochs([1, 2] + [1] * 50, drawn), SPLIT, N_ITEMS, minutes=60)
    assert len(drawn) == 2 + PATIENCE


def test_it_ends_with_the_epoch_in_which_its_minutes_are_over() -> None:
    drawn: list[int] = []
    run("ours", epochs(list(range(10)), drawn), SPLIT, N_ITEMS, minutes=4.5 / 60)
    assert len(drawn) == 5


def test_seconds_to_a_quality_are_those_at_which_it_was_first_reached() -> None:
    found = run("ours", epochs([1, 5, 3, 5], []), SPLIT, N_ITEMS, minutes=1)
    assert isinstance(found, Run)
    assert found.seconds_to(0.3) == 2
    assert found.seconds_to(0.6) is None


def test_ease_predicts_each_item_from_the_others_by_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    seen = (rng.random((30, 6)) < 0.4).astype(np.float32)
    histories = Histories.of([np.flatnonzero(row).tolist() for row in seen])
    scorer = next(ease(histories, 6))
    scores = scorer(histories)
    for item in range(6):
        others = np.delete(seen, item, axis=1)
        gramian = others.T @ others + EASE_RIDGES[0] * np.eye(5)
        weights = np.linalg.solve(gramian, others.T @ seen[:, item])
        np.testing.assert_allclose(scores[:, item], others @ weights, atol=1e-4)
