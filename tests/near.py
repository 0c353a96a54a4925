"""Engines in this process, in the place of replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.active_models import ActiveModels
from services.catalogue_service import Searched, Wanted, answer
from services.item_schemas import ItemReply
from services.live_follower import LiveFollower
from services.problems import ServiceError, Unavailable
from services.query_encoder import QueryEncoder
from services.reranker import Reranker
from services.searcher import SearchQuery
from services.served_model import Query
from services.service import Reply


class Near:
    """An engine, and a catalogue engine, of these models."""

    def __init__(self, models: ActiveModels, live: LiveFollower | None = None) -> None:
        self._models = models
        self._live = live
        self._number = 0
        self.broken = False
        self.slow_s = 0.0
        self.largest = 0

    def know(self, number: int) -> None:
        self._number = number

    async def recommend(self, queries: Sequence[Query]) -> list[Reply]:
        if self.broken:
            raise ZeroDivisionError("a secret of the inside")
        self.largest = max(self.largest, len(queries))
        await asyncio.sleep(self.slow_s)
        await self._catch_up()
        replies = self._models.recommender.recommend(queries)
        return [r if isinstance(r, ServiceError) else r.model_dump_json().encode() for r in replies]

    async def similar(
        self, item_id: str, k: int | None, model: str | None, space: str | None
    ) -> Reply:
        await self._catch_up()
        try:
            similar = self._models.recommender.similar(item_id, k, model, space)
        except ServiceError as error:
            return error
        return similar.model_dump_json().encode()

    async def models(self) -> bytes:
        return self._models.describe().model_dump_json().encode()

    async def search(self, queries: Sequence[SearchQuery]) -> list[Searched]:
        await self._catch_up()
        return [answer(self._models.recommender.searcher, query) for query in queries]

    async def item(self, item_id: str) -> ItemReply | ServiceError:
        await self._catch_up()
        try:
            return self._models.recommender.item(item_id)
        except ServiceError as error:
            return error

    async def spaces(self) -> bytes:
        await self._catch_up()
        return self._models.recommender.searcher.describe().model_dump_json().encode()

    async def _catch_up(self) -> None:
        if self._live is not None:
            await self._live.catch_up(self._number)


class NearEncoder:
    """An encoding engine."""

    def __init__(self, encoder: QueryEncoder, rerank_model: str | None = None) -> None:
        self._encoder = encoder
        self._reranker = Reranker(rerank_model)
        self.away = False

    async def encode(
        self, batch: Sequence[Wanted]
    ) -> list[dict[str, NDArray[np.float32]] | ServiceError]:
        if self.away:
            raise Unavailable("no replica is there yet")
        return self._encoder.encode(batch)

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        return self._reranker.rerank(text, found)
