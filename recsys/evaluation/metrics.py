"""Ranking metrics over the full catalogue, and bootstrap intervals for their means.

Everything starts from two things: what was recommended, Int64[B, k] item rows, best first, with
PADDING where fewer than k could be; and what each user turned out to take, the `targets`. Only
whole rankings are measured: metrics against a sample of negatives order models differently
(Krichene & Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020).

With R_u the distinct targets of user u (at least one) and hit_u(r) whether rank r (from 1) holds
one of them, at a cut-off k:

    recall    |hits in the first k| / |R_u|                      as trec_eval's recall.k
    hit_rate  1 if any of the first k is a hit                   = recall where |R_u| = 1
    ndcg      Σ_{r<=k} hit(r)/log2(r+1)  /  Σ_{r<=min(k,|R_u|)} 1/log2(r+1)     as ndcg_cut.k
    mrr       1 / the rank of the first hit in the first k, else 0       as recip_rank

and over all users together, with x_i how often item i is recommended in the first k:

    coverage  |{i: x_i > 0}| / N
    gini      Σ_i (2i - N - 1) x_(i) / (N Σ x), x_(1) <= .. <= x_(N): 0 when every item is shown
              alike, towards 1 when one item is all that is shown
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.histories import PADDING, Histories

_DRAWS_AT_ONCE = 4_000_000
"""How many bootstrap counts are held at a time: 32 MB."""

_GROUP_COST = 30
"""What a multinomial draw of one group costs, in plain draws of one user (measured)."""


class Ranking(NamedTuple):
    """The best k of every row, best first."""

    items: NDArray[np.int64]
    """Int64[B, k], PADDING where fewer than k items have a score above -inf."""
    scores: NDArray[np.float32]
    """Float32[B, k], -inf at the padding."""


def top_k(scores: NDArray[np.float32], k: int) -> Ranking:
    """The k highest of each row of scores Float32[B, N].

    Ties: of equal scores the lower item row comes first, so the answer is a function of the
    scores alone. An item scored -inf is never taken. Raises ValueError for a score that is NaN
    and for k < 1. O(B·N) time; the memory beside the answer is a mask of B·N bytes.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    n_rows, n_items = scores.shape
    taken = min(k, n_items)
    ranking = Ranking(
        np.full((n_rows, k), PADDING, np.int64), np.full((n_rows, k), -np.inf, np.float32)
    )
    if taken == 0 or n_rows == 0:
        return ranking
    # NaN sorts above every number, so one anywhere in a row shows in the partition's end.
    partitioned = np.partition(scores, n_items - taken, axis=1)[:, n_items - taken :]
    if np.isnan(partitioned).any():
        raise ValueError("a score is NaN: the model's vectors are not finite")
    candidates = scores >= partitioned[:, :1]
    candidates &= scores > -np.inf
    rows, items = np.nonzero(candidates)
    values = scores[rows, items]
    order = np.lexsort((items, -values, rows))
    counts = np.bincount(rows, minlength=n_rows)
    ranks = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = ranks < k
    order, ranks = order[first], ranks[first]
    ranking.items[rows[order], ranks] = items[order]
    ranking.scores[rows[order], ranks] = values[order]
    return ranking


