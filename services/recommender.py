"""Recommender: queries in, recommendations out, always a batch and nothing but the batch.

It knows no user, no Redis and no HTTP. Histories come resolved to item ids; a query is turned into
a vector of its model's space and the space's index is searched. What the model cannot answer is
answered from popularity, which is a space of one dimension, and the reply says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.data.histories import Histories
from recsys.data.vocabulary import UNKNOWN
from recsys.retrieval.index import Index
from recsys.retrieval.rules import Rules
from services.problems import Invalid, ServiceError, UnknownItem, UnknownModel
from services.schemas import (
    DEFAULT_K,
    Fallback,
    FallbackReason,
    FieldError,
    Recommendation,
    RecommendReply,
    RecommendRequest,
    SimilarReply,
)

POPULARITY = "popularity"

OVERFETCH = 1024
"""Up to this many excluded items are searched for and then dropped, so that queries share one
search; more of them are taken out of the search itself."""

Ranking = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows of one answer, best first."""


@dataclass(frozen=True)
class Query:
    """A request whose history is at hand."""

    request: RecommendRequest
    history: Sequence[str]
    """Item ids, oldest first: the request's own, else the user's stored one, else none."""

    unavailable: bool = False
    """Whether the user's stored history could not be read, and is not in `history` for that."""


class Recommender:
    """The models in service, by name. Pure: nothing changes between calls."""

    def __init__(self, bundles: Mapping[str, Bundle], default: str) -> None:
        """`default` answers requests that name no model; raises ValueError if it is none of
        `bundles`."""
        if default not in bundles:
            raise ValueError(f"the default model {default!r} is none of {', '.join(bundles)}")
        self.bundles = dict(bundles)
        self.default = default
        self._served = {name: _Served(name, bundle) for name, bundle in bundles.items()}

    def recommend(self, queries: Sequence[Query]) -> list[RecommendReply | ServiceError]:
        """One answer for each query, or the reason why it has none; no query's answer depends on
        the others."""
        answers: dict[int, RecommendReply | ServiceError] = {}
        groups: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            try:
                served = self._model(query.request.model)
                served.check_k(query.request.k)
            except ServiceError as error:
                answers[i] = error
            else:
                groups.setdefault(served.name, []).append(i)
        for name, group in groups.items():
            replies = self._served[name].recommend([queries[i] for i in group])
            answers.update(zip(group, replies, strict=True))
        return [answers[i] for i in range(len(queries))]

    def similar(self, item_id: str, k: int | None = None, model: str | None = None) -> SimilarReply:
        """The k items most similar to one, by the cosine of their vectors, in one exact pass.

        Raises UnknownModel, UnknownItem, or Invalid where k is not from 1 to the catalogue's size.
        """
        served = self._model(model)
        served.check_k(k)
        return served.similar(item_id, served.size(k))

    def _model(self, name: str | None) -> _Served:
        served = self._served.get(self.default if name is None else name)
        if served is None:
            raise UnknownModel(
                f"there is no model {name!r} in service; there are {', '.join(self._served)}"
            )
        return served


