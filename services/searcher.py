"""Searcher: query vectors in, items found, over all content spaces in service.

It knows no encoder, no Redis and no HTTP: texts and pictures come as vectors of a fingerprint. Each
space ranks for itself, its main index and its live items together; the rankings are merged by
weighted reciprocal rank. Pure: nothing changes between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.content_bundle import LIVE, ContentBundle
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.retrieval.fusion import reciprocal_rank_fusion
from services.item_schemas import (
    Found,
    ItemState,
    SearchReply,
    SearchRequest,
    SpaceInfo,
    SpaceRank,
    SpacesReply,
)
from services.live_catalogue import LiveCatalogue
from services.live_items import LiveItem
from services.problems import Invalid, ServiceError, Stale, UnknownItem, UnknownSpace
from services.schemas import (
    DEFAULT_K,
    FieldError,
    Filters,
    Recommendation,
    SimilarReply,
)
from services.shelf import Shelf, passing

DEPTH = 100
"""Each space ranks at least so many items before the rankings are merged."""

UNLIKE = 0.5
"""How much the mean of the unlike is taken away from what is searched with (Rocchio, 1971)."""


@dataclass(frozen=True, eq=False)
class QueryVector:
    """A text or picture, encoded."""

    fingerprint: str
    """The encoder's."""

    vector: NDArray[np.float32]
    """Float32[D], of unit length."""


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """A search whose text and picture are encoded."""

    request: SearchRequest
    encoded: Mapping[str, QueryVector]
    """By space."""

    depth: int = 0
    """How many items to return where that is more than the request's k, to be ranked anew."""


