"""Searcher: query vectors in, items found, over all content spaces in service.

It knows no encoder, no Redis and no HTTP: texts and pictures come as vectors, each of the encoder
of a fingerprint, and one by another than a space's is never compared with its items. Each space
ranks for itself, its main index and its live items together; the rankings are merged by
weighted reciprocal rank. Pure: nothing changes between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.content_bundle import LIVE, ContentBundle
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.retrieval.fusion import reciprocal_rank_fusion
from services.content_space import ContentSpace, Ranking, SpaceEncoder
from services.filter_schemas import Filters
from services.item_schemas import ItemState
from services.live_catalogue import LiveCatalogue
from services.popularity import NO_POPULARITY, POPULARITY, Popularity
from services.problems import Invalid, ServiceError, UnknownItem, UnknownSpace
from services.schemas import DEFAULT_K, FieldError, Recommendation, SimilarReply
from services.search_schemas import Found, SearchReply, SearchRequest, SpaceRank, SpacesReply

DEPTH = 100
"""Each space ranks at least so many items, with the examples, before the rankings are merged."""

POPULAR_DEPTH = 200
"""The same where popularity ranks them too: it finds among more."""


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """A search whose text and picture are encoded."""

    request: SearchRequest
    encoded: Mapping[str, NDArray[np.float32]]
    """Float32[D] each, of unit length, by the fingerprint of the encoder: of a space that is just
    being exchanged there may be two."""

    depth: int = 0
    """How many of the best items are to be ranked anew: so many are returned at least."""


@dataclass(frozen=True)
class Unencoded:
    """Why a search was not begun: its text or picture has no vector yet by the encoders of these
    spaces in service."""

    by: tuple[SpaceEncoder, ...]


class Searcher:
    """The content spaces in service, with the live catalogue over them."""

    def __init__(
        self,
        bundles: Mapping[str, ContentBundle],
        live: LiveCatalogue,
        popularity: Popularity = NO_POPULARITY,
    ) -> None:
        self.live = live
        self._popularity = popularity
        self._spaces = {name: ContentSpace(bundle, live) for name, bundle in bundles.items()}

    @property
    def bundles(self) -> dict[str, ContentBundle]:
        return {name: space.bundle for name, space in self._spaces.items()}

    def over(self, live: LiveCatalogue) -> Searcher:
        """The same spaces under another live catalogue."""
        searcher = Searcher({}, live, self._popularity)
        searcher._spaces = {name: space.over(live) for name, space in self._spaces.items()}
        return searcher

    def search(self, query: SearchQuery) -> SearchReply | Unencoded | ServiceError:
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
        """A model's catalogue, with what was put in over the API since and stands in main indexes;
        where several say it of an item, as the first of them does.

        Rows and columns stay as they are."""
        for bundle in reversed(self.bundles.values()):
            live = bundle.catalogue.filter(bundle.catalogue[LIVE])
            at = Vocabulary(live["item_id"]).rows(catalogue["item_id"])
            if (at != UNKNOWN).any():
                names = [name for name in catalogue.column_names if name in live.column_names]
                both = pa.concat_tables([catalogue.select(names), live.select(names)])
                rows = np.where(at == UNKNOWN, np.arange(len(at)), at + len(at))
                catalogue = both.take(pa.array(rows))
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
                states[name] = entry.state_by(name, space.bundle.manifest.fingerprint)
            else:
                known = len(space.main.known([item_id])) > 0
                states[name] = ItemState.READY if known else ItemState.ABSENT
        return states

    def describe(self) -> SpacesReply:
        """The spaces in service, for a reader."""
        return SpacesReply(spaces=[space.describe() for space in self._spaces.values()])

    def _search(self, query: SearchQuery) -> SearchReply | Unencoded:
        request = query.request
        k = max(request.k or DEFAULT_K, query.depth)
        weights = self._weights(request)
        unencoded = [
            space.encoder
            for space in map(self._spaces.__getitem__, weights)
            if space.asked(request) and space.encoder.fingerprint not in query.encoded
        ]
        if unencoded:
            return Unencoded(tuple(unencoded))
        examples = [*request.like, *request.unlike]
        # Examples lie among the nearest and are left out: with them a ranking is as deep as others.
        depth = max(k, (POPULAR_DEPTH if request.popularity else DEPTH) - len(examples))
        rankings: dict[str, Ranking] = {}
        refusals: list[Invalid] = []
        known: set[str] = set()
        for name in weights:
            space = self._spaces[name]
            known |= {item_id for item_id in examples if space.vector(item_id) is not None}
            vector = space.direction(request, query.encoded)
            if vector is not None:
                try:
                    ranking = space.rank(vector, depth, request.filters, examples)
                except Invalid as error:  # others may have the attribute that this one has not
                    refusals.append(error)
                else:
                    rankings[name] = ranking
        if not rankings:
            raise refusals[0] if refusals else self._nothing(request, list(weights), known)
        versions = {name: self._spaces[name].bundle.version for name in rankings}
        if request.popularity:
            rankings[POPULARITY] = self._popularity.ranked(list(rankings.values()))
            weights = {**weights, POPULARITY: request.popularity}
        return SearchReply(
            items=self._fused(rankings, weights, k),
            versions=versions,
            reranked=False,
            unknown_items=[item_id for item_id in dict.fromkeys(examples) if item_id not in known],
        )

    def _weights(self, request: SearchRequest) -> dict[str, float]:
        """Of the spaces that are searched."""
        if not self._spaces:
            raise UnknownSpace(
                "no content space is in service: embed the catalogue with `recsys embed`"
            )
        if request.spaces is None:
            return dict.fromkeys(self._spaces, 1.0)
        for name in request.spaces:
            self._space(name)
        return {name: weight for name, weight in request.spaces.items() if weight}

    def _space(self, name: str) -> ContentSpace:
        space = self._spaces.get(name)
        if space is None:
            has = f"there are {', '.join(self._spaces)}" if self._spaces else "there is none"
            raise UnknownSpace(f"there is no space {name!r} in service; {has}")
        return space

    def _nothing(
        self, request: SearchRequest, searched: Sequence[str], known: Set[str]
    ) -> ServiceError:
        """Why none of the spaces searched has a direction to search in."""
        given = [name for name in ("text", "picture", "like") if getattr(request, name)]
        by, spaces = " and ".join(given), ", ".join(searched)
        asked = any(self._spaces[name].asked(request) for name in searched)
        if asked or not known.isdisjoint(request.like):
            message = f"the vectors of {by} cancel each other out; leave some of it out"
            return Invalid(
                f"{given[-1]}: {message}", [FieldError(field=given[-1], message=message)]
            )
        if given == ["like"]:
            gone = [item_id for item_id in request.like if self.live.is_gone(item_id)]
            deleted = f"; deleted: {', '.join(gone)}" if gone else ""
            return UnknownItem(
                f"like: no space searched ({spaces}) knows any of these items{deleted}"
            )
        message = f"no space searched ({spaces}) can answer by {by}"
        return Invalid(message, [FieldError(field=given[0], message=message)])

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
