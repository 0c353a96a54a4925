"""The solver against the normal equations, written down and solved a row at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.models.least_squares import LeastSquares, WeightedRows

CPU = torch.device("cpu")
N_COLUMNS = 30

some_rows = st.lists(
    st.lists(st.integers(0, N_COLUMNS - 1), max_size=40), min_size=1, max_size=5
).map(Histories.of)


def dense(
    rows: Histories,
    confidence: NDArray[np.float64],
    targets: NDArray[np.float64],
    vectors: NDArray[np.float64],
    gramian: NDArray[np.float64],
    ridge: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """The solutions Float64[B, D] and the sum of the objective there."""
    solutions, minimum = [], 0.0
    for row, own in enumerate(ridge):
        part = slice(rows.offsets[row], rows.offsets[row + 1])
        f, c, y = vectors[rows.items[part]], confidence[part], targets[part]
        prior = gramian + own * np.eye(vectors.shape[1])
        x = np.linalg.solve(f.T @ (c[:, None] * f) + prior, f.T @ (c * y))
        solutions.append(x)
        minimum += (c * (f @ x - y) ** 2).sum() + x @ prior @ x
    return np.stack(solutions), minimum


@settings(max_examples=50)
@given(some_rows, st.sampled_from([1, 2, 8, 24]), st.sampled_from([0.0, 0.2]), st.integers(0, 99))
def test_each_row_is_one_dense_solve(rows: Histories, dim: int, prior: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(N_COLUMNS, dim))
    gramian = prior * vectors.T @ vectors
    confidence = rng.uniform(0.1, 2, size=len(rows.items))
    targets = rng.normal(size=len(rows.items))
    ridge = rng.uniform(0.5, 3, size=len(rows))
    solver = LeastSquares(*(torch.from_numpy(part).float() for part in (vectors, gramian)))
    solved, minimum = solver.solve(
        WeightedRows(rows, confidence.astype(np.float32), dim, CPU),
        torch.from_numpy(ridge).float(),
        torch.from_numpy(targets).float(),
    )
    expected, least = dense(rows, confidence, targets, vectors, gramian, ridge)
    np.testing.assert_allclose(solved, expected, rtol=2e-3, atol=2e-4)
    assert minimum == pytest.approx(least, rel=1e-3, abs=1e-3)


@given(some_rows)
def test_targets_are_1_where_none_are_given(rows: Histories) -> None:
    vectors = torch.randn(N_COLUMNS, 6, generator=torch.Generator().manual_seed(0))
    solver = LeastSquares(vectors, 0.1 * (vectors.T @ vectors))
    weighted = WeightedRows(rows, np.ones(len(rows.items), np.float32), 6, CPU)
    ridge = torch.ones(len(rows))
    implied, minimum = solver.solve(weighted, ridge)
    given_, same_minimum = solver.solve(weighted, ridge, torch.ones(len(rows.items)))
    assert torch.equal(implied, given_)
    assert minimum == same_minimum


@pytest.mark.parametrize("dim", [5, 300], ids=["primal", "dual"])
def test_rows_of_any_length_are_solved_in_whatever_pieces(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    lengths = np.array([0, 1, 250, 7, 0, 100, 7, 31])
    rows = Histories.from_lengths(lengths, rng.integers(400, size=lengths.sum()))
    confidence = rng.uniform(0.1, 2, size=lengths.sum()).astype(np.float32)
    targets = torch.from_numpy(rng.normal(size=lengths.sum()).astype(np.float32))
    vectors = torch.from_numpy(rng.normal(size=(400, dim)).astype(np.float32))
    solver = LeastSquares(vectors, 0.1 * (vectors.T @ vectors))
    ridge = torch.linspace(1, 3, len(rows))
    whole, minimum = solver.solve(WeightedRows(rows, confidence, dim, CPU), ridge, targets)
    monkeypatch.setattr("recsys.models.least_squares._COLUMNS_AT_ONCE", 13)
    monkeypatch.setattr("recsys.models.least_squares._FLOATS_AT_ONCE", 1)
    pieces, same_minimum = solver.solve(WeightedRows(rows, confidence, dim, CPU), ridge, targets)
    torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-5)
    assert same_minimum == pytest.approx(minimum, rel=1e-4)
    assert (whole[[0, 4]] == 0).all()