def hits(recommended: NDArray[np.int64], targets: Histories) -> NDArray[np.bool_]:
    """Bool[B, k]: whether each recommended item is a target of its user.

    Raises ValueError where an item is recommended twice to one user, which would count twice.
    """
    if len(recommended) != len(targets):
        raise ValueError(f"{len(recommended)} recommendations for {len(targets)} users")
    span = 1 + max(recommended.max(initial=PADDING), targets.items.max(initial=PADDING))
    rows = np.arange(len(recommended), dtype=np.int64)[:, None]
    cells = np.where(recommended == PADDING, -1, rows * span + recommended)
    ordered = np.sort(cells, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("an item is recommended twice to the same user")
    return np.isin(cells, targets.rows() * span + targets.items)


def n_relevant(targets: Histories) -> NDArray[np.int64]:
    """Int64[B]: how many distinct targets each user has."""
    span = 1 + targets.items.max(initial=0)
    distinct = np.unique(targets.rows() * span + targets.items)
    return np.bincount(distinct // span, minlength=len(targets))


def recall(hit: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Float64[B] of hits Bool[B, >=k] and the number of targets Int64[B], each at least 1."""
    return np.asarray(hit[:, :k].sum(axis=1) / relevant, np.float64)


def hit_rate(hit: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Float64[B] of hits Bool[B, >=k]."""
    return np.asarray(hit[:, :k].any(axis=1), np.float64)


def ndcg(hit: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Float64[B] of hits Bool[B, >=k] and the number of targets Int64[B], each at least 1."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(relevant, k) - 1]
    gained = (hit[:, :k] * discounts[: hit.shape[1]]).sum(axis=1)
    return np.asarray(gained / ideal, np.float64)


def mrr(hit: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Float64[B] of hits Bool[B, >=k]."""
    first = hit[:, :k].argmax(axis=1)
    return np.where(hit[:, :k].any(axis=1), 1 / (first + 1), 0.0)


def mean_popularity(
    recommended: NDArray[np.int64], popularity: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Float64[B]: the mean training count of what each user is shown in the first k, 0 where
    that is nothing; popularity: Int64[N]."""
    shown = recommended[:, :k]
    real = shown != PADDING
    total = np.where(real, popularity[shown], 0).sum(axis=1)
    return np.asarray(total / np.maximum(real.sum(axis=1), 1), np.float64)


def exposure(recommended: NDArray[np.int64], n_items: int, k: int) -> NDArray[np.int64]:
    """Int64[N]: how often each item is recommended in the first k."""
    shown = recommended[:, :k]
    return np.bincount(shown[shown != PADDING], minlength=n_items)


def coverage(exposed: NDArray[np.int64]) -> float:
    """The share of the N items that anybody is shown, from 0 to 1."""
    return float(np.count_nonzero(exposed) / max(len(exposed), 1))


def gini(exposed: NDArray[np.int64]) -> float:
    """The inequality of the exposure Int64[N], from 0 to 1 - 1/N; 0 where nothing is shown."""
    n, total = len(exposed), exposed.sum()
    if total == 0:
        return 0.0
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(exposed)).sum() / (n * total))


def bootstrap(
    values: NDArray[np.float64], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap interval of the mean over users (Efron 1979), (low, high) Float64[M].

    values: Float64[B, M], M metrics of B users; the other arguments are those of
    `resampled_means`.
    """
    means = resampled_means(values, resamples=resamples, seed=seed)
    return interval(means, level)


def resampled_means(
    values: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Float64[resamples, M]: the means over users of values Float64[B, M], resampled.

    A resample draws B whole users with replacement, so the M means of a row belong together.
    Where few values are distinct, users with the same are drawn as one group of a multinomial,
    which is the same distribution: of leave-one-out metrics there are no more than k + 1 groups
    however many users. O(resamples · min(groups, B) · M).
    """
    groups, counts = np.unique(values, axis=0, return_counts=True)
    total = len(values)
    rng = np.random.default_rng(seed)
    if len(groups) * _GROUP_COST < total:
        at_once = max(1, _DRAWS_AT_ONCE // max(len(groups), 1))
        sums = np.concatenate(
            [
                rng.multinomial(total, counts / total, size=min(at_once, resamples - start))
                @ groups
                for start in range(0, resamples, at_once)
            ]
        )
    else:
        sums = np.stack([values[rng.integers(total, size=total)].sum(0) for _ in range(resamples)])
    return sums / total


def interval(
    resampled: NDArray[np.float64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle `level` of resampled values Float64[resamples, M], (low, high) Float64[M]."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high
