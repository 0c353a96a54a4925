"""iALS: it minimises what it says it minimises, alone and shared out; the laws of all models
are in test_laws.py."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.models.ials import Ials, IalsConfig, IalsFit
from recsys.models.model import Alone
from recsys.training.workers import Distributed

CPU = torch.device("cpu")
N_ITEMS = 30


def random_histories(n_users: int, n_items: int = N_ITEMS, seed: int = 0) -> Histories:
    """Histories of 0 to 2/3 of the catalogue, with items that stand twice."""
    rng = np.random.default_rng(seed)
    return Histories.of(
        [rng.integers(n_items, size=rng.integers(2 * n_items // 3)) for _ in range(n_users)]
    )


def dense(
    histories: Histories, n_items: int, recency: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The observed pairs Float64[B, N] (0 or 1) and their confidences, one loop at a time."""
    observed, confidence = np.zeros((2, len(histories), n_items))
    for user in range(len(histories)):
        newest_first = list(dict.fromkeys(histories[user][::-1].tolist()))
        for age, item in enumerate(newest_first):
            observed[user, item] = 1
            confidence[user, item] = (1 + age) ** -recency
    return observed, confidence


def ridge_regression(
    confidence: NDArray[np.float64],
    vectors: NDArray[np.float64],
    unobserved: float,
    ridge: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The equation of the module's docstring, a row at a time."""
    gramian = unobserved * vectors.T @ vectors
    return np.stack(
        [
            np.linalg.solve(
                vectors.T @ (row[:, None] * vectors) + gramian + own * np.eye(vectors.shape[1]),
                vectors.T @ row,
            )
            for row, own in zip(confidence, ridge, strict=True)
        ]
    )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=40), min_size=1, max_size=5),
    st.sampled_from([2, 8, 24]),
    st.sampled_from([0.0, 1.0, 1.7]),
)
def test_a_query_is_one_dense_solve(rows: list[list[int]], dim: int, recency: float) -> None:
    config = IalsConfig(dim=dim, recency=recency, regularization=0.01, regularization_exponent=0.6)
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, dim)).astype(np.float32)
    histories = Histories.of(rows)
    observed, confidence = dense(histories, N_ITEMS, recency)
    ridge = 0.01 * (observed.sum(axis=1) + 0.2 * N_ITEMS) ** 0.6
    expected = ridge_regression(confidence, vectors.astype(np.float64), 0.2, ridge)
    asked = Ials(config, vectors, np.float32(0.2)).query_vectors(histories)
    np.testing.assert_allclose(asked, expected, rtol=2e-3, atol=2e-4)


def loss_of(
    config: IalsConfig,
    histories: Histories,
    users: NDArray[np.float64],
    items: NDArray[np.float64],
) -> float:
    """L(W, H) of the module's docstring, a pair."""
    observed, confidence = dense(histories, N_ITEMS, config.recency / 2)
    unobserved = config.unobserved_weight * confidence.sum() / observed.size
    ridge = config.regularization * np.array(1.0)
    exponent = config.regularization_exponent
    of_users = ridge * (observed.sum(axis=1) + unobserved * N_ITEMS) ** exponent
    of_items = ridge * (observed.sum(axis=0) + unobserved * len(histories)) ** exponent
    loss = (
        (confidence * (users @ items.T - 1) ** 2).sum()
        + unobserved * ((users @ items.T) ** 2).sum()
        + (of_users * (users**2).sum(axis=1)).sum()
        + (of_items * (items**2).sum(axis=1)).sum()
    )
    return float(loss / observed.sum())


def dense_als(config: IalsConfig, histories: Histories, sweeps: int) -> float:
    """The loss after exact sweeps."""
    observed, confidence = dense(histories, N_ITEMS, config.recency / 2)
    unobserved = config.unobserved_weight * confidence.sum() / observed.size
    ridges = [
        config.regularization
        * (observed.sum(axis=axis) + unobserved * n) ** config.regularization_exponent
        for axis, n in ((1, N_ITEMS), (0, len(histories)))
    ]
    items = np.random.default_rng(0).normal(size=(N_ITEMS, config.dim))
    for _ in range(sweeps):
        users = ridge_regression(confidence, items, unobserved, ridges[0])
        items = ridge_regression(confidence.T, users, unobserved, ridges[1])
    return loss_of(config, histories, users, items)


