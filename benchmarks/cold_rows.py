"""The rows of `cold_start.py`: a way of ranking, asked all questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cold_items import ColdItems
from recsys.evaluation.metrics import top_k

K, SHOWN = 50, 10
QUESTIONS_AT_ONCE = 1000

Scorer = Callable[[slice], NDArray[np.float32]]
"""Float32[b, N], the scores for a run of the questions."""


@dataclass(frozen=True, eq=False)
class Row:
    """How one way of ranking did."""

    name: str

    users: NDArray[np.int64]
    """Int64[B], who asked."""

    full: NDArray[np.bool_]
    """Bool[B]: whether the target was among the first K of the full catalogue."""

    among_new: NDArray[np.bool_]
    """Bool[B]: whether it was among the first K of the new items."""

    share: NDArray[np.float64]
    """Float64[B]: which share of the first SHOWN of the full catalogue were new items."""

    others: NDArray[np.float64] | None = None
    """The recall of other items without and with the new ones in the ranking."""


def asked(name: str, cold: ColdItems, scorer: Scorer) -> Row:
    """Rank for every question."""
    full, among_new, share = [], [], []
    for some in runs(len(cold.targets)):
        scores, histories = scorer(some), cold.histories.slice(some.start, some.stop)
        scores[histories.rows(), histories.items] = -np.inf
        scores[:, ~cold.ranked] = -np.inf
        first = top_k(scores, K).items
        full.append((first == cold.targets[some, None]).any(axis=1))
        share.append(cold.new[first[:, :SHOWN]].mean(axis=1))
        scores[:, ~cold.new] = -np.inf
        among_new.append((top_k(scores, K).items == cold.targets[some, None]).any(axis=1))
    return Row(name, cold.users, *(np.concatenate(each) for each in (full, among_new, share)))


def together(rows: Sequence[Row]) -> Row:
    """The same way of ranking in several draws of new items."""
    others = [row.others for row in rows if row.others is not None]
    return Row(
        rows[0].name,
        np.concatenate([row.users for row in rows]),
        np.concatenate([row.full for row in rows]),
        np.concatenate([row.among_new for row in rows]),
        np.concatenate([row.share for row in rows]),
        np.mean(others, axis=0) if others else None,
    )


def runs(n: int) -> Iterator[slice]:
    """0 .. n in runs."""
    return (
        slice(start, min(start + QUESTIONS_AT_ONCE, n)) for start in range(0, n, QUESTIONS_AT_ONCE)
    )
