"""Many ridge regressions with one shared prior, improved together by conjugate gradients.

For each row u, with vectors f_j and confidences c_j of the columns that it holds, a Gramian G
shared by all rows and a ridge r_u > 0, a few steps towards the x that minimises

    Σ_j c_j (x·f_j - 1)²  +  xᵀG x  +  r_u |x|²,      (FᵀCF + G + r_u I) x = FᵀC1.

All rows step at once: the products (FᵀCF) p of all of them are one product of the sparse rows with
the vectors at the places that the rows hold, and one back. So a step costs O(J·D) a row of J
columns, where an exact solution costs O(J·D·min(J, D)), and no matrix is ever made. In the
eigenbasis of G the diagonal of every row's matrix is near all of it, which makes that diagonal a
good preconditioner (Takács, Pilászy & Tikk, RecSys 2011, use conjugate gradients without one).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.histories import Histories

TINY = torch.finfo(torch.float32).tiny


class SparseRows:
    """B ragged rows of columns and their confidences, as one sparse matrix."""

    def __init__(
        self,
        rows: Histories,
        confidence: NDArray[np.float32],
        n_columns: int,
        device: torch.device,
    ) -> None:
        """confidence: Float32[nnz] > 0, of the rows' items, which must differ within a row."""
        self.lengths = torch.from_numpy(rows.lengths).to(device)
        # The products want each row's columns in order.
        order = np.lexsort((rows.items, rows.rows()))
        self.confidence = torch.from_numpy(confidence[order]).to(device)
        self.confidence_sum = float(confidence.sum(dtype=np.float64))
        small = len(rows.items) < 2**31
        index = torch.int32 if small else torch.int64  # half the bytes to read
        self._offsets = torch.from_numpy(rows.offsets).to(device, index)
        self._columns = torch.from_numpy(rows.items[order]).to(device, index)
        self._shape = (len(rows), n_columns)
        self.matrix = self.with_values(self.confidence)

    def with_values(self, values: torch.Tensor) -> torch.Tensor:
        """The sparse matrix with these values Float32[nnz] at its places."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self._offsets, self._columns, values, self._shape, check_invariants=False
            )


def improve(
    rows: SparseRows,
    ridge: torch.Tensor,
    vectors: torch.Tensor,
    gramian: torch.Tensor,
    start: torch.Tensor,
    steps: int,
) -> tuple[torch.Tensor, float]:
    """The rows' vectors Float32[B, D] after so many steps, and the sum of what they minimise.

    ridge: Float32[B], each above 0; vectors: Float32[N, D], that columns point at; gramian:
    Float32[D, D], symmetric and positive semi-definite; start: Float32[B, D]. An empty row that
    starts at 0 stays there.
    """
    values, basis = torch.linalg.eigh(gramian.double())
    prior, basis = values.clamp(min=0).float() + ridge[:, None], basis.float()
    vectors, x = vectors @ basis, start @ basis
    right = rows.matrix @ vectors
    diagonal = (prior + rows.matrix @ vectors.square()).clamp_min(TINY)

    def times(p: torch.Tensor) -> torch.Tensor:
        products = torch.sparse.sampled_addmm(rows.matrix, p, vectors.T, beta=0.0).values()
        return torch.addcmul(rows.with_values(products * rows.confidence) @ vectors, prior, p)

    residual = right - times(x)
    direction = torch.zeros_like(x)
    before = torch.ones_like(x[:, :1])
    for _ in range(steps):
        preconditioned = residual / diagonal
        now = (residual * preconditioned).sum(1, keepdim=True)
        direction = torch.addcmul(preconditioned, now / before, direction)
        image = times(direction)
        size = now / (direction * image).sum(1, keepdim=True).clamp_min(TINY)
        x = torch.addcmul(x, size, direction)
        residual = torch.addcmul(residual, size, image, value=-1)
        before = now.clamp_min(TINY)
    # xᵀAx - 2 xᵀb + Σc, with Ax = b - residual.
    objective = rows.confidence_sum - (x * (right + residual)).sum(dtype=torch.float64)
    return x @ basis.T, float(objective)
