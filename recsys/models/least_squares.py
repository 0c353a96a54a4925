"""Many small ridge regressions with one shared prior, solved exactly and in batches.

For each row u, with vectors f_j, confidences c_j and targets y_j of the J_u columns that it holds,
a Gramian G shared by all rows and a ridge r_u > 0, the x that minimises

    Σ_j c_j (x·f_j - y_j)²  +  xᵀG x  +  r_u |x|²,      (FᵀCF + G + r_u I) x = FᵀCy.

In the eigenbasis of G, which is found once, P = G + r_u I is diagonal for every row, so a row
shorter than D is solved in its dual of J_u unknowns instead of D (the push-through identity):

    x = P⁻¹FᵀC^½ (I + C^½FP⁻¹FᵀC^½)⁻¹ C^½y.

Time: O(D³) once, then O(J·min(J, D)·D + min(J, D)³) a row. Memory: bounded by a block of rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.histories import Histories

_FLOATS_AT_ONCE = 2**23
"""How many floats a block of rows may take: 32 MB, and a few times that in temporaries."""

_COLUMNS_AT_ONCE = 8192
"""Longer rows are summed up in pieces of so many columns."""

_PADDED = 1.2
"""A block's longest row is at most so many times its shortest."""


class WeightedRows:
    """B ragged rows of columns and their confidences, laid out in blocks of similar length."""

    def __init__(
        self, rows: Histories, confidence: NDArray[np.float32], dim: int, device: torch.device
    ) -> None:
        """confidence: Float32[nnz] > 0, of the rows' items; dim: D of the vectors to come."""
        self.lengths = torch.from_numpy(rows.lengths).to(device)
        self._starts = torch.from_numpy(rows.offsets[:-1].copy()).to(device)
        self._columns = torch.from_numpy(rows.items).to(device)
        self.confidence = torch.from_numpy(confidence).to(device)
        self._blocks = [
            (torch.from_numpy(block).to(device), longest)
            for block, longest in _blocks(rows.lengths, dim)
        ]

    def __len__(self) -> int:
        return len(self.lengths)

    def blocks(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Each block's rows Int64[b] and the length of its longest; empty rows are in none."""
        return iter(self._blocks)

    def padded(
        self, block: torch.Tensor, start: int, stop: int, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The columns Int64[b, stop - start] at these places of a block's rows, their confidences
        Float32[b, stop - start], 0 where a row is over, and their targets, of the same shape."""
        places = torch.arange(start, stop, device=block.device)
        within = places < self.lengths[block][:, None]
        positions = torch.where(within, self._starts[block][:, None] + places, 0)
        return (
            self._columns[positions],
            self.confidence[positions] * within,
            targets[positions],
        )


class LeastSquares:
    """The solver for one set of vectors and one Gramian."""

    def __init__(self, vectors: torch.Tensor, gramian: torch.Tensor) -> None:
        """vectors: Float32[N, D], that columns point at; gramian: Float32[D, D], symmetric and
        positive semi-definite."""
        values, basis = torch.linalg.eigh(gramian.double())
        self._prior = values.clamp(min=0).float()
        self._basis = basis.float()
        self._vectors = vectors @ self._basis

    def solve(
        self, rows: WeightedRows, ridge: torch.Tensor, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, float]:
        """The solutions Float32[B, D], and the sum over the rows of the minimum reached.

        ridge: Float32[B], each above 0; targets: Float32[nnz] of the rows' items, all 1 where
        None. An empty row's solution is 0. At the minimum the objective is Σ_j c_j y_j (y_j -
        x·f_j), so it comes with the solution.
        """
        if targets is None:
            targets = torch.ones_like(rows.confidence)
        dim = len(self._prior)
        solutions = self._vectors.new_zeros(len(rows), dim)
        explained = torch.zeros((), dtype=torch.float64, device=solutions.device)
        for block, longest in rows.blocks():
            diagonal = self._prior + ridge[block][:, None]
            solver = self._dual if longest < dim else self._primal
            solved, right = solver(rows, targets, block, longest, diagonal)
            solutions[block] = solved
            explained += (solved * right).sum(dtype=torch.float64)
        unexplained = (rows.confidence * targets.square()).sum(dtype=torch.float64) - explained
        return solutions @ self._basis.T, float(unexplained)

    def _primal(
        self,
        rows: WeightedRows,
        targets: torch.Tensor,
        block: torch.Tensor,
        longest: int,
        diagonal: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        matrix, right = torch.diag_embed(diagonal), torch.zeros_like(diagonal)
        for start in range(0, longest, _COLUMNS_AT_ONCE):
            stop = min(start + _COLUMNS_AT_ONCE, longest)
            columns, confidence, target = rows.padded(block, start, stop, targets)
            vectors = self._vectors[columns]
            weighted = vectors * confidence[..., None]
            matrix.baddbmm_(weighted.mT, vectors)
            right += (target[:, None] @ weighted)[:, 0]
        factor = torch.linalg.cholesky(matrix)
        return torch.cholesky_solve(right[..., None], factor)[..., 0], right

    def _dual(
        self,
        rows: WeightedRows,
        targets: torch.Tensor,
        block: torch.Tensor,
        longest: int,
        diagonal: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        columns, confidence, target = rows.padded(block, 0, longest, targets)
        root = confidence.sqrt()
        rooted = (root * target)[..., None]
        vectors = self._vectors[columns] * root[..., None]
        scaled = vectors / diagonal[:, None, :]
        matrix = torch.baddbmm(torch.eye(longest, device=root.device), scaled, vectors.mT)
        factor = torch.linalg.cholesky(matrix)
        dual = torch.cholesky_solve(rooted, factor)
        return (scaled.mT @ dual)[..., 0], (vectors.mT @ rooted)[..., 0]


def _blocks(lengths: NDArray[np.int64], dim: int) -> list[tuple[NDArray[np.int64], int]]:
    """The rows that hold anything, in blocks of similar length and bounded size, each with its
    greatest length."""
    by_length = np.argsort(lengths, kind="stable")
    by_length = by_length[lengths[by_length] > 0]
    grades = np.floor(np.log(lengths[by_length]) / np.log(_PADDED))
    blocks = []
    for grade in np.split(by_length, np.flatnonzero(np.diff(grades)) + 1):
        if len(grade) == 0:
            continue
        longest = int(lengths[grade[-1]])
        wide, narrow = max(min(longest, _COLUMNS_AT_ONCE), dim), min(longest, dim)
        size = max(1, _FLOATS_AT_ONCE // (wide * dim + narrow * narrow))
        blocks += [(grade[at : at + size], longest) for at in range(0, len(grade), size)]
    return blocks
