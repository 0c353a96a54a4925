"""How often each history holds each item, for tests that compare with dense algebra."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from recsys.data.histories import Histories


def counts(histories: Histories, n_items: int) -> csr_matrix:
    """Float32 CSR [B, n_items]."""
    matrix = csr_matrix(
        (np.ones(len(histories.items), np.float32), histories.items, histories.offsets),
        shape=(len(histories), n_items),
    )
    matrix.sum_duplicates()
    return matrix
