"""Conjugate gradients: enough steps are the solution, and every step is nearer to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.models.conjugate_gradients import SparseRows, improve

N, D = 12, 5
CPU = torch.device("cpu")

rows_of_columns = st.lists(
    st.lists(st.integers(0, N - 1), max_size=N, unique=True), min_size=1, max_size=6
)


class Problem:
    """Random vectors, Gramian, ridges and confidences for these rows."""

    def __init__(self, rows: list[list[int]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rows = rows
        self.vectors = rng.normal(size=(N, D)).astype(np.float32)
        root = rng.normal(size=(D, D))
        self.gramian = (0.3 * root @ root.T).astype(np.float32)
        self.ridge = rng.uniform(0.1, 1, len(rows)).astype(np.float32)
        self.confidence = [rng.uniform(0.2, 2, len(row)).astype(np.float32) for row in rows]

    def improved(
        self, steps: int, start: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], float]:
        confidence = np.concatenate([np.empty(0, np.float32), *self.confidence])
        x, objective = improve(
            SparseRows(Histories.of(self.rows), confidence, N, CPU),
            torch.from_numpy(self.ridge),
            torch.from_numpy(self.vectors),
            torch.from_numpy(self.gramian),
            torch.zeros(len(self.rows), D) if start is None else torch.from_numpy(start),
            steps,
        )
        return x.numpy(), objective

    def solved(self) -> NDArray[np.float64]:
        return np.stack([self._solved(u) for u in range(len(self.rows))])

    def _solved(self, u: int) -> NDArray[np.float64]:
        f, c = self.vectors[self.rows[u]].astype(np.float64), self.confidence[u]
        matrix = f.T @ (c[:, None] * f) + self.gramian + self.ridge[u] * np.eye(D)
        return np.linalg.solve(matrix, f.T @ c)

    def objective(self, x: NDArray[np.floating]) -> float:
        total = 0.0
        for u, row in enumerate(self.rows):
            fitted = self.vectors[row] @ x[u] - 1
            total += (self.confidence[u] * fitted**2).sum()
            total += x[u] @ self.gramian @ x[u] + self.ridge[u] * (x[u] ** 2).sum()
        return total


@settings(max_examples=40)
@given(rows_of_columns, st.integers(0, 9))
def test_as_many_steps_as_dimensions_are_the_solution(rows: list[list[int]], seed: int) -> None:
    problem = Problem(rows, seed)
    x, objective = problem.improved(2 * D)
    np.testing.assert_allclose(x, problem.solved(), atol=2e-3)
    assert objective == pytest.approx(problem.objective(problem.solved()), abs=1e-3)


@settings(max_examples=40)
@given(rows_of_columns, st.integers(0, 9))
def test_every_step_lowers_the_objective_that_it_tells(rows: list[list[int]], seed: int) -> None:
    problem = Problem(rows, seed)
    before = problem.objective(np.zeros((len(rows), D)))
    for steps in range(1, 4):
        x, objective = problem.improved(steps)
        assert objective == pytest.approx(problem.objective(x), rel=1e-4, abs=1e-4)
        assert objective <= before + 1e-4
        before = objective


def test_the_solution_is_not_left_and_an_empty_row_stays_at_zero() -> None:
    problem = Problem([[0, 3, 7], [], [1, 2]])
    start = problem.solved().astype(np.float32)
    x, _ = problem.improved(3, start)
    np.testing.assert_allclose(x, start, atol=1e-5)
    assert (x[1] == 0).all()
