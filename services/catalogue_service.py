"""The catalogue's side of the service: search, items put in and taken out, the spaces.

A search is encoded, then searched, then perhaps ranked anew. By which encoders the searcher says:
where the text or picture has no vector yet by the encoder of a space in service, it names that, and
is asked again with it. So a search is never answered across two versions of a space, and never
fails for falling between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.item_text import item_texts
from services.batcher import Batcher
from services.content_space import SpaceEncoder
from services.item_schemas import DeleteReply, ItemReply, ItemsReply, ItemsRequest
from services.live_items import LiveItems
from services.named_pictures import NamedPictures
from services.problems import ServiceError
from services.schemas import DEFAULT_K
from services.search_schemas import Found, SearchReply, SearchRequest
from services.searcher import Searcher, SearchQuery, Unencoded
from services.service import MAX_WAITING, deadline

T = TypeVar("T")

RERANKED = 50
"""How many of the best results the cross-encoder reads; what lies behind keeps its order."""

TRUSTED_S = 1.0
"""Seconds for which searches are encoded by the encoders that a searcher named, before the next
search asks it first."""


@dataclass(frozen=True)
class Wanted:
    """What of a search is to be encoded."""

    text: str | None
    picture: bytes | None
    by: tuple[SpaceEncoder, ...]
    """Those of the text have one, and those of the picture."""

    def content(self, space: str) -> str | bytes | None:
        """What an encoder of the space can encode."""
        return self.text if space == "text" else self.picture


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found, and the texts of the best of it where they were asked for."""

    reply: SearchReply
    texts: list[str]


Searched = Answer | Unencoded | ServiceError
"""What comes of a search."""


class CatalogueEngine(Protocol):
    """What searches, in this process or in another. It never answers from before a change that it
    has been told of."""

    def know(self, number: int) -> None:
        """What is asked from now on must see the change of this number."""
        ...

    async def search(self, queries: Sequence[SearchQuery]) -> Sequence[Searched]:
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
    ) -> Sequence[dict[str, NDArray[np.float32]] | ServiceError]:
        """For each, Float32[D] by the fingerprint of each encoder that was asked for."""
        ...

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError: ...


class CatalogueService:
    """Answers what concerns the catalogue."""

    def __init__(
        self,
        engine: CatalogueEngine,
        encoder: EncodingEngine,
        items: LiveItems,
        pictures: NamedPictures,
        *,
        micro_batch: int,
        deadline_ms: int,
    ) -> None:
        """pictures: those that searches may name. deadline_ms: of a search that names none."""
        self._engine = engine
        self._pictures = pictures
        self._encoder = encoder
        self._items = items
        self._deadline_ms = deadline_ms
        self._encode = Batcher(encoder.encode, max_batch=micro_batch, max_waiting=MAX_WAITING)
        self._search = Batcher(engine.search, max_batch=micro_batch, max_waiting=MAX_WAITING)
        self._encoders: dict[str, tuple[SpaceEncoder, float]] = {}  # by space, and until when

    async def search(self, request: SearchRequest) -> SearchReply:
        """What is found; raises ServiceError."""
        async with deadline(request.deadline_ms or self._deadline_ms):
            depth = RERANKED if request.rerank else 0
            async with self._picture(request) as picture:
                answer = await self._answer(request, picture, depth)
            if not request.rerank or request.text is None:
                return answer.reply
            scores = _or_raise(await self._encoder.rerank(request.text, answer.texts))
            return reranked(answer.reply, scores, request.k or DEFAULT_K)

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

    async def ready(self) -> None:
        """Return once queries can be encoded; raises ServiceError where that is not now."""
        async with deadline(self._deadline_ms):
            await self._encoder.encode([])

    async def spaces(self) -> bytes:
        """The content spaces in service."""
        async with deadline(self._deadline_ms):
            return await self._engine.spaces()

    async def _answer(self, request: SearchRequest, picture: bytes | None, depth: int) -> Answer:
        encoded: dict[str, NDArray[np.float32]] = {}
        by = self._trusted(request)
        while True:
            if by:
                encoded |= _or_raise(await self._encode(Wanted(request.text, picture, by)))
            answer = await self._search(SearchQuery(request, encoded, depth))
            if not isinstance(answer, Unencoded):
                return _or_raise(answer)
            by = answer.by
            until = time.monotonic() + TRUSTED_S
            self._encoders.update({encoder.space: (encoder, until) for encoder in by})

    @asynccontextmanager
    async def _picture(self, request: SearchRequest) -> AsyncIterator[bytes | None]:
        """What is to be encoded of the request's picture."""
        if request.picture is None:
            yield None
        elif request.picture.uri is None:
            yield request.picture.data()
        else:
            async with self._pictures.read(request.picture.uri) as picture:
                yield picture

    def _trusted(self, request: SearchRequest) -> tuple[SpaceEncoder, ...]:
        """The encoders that the request will be encoded by, if it may be taken that nothing was
        exchanged."""
        now = time.monotonic()
        asked = {"text": request.text, "image": request.picture}
        return tuple(
            encoder
            for encoder, until in self._encoders.values()
            if now < until
            and asked.get(encoder.space) is not None
            and (request.spaces is None or request.spaces.get(encoder.space))
        )


def answer(searcher: Searcher, query: SearchQuery) -> Searched:
    """What a searcher finds, with the texts of so many as the query's depth."""
    reply = searcher.search(query)
    if isinstance(reply, Unencoded | ServiceError):
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
