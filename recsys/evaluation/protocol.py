"""The protocol: a model ranks the full catalogue for every held-out user, and is measured.

There is one way from a model to numbers, so that numbers compare: queries from the histories,
scores of *all* items by one matrix product, seen items masked (or not, and it is said), the top
k by score and then by row, and the metrics of `metrics.py` over users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.data.split import Holdout
from recsys.evaluation import metrics
from recsys.evaluation.report import Estimate, Report
from recsys.models.model import Alone, Model, Workers

_SCORES_AT_ONCE = 2**24
"""How many scores are held at a time: 64 MB."""

_LEVEL = 0.95

Learnt = Literal["train", "train and validation"]
"""The parts of the split that a model was fitted to."""


def evaluate(
    model: Model,
    holdout: Holdout,
    *,
    protocol: str,
    popularity: NDArray[np.int64],
    learnt: Learnt = "train",
    ks: Sequence[int] = (10,),
    mask_seen: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Rank the full catalogue for every user of the holdout and measure it at each cut-off.

    protocol: the split's name, as the report shall state it. popularity: Int64[N], how often
    each item stands in the histories that were learnt, of the parts `learnt`. progress is called
    with (users done, users). Raises ValueError if the model has another number of items than
    `popularity`, or the holdout has no user. O(users · N · D) time; memory beside the vectors is
    bounded.
    """
    n_items = len(popularity)
    if len(model.item_vectors) != n_items:
        raise ValueError(f"the model has {len(model.item_vectors)} items, the data {n_items}")
    if len(holdout.users) == 0:
        raise ValueError("the holdout has no user to measure on")
    parts = []
    for done, part in _rankings(model, holdout.histories, max(ks), mask_seen=mask_seen):
        parts.append(part)
        if progress is not None:
            progress(done, len(holdout.users))
    return assess(
        np.concatenate(parts),
        holdout,
        protocol=protocol,
        popularity=popularity,
        learnt=learnt,
        ks=ks,
        mask_seen=mask_seen,
        resamples=resamples,
        seed=seed,
    )


def assess(
    recommended: NDArray[np.int64],
    holdout: Holdout,
    *,
    protocol: str,
    popularity: NDArray[np.int64],
    learnt: Learnt = "train",
    ks: Sequence[int] = (10,),
    mask_seen: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Measure recommendations Int64[B, >= max(ks)] that anything made for the holdout's users.

    The other arguments are those of `evaluate`; `mask_seen` only states what was done.
    """
    n_items = len(popularity)
    hit = metrics.hits(recommended, holdout.targets)
    relevant = metrics.n_relevant(holdout.targets)
    per_user: dict[str, NDArray[np.float64]] = {}
    overall: dict[str, float] = {}
    for k in ks:
        exposed = metrics.exposure(recommended, n_items, k)
        per_user[f"recall@{k}"] = metrics.recall(hit, relevant, k)
        if relevant.max() > 1:  # with one target each, the hit rate is the recall
            per_user[f"hit_rate@{k}"] = metrics.hit_rate(hit, k)
        per_user[f"ndcg@{k}"] = metrics.ndcg(hit, relevant, k)
        per_user[f"mrr@{k}"] = metrics.mrr(hit, k)
        overall[f"coverage@{k}"] = metrics.coverage(exposed)
        overall[f"gini@{k}"] = metrics.gini(exposed)
        per_user[f"mean_popularity@{k}"] = metrics.mean_popularity(recommended, popularity, k)
    intervals = {
        name: metrics.bootstrap(values[:, None], resamples=resamples, level=_LEVEL, seed=seed)
        for name, values in per_user.items()
    }
    estimates = {
        name: Estimate(value=float(values.mean()), low=float(low[0]), high=float(high[0]))
        for (name, values), (low, high) in zip(per_user.items(), intervals.values(), strict=True)
    }
    estimates |= {name: Estimate(value=value) for name, value in overall.items()}
    in_order = [f"{name}@{k}" for k in ks for name in _ORDER if f"{name}@{k}" in estimates]
    return Report(
        metrics={name: estimates[name] for name in in_order},
        protocol={
            "split": protocol,
            "learnt": learnt,
            "ranking": "full catalogue",
            "seen_masked": mask_seen,
            "users": len(holdout.users),
            "items": n_items,
            "targets": len(holdout.targets.items),
            "targets_already_seen": _already_seen(holdout, n_items),
            "ties": "lower item row first",
            "interval": f"{_LEVEL:.0%} bootstrap over users, {resamples} resamples",
        },
    )


_ORDER = ("recall", "hit_rate", "ndcg", "mrr", "coverage", "gini", "mean_popularity")


def validate(
    model: Model,
    holdout: Holdout,
    workers: Workers | None = None,
    *,
    k: int = 10,
    mask_seen: bool = True,
) -> dict[str, float]:
    """`ndcg@k` and `recall@k` over the holdout, shared out over the workers; what training runs
    after each epoch.

    Each worker ranks every `size`-th user and the sums are added up, so every worker returns
    the same, which is what one alone would.
    """
    workers = workers or Alone()
    own = np.arange(workers.rank, len(holdout.users), workers.size)
    histories, targets = holdout.histories.take(own), holdout.targets.take(own)
    sums = np.zeros(3)
    start = 0
    for stop, part in _rankings(model, histories, k, mask_seen=mask_seen):
        some = targets.slice(start, stop)
        hit, relevant = metrics.hits(part, some), metrics.n_relevant(some)
        recalls, ndcgs = metrics.recall(hit, relevant, k), metrics.ndcg(hit, relevant, k)
        sums += (recalls.sum(), ndcgs.sum(), len(some))
        start = stop
    recall, ndcg, users = workers.sum(torch.from_numpy(sums)).tolist()
    return {f"ndcg@{k}": ndcg / max(users, 1), f"recall@{k}": recall / max(users, 1)}


def _rankings(
    model: Model, histories: Histories, k: int, *, mask_seen: bool
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The top k item rows of the histories, a chunk at a time, after how many are done."""
    vectors = model.item_vectors
    chunk = max(1, _SCORES_AT_ONCE // max(len(vectors), 1))
    for start in range(0, len(histories), chunk):
        some = histories.slice(start, min(start + chunk, len(histories)))
        scores = model.query_vectors(some) @ vectors.T
        if mask_seen:
            scores[some.rows(), some.items] = -np.inf
        yield start + len(some), metrics.top_k(scores, k).items


def _already_seen(holdout: Holdout, n_items: int) -> int:
    """How many targets stand in their own user's history: out of reach once seen are masked."""
    seen = holdout.histories.rows() * n_items + holdout.histories.items
    wanted = holdout.targets.rows() * n_items + holdout.targets.items
    return int(np.isin(wanted, seen).sum())
