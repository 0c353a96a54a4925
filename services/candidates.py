"""Candidates: which rows of a shelf may answer a request, and a search shared by a whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.vocabulary import UNKNOWN
from recsys.retrieval.index import Index
from services.schemas import RecommendRequest
from services.shelf import Shelf

OVERFETCH = 1024
"""Up to this many excluded items are searched for and then dropped, so that queries share one
search; more of them are taken out of the search itself."""

Ranking = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows of one answer, best first."""


@dataclass(frozen=True)
class Candidates:
    """Which rows may answer a request."""

    k: int
    excluded: NDArray[np.int64]
    """Int64[e], distinct rows to drop from what is found."""

    own: NDArray[np.bool_] | None
    """Bool[N], for a request that is searched by itself: all it allows, nothing excluded left."""

    @classmethod
    def of(
        cls,
        shelf: Shelf,
        available: NDArray[np.bool_],
        request: RecommendRequest,
        k: int,
        seen: NDArray[np.int64],
        passes: NDArray[np.bool_] | None,
    ) -> Candidates:
        """The shelf's.

        available: Bool[N], the rows that may be found at all. seen: the rows of the history.
        passes: Bool[N], the rows that pass the request's filters; None where it has none.
        """
        excluded = shelf.known(request.deny)
        if request.exclude_seen:
            excluded = np.union1d(excluded, seen)
        own = None
        if request.allow is not None:
            own = np.zeros(len(shelf), np.bool_)
            own[shelf.known(request.allow)] = True
        if passes is not None:
            own = passes if own is None else own & passes
        if own is None and len(excluded) > OVERFETCH:
            own = np.ones(len(shelf), np.bool_)
        if own is not None:
            own = own & available
            own[excluded] = False
            excluded = np.empty(0, np.int64)
        return cls(k, excluded, own)


def search(
    index: Index,
    vectors: NDArray[np.float32],
    wanted: Mapping[int, Candidates],
    available: NDArray[np.bool_] | None,
) -> dict[int, Ranking]:
    """The ranking of each query in `wanted`, whose vector is `vectors[i]`.

    available: Bool[N], the rows that may be found at all; None where all may.
    Queries of like size share a search. The size that a query is searched with depends on nothing
    but itself, so its answer does too.
    """
    shared: dict[int, list[int]] = {}
    rankings: dict[int, Ranking] = {}
    for i, one in wanted.items():
        if one.own is None:
            shared.setdefault(_ceiling(one.k + len(one.excluded)), []).append(i)
        else:
            scores, rows = index.search(vectors[i : i + 1], one.k, one.own)
            rankings[i] = cut(scores[0], rows[0], one.k)
    n = len(index)
    for size, group in shared.items():
        scores, rows = index.search(vectors[group], min(size, n), available)
        keys = np.arange(len(group))[:, None] * n + rows
        excluded = [wanted[i].excluded + at * n for at, i in enumerate(group)]
        rows = np.where(np.isin(keys, np.concatenate(excluded)), UNKNOWN, rows)
        for at, i in enumerate(group):
            rankings[i] = cut(scores[at], rows[at], wanted[i].k)
    return rankings


def cut(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Ranking:
    """The first k that are rows."""
    kept = np.flatnonzero(rows != UNKNOWN)[:k]
    return scores[kept], rows[kept]


def _ceiling(n: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (n - 1).bit_length())
