"""The bridge: from what an item is about to where it would lie in a collaborative space.

A model learns an item's vector v_i from its events. An item without any gets one from its content
x_i, the vectors that encoders made of its texts and pictures and a column for each tag
(`tag_columns`), by a ridge regression over the items that have events:

    minimise over W, b    Σ_i n_i |v_i - W x_i - b|²  +  λ n̄ |W|²

n_i, the item's events, weighs it: the fewer there are, the more its vector is noise. What will be
asked of a vector is its product with queries q, so λ is the one with the least

    Σ_i n_i E_q (q·v_i - q·v̂_i)²        v̂_i mapped by the bridge fitted without item i,

which the hat matrix gives in closed form for every λ (Allen's PRESS). Weighing the regression
itself by E[q qᵀ] would change nothing: the metric cancels from the normal equations.

A regression says less than the truth: mapped vectors vary less than learnt ones, and at the top of
a ranking of all items there would be none of them. So all get one step along the direction m in
which every query gains about the same (m minimises E(q·m - 1)²), just as far as makes the left-out
v̂_i stand among the first LISTED of the queries as often, all together, as the items' own v_i do.
The order among new items stays nearly as it is, and they take as many of the first places as so
many items with events would. Stretching the mapped vectors instead, to the variance of learnt ones,
was measured and costs the items with events more for the same (benchmarks/RESULTS.md).

O(N Dc²) time for content of dimension Dc, and N Dc D for each of LAMBDAS; memory is twice the
content's. Good at: what content tells, such as a genre, a period, a series. Bad at: how
popular an item will be, of which titles and tags tell little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.histories import Histories

LAMBDAS: Sequence[float] = np.logspace(-1, 4, 11).tolist()
"""The ridges to choose from."""

LISTED = 10
"""The first places of a list, in which new items get their share; a tenth of a small catalogue."""

_ROWS_AT_ONCE = 2**14
_SCORES_AT_ONCE = 2**24
"""How many scores are held at a time: 64 MB."""


class NoBridge(RecsysError):
    """There is too little to learn a bridge from."""


@dataclass(frozen=True, eq=False)
class Bridge:
    """A fitted bridge."""

    weights: NDArray[np.float32]
    """Float32[Dc, D]."""

    intercept: NDArray[np.float32]
    """Float32[D], with the step that calibrates."""

    def map(self, content: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32[M, D], the vectors of items by their content Float32[M, Dc]."""
        return content @ self.weights + self.intercept


@dataclass(frozen=True, eq=False)
class Fitted:
    """A bridge, and what is known of it from leaving items out."""

    bridge: Bridge

    left_out: NDArray[np.float32]
    """Float32[N, D]: the vector of each item as a bridge fitted without it would map it."""

    ridge: float
    """λ."""

    offset: float
    """How far the step goes: about what every query gains."""

    explained: float
    """Of the variance of scores, weighed by events, the share that left-out vectors explain."""


def fit(
    content: NDArray[np.float32],
    vectors: NDArray[np.float32],
    counts: NDArray[np.int64],
    queries: NDArray[np.float32],
    seen: Histories,
) -> Fitted:
    """Learn the bridge from `content` Float32[N, Dc] to `vectors` Float32[N, D].

    counts: Int64[N], the events that each vector was learnt from; one of none is not learnt from.
    queries: Float32[Q, D], of histories as they will ask; some hundreds are enough. seen: the Q
    histories, which do not ask for what they hold.
    Raises NoBridge where fewer than two items have events or no query says anything, and
    ValueError where the shapes do not agree.
    """
    if not len(content) == len(vectors) == len(counts):
        raise ValueError(f"{len(content)} contents, {len(vectors)} vectors, {len(counts)} counts")
    if len(queries) != len(seen) or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries {queries.shape} of {len(seen)} histories, {vectors.shape[1]} D")
    warm = np.flatnonzero(counts > 0)
    if len(warm) < 2:
        raise NoBridge(
            f"a bridge learns from items that have both content and events, and {len(warm)} of "
            f"{len(counts)} have: embed the items that the model was trained on"
        )
    asking = np.flatnonzero(queries.any(axis=1))
    if len(asking) == 0:
        raise NoBridge("every query is zero: give histories that the model knows items of")
    q = queries[asking].astype(np.float64)
    metric, mean = q.T @ q / len(q), q.mean(axis=0)
    regression = _Regression(content[warm], vectors[warm], counts[warm].astype(np.float64))
    errors = regression.errors(LAMBDAS, metric)
    ridge = LAMBDAS[int(np.argmin(errors))]
    weights, intercept = regression.solution(ridge)
    left_out = content @ weights.astype(np.float32) + intercept.astype(np.float32)
    left_out[warm] = regression.left_out(ridge)
    direction = np.linalg.lstsq(metric, mean, rcond=1e-9)[0]
    row_of = np.full(len(counts), -1)
    row_of[warm] = np.arange(len(warm))
    offset = _offset(
        vectors[warm], left_out[warm], direction, queries[asking], seen.take(asking).renamed(row_of)
    )
    step = offset * direction
    return Fitted(
        bridge=Bridge(weights.astype(np.float32), (intercept + step).astype(np.float32)),
        left_out=left_out + step.astype(np.float32),
        ridge=ridge,
        offset=offset,
        explained=1
        - float(errors.min()) / max(regression.variance(metric), np.finfo(np.float64).tiny),
    )


