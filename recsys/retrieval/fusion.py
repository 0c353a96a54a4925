"""Fusion: the rankings of several spaces as one, by weighted reciprocal rank.

    score(row) = Σ_s  weight_s / (constant + place_s(row))       over the rankings that hold the row

with places from 1 (Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and
individual rank learning methods", SIGIR 2009, where every weight is 1 and the constant 60). It
looks at places only, so it joins spaces whose scores have nothing to do with each other, and it
cannot know that one space is sure of itself where another guesses: that is what the weights are
for, once for all queries. The larger the constant, the more agreement counts and the less the
first places do.

O(n log n) time for n rows in all the rankings together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.retrieval.index import NO_ROW

CONSTANT = 60.0
"""What the paper found on pilot data and kept."""


def fuse(
    rankings: Sequence[NDArray[np.int64]],
    weights: Sequence[float] | None = None,
    *,
    k: int,
    constant: float = CONSTANT,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores Float32[B, k] and rows Int64[B, k], best first and by row where scores are equal.

    rankings: of each space Int64[B, any], rows best first, as `Index.search` returns them. NO_ROW
    takes no place, and a row that stands twice counts at its better one.
    weights: of each ranking, 1 where they are left out. One of weight 0 adds no row either.
    Where the rankings hold fewer than k rows, the rest is NO_ROW and -inf. A query's answer does
    not depend on the others in the batch, nor on the order of the rankings.
    Raises ValueError for rankings of different batches, and for a weight, k or constant below
    what makes sense.
    """
    weights = [1.0] * len(rankings) if weights is None else list(weights)
    _check(rankings, weights, k, constant)
    n_queries = len(rankings[0])
    span = 1 + max(int(ranking.max(initial=NO_ROW)) for ranking in rankings)
    cells, gains = [], []
    for ranking, weight in zip(rankings, weights, strict=True):
        if weight == 0:
            continue
        real = ranking != NO_ROW
        query, _ = np.nonzero(real)
        distinct, first = np.unique(query * span + ranking[real], return_index=True)
        cells.append(distinct)
        gains.append(weight / (constant + np.cumsum(real, axis=1)[real][first]))
    scores = np.full((n_queries, k), -np.inf, np.float32)
    rows = np.full((n_queries, k), NO_ROW, np.int64)
    if not cells:
        return scores, rows
    fused, member = np.unique(np.concatenate(cells), return_inverse=True)
    # Rounded before they are compared: in which order a score was added up must not break a tie.
    gained = np.bincount(member, np.concatenate(gains), len(fused)).astype(np.float32)
    query, row = fused // max(span, 1), fused % max(span, 1)
    order = np.lexsort((row, -gained, query))
    counts = np.bincount(query, minlength=n_queries)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, place = order[place < k], place[place < k]
    scores[query[order], place] = gained[order]
    rows[query[order], place] = row[order]
    return scores, rows


def reciprocal_rank_fusion(
    rankings: Sequence[NDArray[np.int64]],
    weights: Sequence[float] | None = None,
    *,
    k: int,
    constant: float = CONSTANT,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores Float32[k'] and rows Int64[k'] of one query, k' <= k: `fuse` without its padding.

    rankings: of each space Int64[any]. The other arguments and the errors are those of `fuse`.
    """
    scores, rows = fuse([np.atleast_2d(each) for each in rankings], weights, k=k, constant=constant)
    found = rows[0] != NO_ROW
    return scores[0, found], rows[0, found]


def _check(
    rankings: Sequence[NDArray[np.int64]], weights: Sequence[float], k: int, constant: float
) -> None:
    if not rankings:
        raise ValueError("there is no ranking to fuse")
    if len({len(ranking) for ranking in rankings}) > 1 or any(each.ndim != 2 for each in rankings):
        shapes = ", ".join(str(ranking.shape) for ranking in rankings)
        raise ValueError(
            f"every ranking must be of the same queries, but their shapes are {shapes}"
        )
    if len(weights) != len(rankings):
        raise ValueError(f"there are {len(weights)} weights for {len(rankings)} rankings")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"a weight must be a number of at least 0, but they are {weights}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if not constant >= 0:
        raise ValueError(f"the constant must be at least 0, not {constant}")