class _Served:
    """A bundle with what is laid out once for all its answers."""

    def __init__(self, name: str, bundle: Bundle) -> None:
        self.name = name
        self._bundle = bundle
        self._n = len(bundle.items)
        self._rules = Rules(bundle.catalogue)
        self._available = None if self._rules.available.all() else self._rules.available
        self._ids: pa.Array = bundle.items.to_arrow()
        self._titles: pa.Array = bundle.catalogue["title"].combine_chunks()
        self._lengths = np.linalg.norm(bundle.vectors, axis=1)
        counts = bundle.popularity.astype(np.float64)
        shares = (counts / max(counts.max(), 1)).astype(np.float32)[:, None]
        self._popularity = Index.build(shares, exact_below=self._n + 1)

    def check_k(self, k: int | None) -> None:
        if k is not None and not 1 <= k <= self._n:
            message = f"must be from 1 to {self._n}, the number of items in the catalogue, not {k}"
            raise Invalid(f"k: {message}", [FieldError(field="k", message=message)])

    def size(self, k: int | None) -> int:
        """How many items to answer with."""
        return min(DEFAULT_K, self._n) if k is None else k

    def recommend(self, queries: Sequence[Query]) -> list[RecommendReply]:
        lengths = np.array([len(query.history) for query in queries], np.int64)
        ids = list(chain.from_iterable(query.history for query in queries))
        rows = self._bundle.items.rows(ids)
        known = rows != UNKNOWN
        owner = np.repeat(np.arange(len(queries)), lengths)
        known_lengths = np.bincount(owner[known], minlength=len(queries))
        histories = Histories.from_lengths(known_lengths, rows[known])
        unknown: dict[int, dict[str, None]] = {}  # a dict, for each id once and in order
        for i in np.flatnonzero(~known).tolist():
            unknown.setdefault(int(owner[i]), {})[ids[i]] = None

        vectors = self._bundle.model.query_vectors(histories)
        told = np.any(vectors != 0, axis=1) & (known_lengths > 0)
        candidates = [
            self._candidates(query.request, histories[i]) for i, query in enumerate(queries)
        ]
        rankings: dict[int, Ranking] = {}
        for answering, index, inputs in (
            (np.flatnonzero(told), self._bundle.index, vectors),
            (np.flatnonzero(~told), self._popularity, np.ones((len(queries), 1), np.float32)),
        ):
            wanted = {i: candidates[i] for i in answering.tolist()}
            rankings.update(self._search(index, inputs, wanted))
        spaces = [self._bundle.manifest.kind if t else POPULARITY for t in told.tolist()]
        items = self._items([(rankings[i], space) for i, space in enumerate(spaces)])
        return [
            RecommendReply(
                items=items[i],
                model=self.name,
                version=self._bundle.version,
                user_id=query.request.user_id,
                fallback=None if told[i] else _why_popularity(query),
                unknown_items=list(unknown.get(i, ())),
            )
            for i, query in enumerate(queries)
        ]

    def similar(self, item_id: str, k: int) -> SimilarReply:
        row = int(self._bundle.items.rows([item_id])[0])
        if row == UNKNOWN:
            raise UnknownItem(f"there is no item {item_id!r} in the model {self.name!r}")
        may = self._rules.available.copy()
        may[row] = False
        fallback = None
        space = self._bundle.manifest.kind
        vectors = self._bundle.vectors
        if self._lengths[row] == 0 or vectors.shape[1] == 1:  # one dimension has no directions
            detail = (
                f"the model {self.name!r} cannot tell what is similar to {item_id!r}; these are "
                "the most popular items"
            )
            fallback = Fallback(reason=FallbackReason.UNTOLD_ITEM, detail=detail)
            space = POPULARITY
            ones = np.ones((1, 1), np.float32)
            found = self._popularity.search(ones, k, may)
            scores, rows = _cut(found[0][0], found[1][0], k)
        else:
            may &= self._lengths > 0
            at = np.flatnonzero(may)
            cosines = (vectors @ vectors[row])[at] / (self._lengths[at] * self._lengths[row])
            best = np.lexsort((at, -cosines))[:k]
            scores, rows = cosines[best], at[best]
        return SimilarReply(
            item_id=item_id,
            items=self._items([((scores, rows), space)])[0],
            model=self.name,
            version=self._bundle.version,
            fallback=fallback,
        )

    def _candidates(self, request: RecommendRequest, seen: NDArray[np.int64]) -> _Candidates:
        """What the request allows and excludes, in rows."""
        excluded = self._known(request.deny)
        if request.exclude_seen:
            excluded = np.union1d(excluded, seen)
        own = None
        if request.allow is not None:
            own = np.zeros(self._n, np.bool_)
            own[self._known(request.allow)] = True
        if request.filters is not None:
            bearing = self._rules.bearing(request.filters.tags)
            own = bearing if own is None else own & bearing
        if own is None and len(excluded) > OVERFETCH:
            own = np.ones(self._n, np.bool_)
        if own is not None:
            own &= self._rules.available
            own[excluded] = False
            excluded = np.empty(0, np.int64)
        return _Candidates(self.size(request.k), excluded, own)

    def _known(self, ids: Sequence[str]) -> NDArray[np.int64]:
        rows = self._bundle.items.rows(ids)
        known: NDArray[np.int64] = rows[rows != UNKNOWN]
        return known

    def _search(
        self, index: Index, vectors: NDArray[np.float32], wanted: Mapping[int, _Candidates]
    ) -> dict[int, Ranking]:
        """The ranking of each query in `wanted`, whose vector is `vectors[i]`.

        Queries of like size share a search. The size that a query is searched with depends on
        nothing but itself, so its answer does too.
        """
        shared: dict[int, list[int]] = {}
        rankings: dict[int, Ranking] = {}
        for i, one in wanted.items():
            if one.own is None:
                shared.setdefault(_ceiling(one.k + len(one.excluded)), []).append(i)
            else:
                scores, rows = index.search(vectors[i : i + 1], one.k, one.own)
                rankings[i] = _cut(scores[0], rows[0], one.k)
        for size, group in shared.items():
            scores, rows = index.search(vectors[group], min(size, self._n), self._available)
            keys = np.arange(len(group))[:, None] * self._n + rows
            excluded = [wanted[i].excluded + at * self._n for at, i in enumerate(group)]
            rows = np.where(np.isin(keys, np.concatenate(excluded)), UNKNOWN, rows)
            for at, i in enumerate(group):
                rankings[i] = _cut(scores[at], rows[at], wanted[i].k)
        return rankings

    def _items(self, rankings: Sequence[tuple[Ranking, str]]) -> list[list[Recommendation]]:
        """The items of all rankings of a batch, each with its space; named in one look-up."""
        rows = pa.array(np.concatenate([rows for (_, rows), _ in rankings]))
        scores = np.concatenate([scores for (scores, _), _ in rankings]).tolist()
        ids, titles = self._ids.take(rows).to_pylist(), self._titles.take(rows).to_pylist()
        lists, start = [], 0
        for (_, found), space in rankings:
            stop = start + len(found)
            lists.append(
                [
                    Recommendation(item_id=ids[i], title=titles[i], score=scores[i], space=space)
                    for i in range(start, stop)
                ]
            )
            start = stop
        return lists