class _Regression:
    """The weighted ridge regressions of vectors on content, of all ridges at once.

    With one eigendecomposition of the content's covariance, each ridge is a division.
    """

    def __init__(
        self,
        content: NDArray[np.float32],
        vectors: NDArray[np.float32],
        counts: NDArray[np.float64],
    ) -> None:
        self._content, self._vectors = content, vectors
        self._w = counts / counts.mean()
        self._share = self._w / self._w.sum()
        self._center = self._share @ content
        self._mean = self._share @ vectors
        dim = content.shape[1]
        covariance, cross = np.zeros((dim, dim)), np.zeros((dim, vectors.shape[1]))
        for part in _parts(len(content)):
            x, v = content[part] - self._center, vectors[part] - self._mean
            weighted = x * self._w[part, None]
            covariance += weighted.T @ x
            cross += weighted.T @ v
        values, self._basis = np.linalg.eigh(covariance)
        self._values = np.maximum(values, 0)
        self._cross = self._basis.T @ cross

    def solution(self, ridge: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """W as Float64[Dc, D] and b as Float64[D]."""
        weights = self._basis @ (self._cross / (self._values + ridge)[:, None])
        return weights, self._mean - self._center @ weights

    def left_out(self, ridge: float) -> NDArray[np.float32]:
        """Float32[N, D]: each item by the regression without it, under the same penalty."""
        parts = [self._vectors[part] - r for part, (r,) in self._residuals([ridge])]
        return np.concatenate(parts).astype(np.float32)

    def errors(self, ridges: Sequence[float], metric: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each ridge, Σ w (v - v̂)ᵀ metric (v - v̂) over the left-out vectors."""
        errors = np.zeros(len(ridges))
        for part, residuals in self._residuals(ridges):
            errors += [self._weighed(part, residual, metric) for residual in residuals]
        return errors

    def variance(self, metric: NDArray[np.float64]) -> float:
        """The same of the mean instead of the left-out vectors."""
        return sum(
            self._weighed(part, self._vectors[part] - self._mean, metric)
            for part in _parts(len(self._vectors))
        )

    def _residuals(
        self, ridges: Sequence[float]
    ) -> Iterator[tuple[slice, Iterator[NDArray[np.float64]]]]:
        """For a run of the items, v - v̂ by each ridge."""
        for part in _parts(len(self._content)):
            z = (self._content[part] - self._center) @ self._basis
            yield part, (self._residual(part, z, ridge) for ridge in ridges)

    def _residual(self, part: slice, z: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
        shrunk = 1 / (self._values + ridge)
        leverage = self._share[part] + self._w[part] * (z * z @ shrunk)
        residual = self._vectors[part] - self._mean - z @ (self._cross * shrunk[:, None])
        return np.asarray(residual / (1 - leverage)[:, None])

    def _weighed(
        self, part: slice, residual: NDArray[np.float64], metric: NDArray[np.float64]
    ) -> float:
        return float(self._w[part] @ np.einsum("nd,nd->n", residual @ metric, residual))


def _offset(
    vectors: NDArray[np.float32],
    left_out: NDArray[np.float32],
    direction: NDArray[np.float64],
    queries: NDArray[np.float32],
    seen: Histories,
) -> float:
    """The step along the direction with which left-out vectors are listed as often as learnt ones.

    A left-out vector of item i is listed for the query q from the step (τ - q·v̂_i) / (q·m) on, τ
    the last listed score of learnt vectors; so the wanted step is a quantile of those.
    """
    n = len(vectors)
    listed = min(LISTED, -(-n // 10))
    gains = np.maximum(queries @ direction, 1e-3)
    wanted = listed * len(queries)
    least = np.empty(0)
    at_once = max(1, _SCORES_AT_ONCE // n)
    for start in range(0, len(queries), at_once):
        some = slice(start, min(start + at_once, len(queries)))
        histories = seen.slice(some.start, some.stop)
        scores = queries[some] @ vectors.T
        scores[histories.rows(), histories.items] = -np.inf
        last = np.partition(scores, n - listed, axis=1)[:, n - listed]
        steps = (last[:, None] - queries[some] @ left_out.T) / gains[some, None]
        steps[histories.rows(), histories.items] = np.inf
        least = np.concatenate([least, steps.ravel()])
        least = np.partition(least, min(wanted, len(least)) - 1)[:wanted]
    finite = least[np.isfinite(least)]
    if len(finite) == 0:
        raise NoBridge("every history holds nearly all items: none is left to recommend")
    return float(finite.max())


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS_AT_ONCE, n)) for start in range(0, n, _ROWS_AT_ONCE))
