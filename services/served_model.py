"""A model in service: histories in, what it recommends out, with all that lies over its bundle.

Items that it never learnt, be they in the bundle's catalogue or not, have the vectors that a bridge
gives them by their contents, where there is one (`cold_items.py`); what was put or deleted since is
laid over all. What the model cannot answer is answered by what resembles the history's items in a
content space, where one knows them, else from popularity, which is a space of one dimension; the
reply says so.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.histories import Histories
from recsys.data.vocabulary import UNKNOWN
from services.candidates import Candidates, Ranking, cut, search
from services.cold_items import ColdItems
from services.filter_schemas import Filters
from services.live_catalogue import LiveCatalogue
from services.popularity import POPULARITY
from services.problems import Invalid, UnknownItem
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
from services.searcher import Searcher
from services.shelf import Shelf, flat, passing

RECENT = 10
"""The newest items of a history that an answer by their contents starts from."""


@dataclass(frozen=True)
class Query:
    """A request whose history is at hand."""

    request: RecommendRequest
    history: Sequence[str]
    """Item ids, oldest first: the request's own, else the user's stored one, else none."""

    unavailable: bool = False
    """Whether the user's stored history could not be read, and is not in `history` for that."""


class ServedModel:
    """A bundle with what is laid out once for all its answers. Pure: nothing changes between
    calls."""

    def __init__(
        self, name: str, bundle: Bundle, searcher: Searcher, cold: ColdItems | None = None
    ) -> None:
        """searcher: the content spaces in service, and what is live.

        cold: the items that the model never learnt, with bridged vectors."""
        self.name = name
        self.bundle = bundle
        self.cold = cold
        self._main = Shelf(searcher.renewed(bundle.catalogue), bundle.index, bundle.items)
        self._n = len(bundle.items)
        self._lengths = np.linalg.norm(bundle.vectors, axis=1)
        counts = bundle.popularity.astype(np.float64)
        shares = (counts / max(counts.max(), 1)).astype(np.float32)[:, None]
        self._popularity = flat(shares)
        self._lay(searcher)

    def over(self, searcher: Searcher) -> Self:
        """The same model under another live catalogue, that of the searcher; the spaces in service
        are the same."""
        other = copy.copy(self)
        other._lay(searcher)
        return other

    def _lay(self, searcher: Searcher) -> None:
        live = searcher.live
        self._searcher = searcher
        self._live: LiveCatalogue = live
        self._overlay = live.over(self._main.items)
        self._may = self._main.available(self._overlay)
        self._cold = [] if self.cold is None else self.cold.under(live, self._may)
        self._bridged = np.zeros(self._n, np.bool_)  # what the bundle has too, but never learnt
        self._size = self._n
        for cold in self._cold:
            inside = cold.rows != UNKNOWN
            self._bridged[cold.rows[inside]] = True
            self._size += int((~inside).sum())
        self._learnt = self._may & ~self._bridged

    def check_k(self, k: int | None) -> None:
        """Raises Invalid where k is not from 1 to the number of items."""
        if k is not None and not 1 <= k <= self._size:
            message = (
                f"must be from 1 to {self._size}, the number of items in the catalogue, not {k}"
            )
            raise Invalid(f"k: {message}", [FieldError(field="k", message=message)])

    def check(self, request: RecommendRequest) -> None:
        """Raises Invalid where the request asks for what is not in this catalogue."""
        self.check_k(request.k)
        if request.filters is not None and request.filters.attributes:
            self._passes(request.filters)

    def knows(self, item_id: str) -> bool:
        """Whether it can recommend the item, learnt or bridged."""
        return item_id in self.bundle.items or any(
            item_id in cold.shelf.items for cold in self._cold
        )

    def described(self, item_id: str) -> dict[str, Any]:
        """What the bundle's catalogue says of an item of its own."""
        table = self.bundle.catalogue.slice(int(self.bundle.items.rows([item_id])[0]), 1)
        nothing: dict[str, Any] = dict.fromkeys(ITEMS_SCHEMA.names)
        described: dict[str, Any] = table.to_pylist()[0]
        return nothing | {"available": True} | described

    def size(self, k: int | None) -> int:
        """How many items to answer with."""
        return min(DEFAULT_K, self._size) if k is None else k

    def recommend(self, queries: Sequence[Query]) -> list[RecommendReply]:
        lengths = np.array([len(query.history) for query in queries], np.int64)
        ids = list(chain.from_iterable(query.history for query in queries))
        rows = self.bundle.items.rows(ids)
        known = rows != UNKNOWN
        owner = np.repeat(np.arange(len(queries)), lengths)
        known_lengths = np.bincount(owner[known], minlength=len(queries))
        histories = Histories.from_lengths(known_lengths, rows[known])
        unknown: dict[int, dict[str, None]] = {}  # a dict, for each id once and in order
        for i in np.flatnonzero(~known).tolist():
            unknown.setdefault(int(owner[i]), {})[ids[i]] = None

        vectors = self.bundle.model.query_vectors(histories)
        told = np.any(vectors != 0, axis=1) & (known_lengths > 0)
        passes = [self._passes(query.request.filters) for query in queries]
        sizes = [self.size(query.request.k) for query in queries]
        candidates = [
            Candidates.of(
                self._main,
                self._learnt if told[i] else self._may,
                query.request,
                sizes[i],
                histories[i],
                passes[i][0],
            )
            for i, query in enumerate(queries)
        ]
        near = {i: self._near(queries[i]) for i in np.flatnonzero(~told).tolist()}
        rankings: dict[int, Ranking] = {}
        ones = np.ones((len(queries), 1), np.float32)
        for answering, index, inputs, may in (
            (np.flatnonzero(told), self.bundle.index, vectors, self._learnt),
            (np.flatnonzero(~told), self._popularity, ones, self._may),
        ):
            wanted = {i: candidates[i] for i in answering.tolist()}
            rankings.update(search(index, inputs, wanted, None if may.all() else may))
        spaces = [self.bundle.manifest.kind if t else POPULARITY for t in told.tolist()]
        items = self._items([(rankings[i], space) for i, space in enumerate(spaces)])
        for at, cold in enumerate(self._cold, 1):
            wanted = {
                i: cold.candidates(queries[i].request, sizes[i], queries[i].history, passes[i][at])
                for i in np.flatnonzero(told).tolist()
            }
            for i, found in cold.best(vectors, wanted).items():
                items[i] = sorted(items[i] + found, key=lambda item: -item.score)[: sizes[i]]
        return [
            RecommendReply(
                items=near.get(i) or items[i],
                model=self.name,
                version=self.bundle.version,
                user_id=query.request.user_id,
                fallback=None if told[i] else _why_not(query, bool(near[i])),
                unknown_items=list(unknown.get(i, ())),
            )
            for i, query in enumerate(queries)
        ]

    def similar(self, item_id: str, k: int) -> SimilarReply:
        """The k items most similar to one, by the cosine of their vectors, in one exact pass.

        One that the model never learnt is compared by its contents, where a space knows it. Bridged
        vectors are for queries: all were moved one way to get their share, so their cosines with
        learnt ones say nothing, and they are not among what is found.
        Raises UnknownItem.
        """
        row = int(self.bundle.items.rows([item_id])[0])
        if row == UNKNOWN or self._bridged[row] or self._live.is_gone(item_id):
            return self._similar_in_content(item_id, k)
        fallback = None
        space = self.bundle.manifest.kind
        vectors = self.bundle.vectors
        if self._lengths[row] == 0 or vectors.shape[1] == 1:  # one dimension has no directions
            detail = (
                f"the model {self.name!r} cannot tell what is similar to {item_id!r}; these are "
                "the most popular items"
            )
            fallback = Fallback(reason=FallbackReason.UNTOLD_ITEM, detail=detail)
            space = POPULARITY
            may = self._may.copy()
            may[row] = False
            ones = np.ones((1, 1), np.float32)
            found = self._popularity.search(ones, k, may)
            scores, rows = cut(found[0][0], found[1][0], k)
        else:
            may = self._learnt & (self._lengths > 0)
            may[row] = False
            at = np.flatnonzero(may)
            cosines = (vectors @ vectors[row])[at] / (self._lengths[at] * self._lengths[row])
            best = np.lexsort((at, -cosines))[:k]
            scores, rows = cosines[best], at[best]
        return SimilarReply(
            item_id=item_id,
            items=self._items([((scores, rows), space)])[0],
            model=self.name,
            version=self.bundle.version,
            fallback=fallback,
        )

    def _similar_in_content(self, item_id: str, k: int) -> SimilarReply:
        items = self._searcher.near([item_id], k, None, [item_id])
        if not items:
            raise UnknownItem(f"there is no item {item_id!r} in the model {self.name!r}")
        detail = (
            f"the model {self.name!r} never learnt {item_id!r}; these are the items whose contents "
            "resemble it"
        )
        return SimilarReply(
            item_id=item_id,
            items=items,
            model=self.name,
            version=self.bundle.version,
            fallback=Fallback(reason=FallbackReason.UNTOLD_ITEM, detail=detail),
        )

    def _near(self, query: Query) -> list[Recommendation]:
        """What resembles the newest items of a history that the model cannot read."""
        request, history = query.request, query.history
        if not history or request.allow is not None:
            return []
        without = [*request.deny, *(history if request.exclude_seen else ())]
        k = self.size(request.k)
        return self._searcher.near(history[-RECENT:], k, request.filters, without)

    def _passes(self, filters: Filters | None) -> Sequence[NDArray[np.bool_] | None]:
        """Of the bundle's items and then of each cold shelf Bool[N], the rows that pass as they
        are now; None each where there are no filters."""
        if filters is None:
            return [None] * (1 + len(self._cold))
        shelves = [self._main, *(cold.shelf for cold in self._cold)]
        overlays = [self._overlay, *(cold.overlay for cold in self._cold)]
        over, *masks = passing(filters, [self._live.rules, *(shelf.rules for shelf in shelves)])
        for mask, overlay in zip(masks, overlays, strict=True):
            overlay.renew(mask, over)
        return masks

    def _items(self, rankings: Sequence[tuple[Ranking, str]]) -> list[list[Recommendation]]:
        """The items of all rankings of a batch, each with its space; named in one look-up."""
        rows = pa.array(np.concatenate([rows for (_, rows), _ in rankings]))
        scores = np.concatenate([scores for (scores, _), _ in rankings]).tolist()
        ids = self._main.ids.take(rows).to_pylist()
        titles = self._main.titles.take(rows).to_pylist()
        if self._overlay:
            titles = [self._live.title(*named) for named in zip(ids, titles, strict=True)]
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


def _why_not(query: Query, near: bool) -> Fallback:
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
    these = "resemble its newest items" if near else "are the most popular items"
    return Fallback(reason=reason, detail=f"{why}; these {these}")