@dataclass(frozen=True)
class _Candidates:
    """Which items may answer a request."""

    k: int
    excluded: NDArray[np.int64]
    """Int64[e], distinct rows to drop from what is found."""

    own: NDArray[np.bool_] | None
    """Bool[N], for a request that is searched by itself: all it allows, nothing excluded left."""


def _ceiling(n: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (n - 1).bit_length())


def _cut(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Ranking:
    """The first k that are rows."""
    kept = np.flatnonzero(rows != UNKNOWN)[:k]
    return scores[kept], rows[kept]


def _why_popularity(query: Query) -> Fallback:
    request = query.request
    if query.history:
        reason = FallbackReason.NO_KNOWN_ITEM
        why = "the model learned nothing about any item of the history"
    elif query.unavailable:
        reason = FallbackReason.HISTORY_UNAVAILABLE
        why = f"the history of the user {request.user_id!r} cannot be read just now"
    elif request.user_id is not None:
        reason = FallbackReason.UNKNOWN_USER
        why = f"there is no history of the user {request.user_id!r}"
    elif request.history is not None:
        reason = FallbackReason.EMPTY_HISTORY
        why = "the history is empty"
    else:
        reason = FallbackReason.NO_USER
        why = "the request names neither a user nor a history"
    return Fallback(reason=reason, detail=f"{why}; these are the most popular items")