class Searcher:
    """The content spaces in service, with the live catalogue over them."""

    def __init__(self, bundles: Mapping[str, ContentBundle], live: LiveCatalogue) -> None:
        self.live = live
        self._spaces = {name: _Space(bundle, live) for name, bundle in bundles.items()}

    @property
    def bundles(self) -> dict[str, ContentBundle]:
        return {name: space.bundle for name, space in self._spaces.items()}

    def over(self, live: LiveCatalogue) -> Searcher:
        """The same spaces under another live catalogue."""
        searcher = Searcher({}, live)
        searcher._spaces = {name: space.over(live) for name, space in self._spaces.items()}
        return searcher

    def search(self, query: SearchQuery) -> SearchReply | ServiceError:
        """What is found, or why nothing can be."""
        try:
            return self._search(query)
        except ServiceError as error:
            return error

    def similar(self, item_id: str, k: int | None, name: str) -> SimilarReply:
        """The k items nearest to one in a space, by cosine.

        Raises UnknownSpace, or UnknownItem where the space does not know the item.
        """
        space = self._space(name)
        vector = space.vector(item_id)
        if vector is None:
            raise UnknownItem(f"there is no item {item_id!r} in the space {name!r}")
        ranking = space.rank(vector, DEFAULT_K if k is None else k, None, [item_id])
        return SimilarReply(
            item_id=item_id,
            items=space.items(ranking),
            model=name,
            version=space.bundle.version,
        )

    def near(
        self, item_ids: Sequence[str], k: int, filters: Filters | None, without: Sequence[str]
    ) -> list[Recommendation]:
        """What resembles items, in the first space that knows any of them; empty if none does, or
        if none of its items has an attribute that is filtered by."""
        for space in self._spaces.values():
            vector = space.mean(item_ids)
            if vector is not None:
                try:
                    return space.items(space.rank(vector, k, filters, without))
                except Invalid:  # the model's catalogue has the attribute, and this one has not
                    return []
        return []

    def renewed(self, catalogue: pa.Table) -> pa.Table:
        """A model's catalogue, with what was put in over the API since and stands in a main index.

        Rows and columns stay as they are."""
        for bundle in self.bundles.values():
            live = bundle.catalogue.filter(bundle.catalogue[LIVE])
            at = Vocabulary(live["item_id"]).rows(catalogue["item_id"])
            if (at != UNKNOWN).any():
                names = [name for name in catalogue.column_names if name in live.column_names]
                both = pa.concat_tables([catalogue.select(names), live.select(names)])
                rows = np.where(at == UNKNOWN, np.arange(len(at)), at + len(at))
                return both.take(pa.array(rows))
        return catalogue

    def catalogue(self, item_ids: Sequence[str]) -> pa.Table:
        """The items by ITEMS_SCHEMA as they are now, in this order; those that are not known, or
        gone, are left out."""
        wanted = [item_id for item_id in item_ids if not self.live.is_gone(item_id)]
        parts, found = [], np.zeros(len(wanted), np.bool_)
        places = [np.empty(0, np.int64)]
        shelves = [(self.live.items, self.live.table)]
        shelves += [(each.main.items, each.main.catalogue) for each in self._spaces.values()]
        for items, table in shelves:
            rows = items.rows(wanted)
            here = np.flatnonzero((rows != UNKNOWN) & ~found)
            found[here] = True
            parts.append(table.select(ITEMS_SCHEMA.names).take(pa.array(rows[here])))
            places.append(here)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(places))))

    def states(self, item_id: str) -> dict[str, ItemState]:
        """How far an item is in each space."""
        entry = self.live.entries.get(item_id)
        states = {}
        for name, space in self._spaces.items():
            if entry is not None and entry.item is not None:
                states[name] = entry.states[name]
                if states[name] is ItemState.READY and not space.current(entry):
                    states[name] = ItemState.PENDING  # by the encoder that was there before
            else:
                known = len(space.main.known([item_id])) > 0
                states[name] = ItemState.READY if known else ItemState.ABSENT
        return states

    def describe(self) -> SpacesReply:
        """The spaces in service, for a reader."""
        return SpacesReply(spaces=[space.describe() for space in self._spaces.values()])

    def _search(self, query: SearchQuery) -> SearchReply:
        request = query.request
        k = max(request.k or DEFAULT_K, query.depth)
        weights = self._weights(request)
        examples = [*request.like, *request.unlike]
        rankings: dict[str, Ranking] = {}
        known: set[str] = set()
        for name, weight in weights.items():
            space = self._space(name)
            known |= {item_id for item_id in examples if space.vector(item_id) is not None}
            vector = space.direction(request, query.encoded.get(name))
            if weight and vector is not None:
                depth = max(k, DEPTH)
                rankings[name] = space.rank(vector, depth, request.filters, examples)
        if not rankings:
            raise self._nothing(request)
        return SearchReply(
            items=self._fused(rankings, weights, k),
            versions={name: self._spaces[name].bundle.version for name in rankings},
            reranked=False,
            unknown_items=[item_id for item_id in dict.fromkeys(examples) if item_id not in known],
        )

    def _weights(self, request: SearchRequest) -> dict[str, float]:
        if not self._spaces:
            raise UnknownSpace(
                "no content space is in service: embed the catalogue with `recsys embed`"
            )
        if request.spaces is None:
            return dict.fromkeys(self._spaces, 1.0)
        for name in request.spaces:
            self._space(name)
        return request.spaces

    def _space(self, name: str) -> _Space:
        space = self._spaces.get(name)
        if space is None:
            has = f"there are {', '.join(self._spaces)}" if self._spaces else "there is none"
            raise UnknownSpace(f"there is no space {name!r} in service; {has}")
        return space

    def _nothing(self, request: SearchRequest) -> ServiceError:
        given = [name for name in ("text", "picture", "like") if getattr(request, name)]
        message = f"no space in service can answer by {' and '.join(given)}"
        if request.like and not (request.text or request.picture):
            message = "no space in service knows any of these items"
            return UnknownItem(f"like: {message}")
        spaces = ", ".join(self._spaces)
        return Invalid(
            f"{message}; there are {spaces}", [FieldError(field=given[0], message=message)]
        )

    def _fused(
        self, rankings: Mapping[str, Ranking], weights: Mapping[str, float], k: int
    ) -> list[Found]:
        ids = list(dict.fromkeys(i for ranking in rankings.values() for i in ranking.ids))
        number = {item_id: i for i, item_id in enumerate(ids)}
        titles = {i: t for r in rankings.values() for i, t in zip(r.ids, r.titles, strict=True)}
        ranks: dict[str, dict[str, SpaceRank]] = {item_id: {} for item_id in ids}
        for name, ranking in rankings.items():
            for place, (item_id, score) in enumerate(zip(ranking.ids, ranking.scores, strict=True)):
                ranks[item_id][name] = SpaceRank(rank=place + 1, score=score)
        if len(rankings) == 1:
            [ranking] = rankings.values()
            best = list(zip(ranking.ids, ranking.scores, strict=True))[:k]
        elif ids:
            scores, rows = reciprocal_rank_fusion(
                [np.array([number[i] for i in r.ids], np.int64) for r in rankings.values()],
                [weights[name] for name in rankings],
                k=k,
            )
            best = [(ids[row], s) for row, s in zip(rows.tolist(), scores.tolist(), strict=True)]
        else:
            best = []
        return [
            Found(item_id=item_id, title=titles[item_id], score=score, spaces=ranks[item_id])
            for item_id, score in best
        ]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Items of one space, best first."""

    ids: list[str]
    titles: list[str]
    scores: list[float]


class _Space:
    """A bundle, the live items that its encoder embedded, and what lies over both."""

    def __init__(
        self, bundle: ContentBundle, live: LiveCatalogue, main: Shelf | None = None
    ) -> None:
        self.bundle = bundle
        self.main = main or Shelf(bundle.catalogue, bundle.index, bundle.items)
        self._live = live
        self._added = live.shelf(bundle.space, bundle.manifest.fingerprint)
        self._overlay = live.over(self.main.items)
        self._available = self.main.available(self._overlay)
        if self._added is not None:  # what was embedded anew is found there and not here
            self._available[self.main.known(self._added.ids.to_pylist())] = False

    def over(self, live: LiveCatalogue) -> _Space:
        return _Space(self.bundle, live, self.main)

    def vector(self, item_id: str) -> NDArray[np.float32] | None:
        """Float32[D], the item's newest; None where it has none, or is gone."""
        if self._live.is_gone(item_id):
            return None
        for shelf in (self._added, self.main):
            if shelf is not None and len(rows := shelf.known([item_id])):
                found: NDArray[np.float32] = shelf.index.vectors[rows[0]].copy()
                return found
        return None

    def mean(self, item_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """Float32[D], the mean of the items' vectors at unit length; None where none is known."""
        vectors = [v for v in map(self.vector, item_ids) if v is not None]
        return _unit(np.mean(vectors, axis=0)) if vectors else None

    def direction(
        self, request: SearchRequest, encoded: QueryVector | None
    ) -> NDArray[np.float32] | None:
        """Float32[D], what the request searches this space with; None where it says nothing here.

        The mean of the text or picture and of what the results shall be like, less UNLIKE times
        the mean of what they shall not. Raises Stale where the text or picture was encoded by
        another encoder than the items.
        """
        wanted = []
        if encoded is not None:
            if encoded.fingerprint != self.bundle.manifest.fingerprint:
                raise Stale(f"the space {self.bundle.name!r} was exchanged meanwhile; try again")
            wanted.append(encoded.vector)
        like = self.mean(request.like)
        if like is not None:
            wanted.append(like)
        if not wanted:
            return None
        direction = np.mean(wanted, axis=0)
        unlike = self.mean(request.unlike)
        if unlike is not None:
            direction = direction - UNLIKE * unlike
        return _unit(direction)

    def rank(
        self,
        vector: NDArray[np.float32],
        k: int,
        filters: Filters | None,
        without: Sequence[str],
    ) -> Ranking:
        """The k items nearest to the vector that pass the filters; raises Invalid for those."""
        shelves = [self.main] if self._added is None else [self.main, self._added]
        masks = [self._available.copy()]
        if self._added is not None:
            masks.append(self._added.rules.available.copy())
        if filters is not None:
            *passed, over = passing(filters, [*(s.rules for s in shelves), self._live.rules])
            passed[0][self._overlay.rows] = over[self._overlay.live_rows]
            for mask, one in zip(masks, passed, strict=True):
                mask &= one
        ids: list[str] = []
        titles: list[str] = []
        scores: list[float] = []
        for shelf, mask in zip(shelves, masks, strict=True):
            mask[shelf.known(without)] = False
            # Without a mask an index need not look which items it may return.
            found, rows = shelf.index.search(vector[None], k, None if mask.all() else mask)
            kept = rows[0] != UNKNOWN
            scores += found[0][kept].tolist()
            ids += shelf.ids.take(rows[0][kept]).to_pylist()
            titles += shelf.titles.take(rows[0][kept]).to_pylist()
        best = sorted(range(len(ids)), key=lambda i: -scores[i])[:k]
        return Ranking(
            [ids[i] for i in best],
            [self._live.title(ids[i], titles[i]) for i in best],
            [scores[i] for i in best],
        )

    def items(self, ranking: Ranking) -> list[Recommendation]:
        return [
            Recommendation(item_id=item_id, title=title, score=score, space=self.bundle.name)
            for item_id, title, score in zip(
                ranking.ids, ranking.titles, ranking.scores, strict=True
            )
        ]

    def current(self, entry: LiveItem) -> bool:
        """Whether a live item's vector is of the encoder in service."""
        vector = entry.vectors.get(self.bundle.space)
        return vector is not None and vector.fingerprint == self.bundle.manifest.fingerprint

    def describe(self) -> SpaceInfo:
        manifest = self.bundle.manifest
        return SpaceInfo(
            name=self.bundle.name,
            version=self.bundle.version,
            encoder=manifest.encoder,
            fingerprint=manifest.fingerprint,
            n_items=len(self.main),
            live_items=0 if self._added is None else len(self._added),
            created=manifest.created,
            index=manifest.index,
        )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """None where there is no direction left."""
    length = float(np.linalg.norm(vector))
    return (vector / length).astype(np.float32) if length > 1e-6 else None