@pytest.mark.parametrize("dim", [4, 16])
def test_sweeps_end_where_those_of_a_dense_als_end_and_tell_their_loss(dim: int) -> None:
    histories = random_histories(40)
    config = IalsConfig(dim=dim, regularization=0.02, regularization_exponent=0.7, recency=0.8)
    fit = IalsFit(config, histories, N_ITEMS, Alone(), CPU)
    for epoch in range(150):
        told = fit.run_epoch(epoch)["loss"]
        if epoch in (0, 3, 149):
            state = fit.state()
            users, items = (state[f"{side}_vectors"].double().numpy() for side in ("user", "item"))
            assert told == pytest.approx(loss_of(config, histories, users, items), rel=1e-4)
    assert told == pytest.approx(dense_als(config, histories, 150), rel=2e-2)


def test_the_loss_falls_with_every_sweep() -> None:
    fit = IalsFit(IalsConfig(dim=8), random_histories(200), N_ITEMS, Alone(), CPU)
    losses = [fit.run_epoch(epoch)["loss"] for epoch in range(12)]
    assert all(after < before for before, after in pairwise(losses))


def test_an_item_that_stands_twice_counts_once_where_it_stands_last() -> None:
    vectors = np.random.default_rng(3).normal(size=(N_ITEMS, 6)).astype(np.float32)
    model = Ials(IalsConfig(dim=6), vectors, np.float32(0.1))
    twice, once = model.query_vectors(Histories.of([[4, 9, 2, 4], [9, 2, 4]]))
    np.testing.assert_array_equal(twice, once)


def test_the_order_matters_with_recency_and_not_without() -> None:
    vectors = np.random.default_rng(3).normal(size=(N_ITEMS, 6)).astype(np.float32)
    histories = Histories.of([[1, 2, 3, 4], [4, 3, 2, 1]])
    forth, back = Ials(IalsConfig(dim=6), vectors, np.float32(0.1)).query_vectors(histories)
    assert not np.allclose(forth, back, atol=1e-2)
    config = IalsConfig(dim=6, recency=0)
    forth, back = Ials(config, vectors, np.float32(0.1)).query_vectors(histories)
    np.testing.assert_allclose(forth, back, atol=1e-5)


def test_an_item_that_nobody_touched_is_the_zero_vector() -> None:
    fit = IalsFit(IalsConfig(dim=4), random_histories(20), N_ITEMS + 1, Alone(), CPU)
    fit.run_epoch(0)
    assert (fit.model().item_vectors[N_ITEMS] == 0).all()


def test_nobody_and_nothing_is_still_a_model() -> None:
    fit = IalsFit(IalsConfig(dim=4), Histories.of([[], []]), N_ITEMS, Alone(), CPU)
    assert fit.run_epoch(0)["loss"] == 0
    assert (fit.model().query_vectors(Histories.of([[1, 2]])) == 0).all()


def test_tensors_that_do_not_fit_are_refused_by_name() -> None:
    config = IalsConfig(dim=4)
    with pytest.raises(ValueError, match="item_vectors is missing"):
        Ials.restore(config, {"unobserved": np.ones(1, np.float32)})
    tensors = {"item_vectors": np.ones((9, 5), np.float32), "unobserved": np.ones(1, np.float32)}
    with pytest.raises(ValueError, match="item_vectors has shape"):
        Ials.restore(config, tensors)


def _one_of_two_workers(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    fit = IalsFit(IalsConfig(dim=8), random_histories(61), N_ITEMS, Distributed(), CPU)
    losses = [fit.run_epoch(epoch)["loss"] for epoch in range(4)]
    np.savez(f"{folder}/{rank}.npz", losses=losses, items=fit.model().item_vectors)
    dist.destroy_process_group()


def test_two_workers_fit_what_one_does(tmp_path: Path) -> None:
    mp.spawn(_one_of_two_workers, args=(str(tmp_path),), nprocs=2)
    alone = IalsFit(IalsConfig(dim=8), random_histories(61), N_ITEMS, Alone(), CPU)
    losses = [alone.run_epoch(epoch)["loss"] for epoch in range(4)]
    for rank in range(2):
        shared = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(shared["losses"], losses, rtol=1e-5)
        np.testing.assert_allclose(shared["items"], alone.model().item_vectors, atol=1e-4)
