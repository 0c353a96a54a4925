"""Popularity: the share of each item among what is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.histories import Histories
from recsys.models.model import Alone
from recsys.models.popularity import Popularity, PopularityConfig, PopularityFit


def _fitted(histories: Histories, n_items: int) -> tuple[PopularityFit, dict[str, float]]:
    fit = PopularityFit(PopularityConfig(), histories, n_items, Alone(), torch.device("cpu"))
    return fit, fit.run_epoch(0)


def test_the_vectors_are_counts_over_the_greatest() -> None:
    fit, _ = _fitted(Histories.of([[0, 2], [2, 2, 1], [2]]), n_items=4)
    assert fit.model().item_vectors.tolist() == [[0.25], [0.25], [1.0], [0.0]]


def test_the_loss_is_the_entropy_of_the_events() -> None:
    _, logged = _fitted(Histories.of([[0, 1], [0, 1]]), n_items=3)
    assert logged["loss"] == pytest.approx(np.log(2))


def test_no_event_at_all_leaves_zeros() -> None:
    fit, logged = _fitted(Histories.of([[]]), n_items=2)
    assert fit.model().item_vectors.tolist() == [[0.0], [0.0]]
    assert logged["loss"] == 0


def test_misshapen_tensors_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'shares' of shape \[N, 1\], but it has shape \[3\]"):
        Popularity.restore(PopularityConfig(), {"shares": np.zeros(3, np.float32)})
