"""The catalogue's side of the service: search, items put in and taken out, the spaces.

A search is encoded, then searched, then perhaps ranked anew; encoder and searcher follow the
registry each by itself, so a search that falls between two versions of a space is begun again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from encoders.item_text import item_texts
from services.batcher import Batcher
from services.content_space import QueryVector
from services.item_schemas import DeleteReply, ItemReply, ItemsReply, ItemsRequest
from services.live_items import LiveItems
from services.problems import ServiceError, Stale
from services.schemas import DEFAULT_K
from services.search_schemas import Found, SearchReply, SearchRequest
from services.searcher import Searcher, SearchQuery
from services.service import MAX_WAITING, deadline

T = TypeVar("T")

RERANKED = 50
"""How many of the best results the cross-encoder reads; what lies behind keeps its order."""

TRIES = 3
"""How often a search is begun where a space was exchanged meanwhile."""


@dataclass(frozen=True)
class Wanted:
    """What of a search is to be encoded."""

    text: str | None
    picture: bytes | None


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found, and the texts of the best of it where they were asked for."""

    reply: SearchReply
    texts: list[str]


class CatalogueEngine(Protocol):
    """What searches, in this process or in another. It never answers from before a change that it
    has been told of."""

    def know(self, number: int) -> None:
        """What is asked from now on must see the change of this number."""
        ...

    async def search(self, queries: Sequence[SearchQuery]) -> Sequence[Answer | ServiceError]:
        """An answer for each, with so many texts as its depth."""
        ...

    async def item(self, item_id: str) -> ItemReply | ServiceError: ...

    async def spaces(self) -> bytes:
        """A SpacesReply."""
        ...


class EncodingEngine(Protocol):
    """What encodes queries."""

    async def encode(
        self, batch: Sequence[Wanted]
    ) -> Sequence[dict[str, QueryVector] | ServiceError]: ...

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError: ...


class CatalogueService:
    """Answers what concerns the catalogue."""

    def __init__(
        self,
        engine: CatalogueEngine,
        encoder: EncodingEngine,
        items: LiveItems,
        *,
        micro_batch: int,
        deadline_ms: int,
    ) -> None:
        """deadline_ms: of a search that names none."""
        self._engine = engine
        self._encoder = encoder
        self._items = items
        self._deadline_ms = deadline_ms
        self._encode = Batcher(encoder.encode, max_batch=micro_batch, max_waiting=MAX_WAITING)
        self._search = Batcher(engine.search, max_batch=micro_batch, max_waiting=MAX_WAITING)

    async def search(self, request: SearchRequest) -> SearchReply:
        """What is found; raises ServiceError."""
        async with deadline(request.deadline_ms or self._deadline_ms):
            for _ in range(TRIES - 1):
                try:
                    return await self._found(request)
                except Stale:
                    continue
            return await self._found(request)

    async def put(self, request: ItemsRequest) -> ItemsReply:
        """Keep the items and queue them for embedding; raises Overloaded and RedisUnavailable."""
        number = await self._items.put(request.items)
        self._engine.know(number)
        return ItemsReply(accepted=len(request.items), sequence=number)

    async def delete(self, item_id: str) -> DeleteReply:
        """Hide an item from now on; raises UnknownItem, Overloaded and RedisUnavailable."""
        await self.item(item_id)
        number = await self._items.delete(item_id)
        self._engine.know(number)
        return DeleteReply(item_id=item_id, sequence=number)

    async def item(self, item_id: str) -> ItemReply:
        """What is known of an item; raises UnknownItem."""
        async with deadline(self._deadline_ms):
            item = await self._engine.item(item_id)
        return _or_raise(item)

    async def spaces(self) -> bytes:
        """The content spaces in service."""
        async with deadline(self._deadline_ms):
            return await self._engine.spaces()

    async def _found(self, request: SearchRequest) -> SearchReply:
        encoded: dict[str, QueryVector] = {}
        if request.text is not None or request.picture is not None:
            picture = None if request.picture is None else request.picture.data()
            encoded = _or_raise(await self._encode(Wanted(request.text, picture)))
        depth = RERANKED if request.rerank else 0
        answer = _or_raise(await self._search(SearchQuery(request, encoded, depth)))
        if not request.rerank or request.text is None:
            return answer.reply
        scores = _or_raise(await self._encoder.rerank(request.text, answer.texts))
        return reranked(answer.reply, scores, request.k or DEFAULT_K)


def answer(searcher: Searcher, query: SearchQuery) -> Answer | ServiceError:
    """What a searcher finds, with the texts of so many as the query's depth."""
    reply = searcher.search(query)
    if isinstance(reply, ServiceError):
        return reply
    texts: list[str] = []
    if query.depth:
        found = searcher.catalogue([item.item_id for item in reply.items[: query.depth]])
        texts = item_texts(found).to_pylist()
    return Answer(reply, texts)


def reranked(reply: SearchReply, scores: Sequence[float], k: int) -> SearchReply:
    """The best by their scores; behind them, in the order that they had, those that could not be
    read, which have no finite one, and those that were not."""
    read: list[Found] = []
    others: list[Found] = []
    for found, score in zip(reply.items, scores, strict=False):
        if math.isfinite(score):
            read.append(found.model_copy(update={"score": score}))
        else:
            others.append(found)
    others += reply.items[len(scores) :]
    best = sorted(read, key=lambda found: -found.score) + others
    return reply.model_copy(update={"items": best[:k], "reranked": True})


def _or_raise(answer: T | ServiceError) -> T:
    if isinstance(answer, ServiceError):
        raise answer
    return answer
