"""Service: all that can be asked, whichever way it is asked.

HTTP and the queue differ in how a request arrives and a reply leaves; what happens between is
here, once: read the request, find the history, ask the engine, one batch at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from infra.redis import RedisUnavailable
from services.batcher import Batcher
from services.event_schemas import Event
from services.history import HistoryStore
from services.live_items import LiveItems
from services.problems import DeadlineExceeded, ServiceError, parse
from services.schemas import Deadline, RecommendRequest
from services.served_model import Query

logger = logging.getLogger(__name__)

Reply = bytes | ServiceError
"""The JSON of a reply, or why there is none."""

MAX_WAITING = 1024
"""Requests that wait for their batch before more are refused."""


class Engine(Protocol):
    """What computes: the models in service, in this process or in another. It never answers from
    before a change to the catalogue that it has been told of."""

    def know(self, number: int) -> None:
        """What is asked from now on must see the change of this number."""
        ...

    async def recommend(self, queries: Sequence[Query]) -> Sequence[Reply]:
        """A RecommendReply for each query."""
        ...

    async def similar(
        self, item_id: str, k: int | None, model: str | None, space: str | None
    ) -> Reply:
        """A SimilarReply."""
        ...

    async def models(self) -> bytes:
        """A ModelsReply."""
        ...


class Service:
    """Answers requests with an engine and the stored histories."""

    def __init__(
        self,
        engine: Engine,
        histories: HistoryStore,
        items: LiveItems,
        *,
        micro_batch: int,
        deadline_ms: int,
    ) -> None:
        """deadline_ms: of a request that names none."""
        self._engine = engine
        self._histories = histories
        self._items = items
        self._deadline_ms = deadline_ms
        self._batcher = Batcher(self.recommend, max_batch=micro_batch, max_waiting=MAX_WAITING)

    async def recommend_one(self, request: RecommendRequest) -> bytes:
        """The reply, computed together with those of whoever asks at the same time.

        Raises ServiceError; among them Overloaded and DeadlineExceeded.
        """
        async with deadline(request.deadline_ms or self._deadline_ms):
            reply = await self._batcher(request)
        if isinstance(reply, ServiceError):
            raise reply
        return reply

    async def recommend_many(self, requests: Sequence[RecommendRequest]) -> Sequence[Reply]:
        """The replies, in the order of the requests, computed as those of `recommend_one`.

        Raises Overloaded, or DeadlineExceeded when the longest deadline among them has passed.
        """
        deadlines = [request.deadline_ms or self._deadline_ms for request in requests]
        async with deadline(max(deadlines)):
            return await self._batcher.many(requests)

    async def recommend(self, requests: Sequence[RecommendRequest]) -> Sequence[Reply]:
        """The replies, in the order of the requests, as one batch and without a deadline."""
        users = list({r.user_id: None for r in requests if r.user_id is not None})
        histories: dict[str, list[str]] | None = {}
        if users:
            try:
                histories = dict(zip(users, await self._histories.read(users), strict=True))
            except RedisUnavailable as error:
                logger.warning("answering without stored histories: %s", error)
                histories = None
        return await self._engine.recommend([_query(request, histories) for request in requests])

    def lifetime_ms(self, body: bytes) -> int:
        """How long the answer to a queued body is of use, from when it was published: its own
        `deadline_ms`, else the server's."""
        try:
            return parse(Deadline, body).deadline_ms or self._deadline_ms
        except ServiceError:
            return self._deadline_ms  # for its problem, which is the answer

    async def answer(self, bodies: Sequence[bytes]) -> list[bytes]:
        """A reply for each body: a RecommendReply for a RecommendRequest, or else a Problem.

        No reply is from before a change to the catalogue that was made before this call: who
        publishes a request may have put or deleted items over HTTP, which nobody told this
        process of.
        """
        requests: list[RecommendRequest] = []
        replies: list[Reply | None] = []
        for body in bodies:
            try:
                requests.append(parse(RecommendRequest, body))
                replies.append(None)
            except ServiceError as error:
                replies.append(error)
        if requests:
            await self._learn_of_changes()
        computed = iter(await self.recommend(requests) if requests else ())
        return [dump(next(computed) if reply is None else reply) for reply in replies]

    async def similar(
        self, item_id: str, k: int | None, model: str | None = None, space: str | None = None
    ) -> bytes:
        """The items most similar to one; raises ServiceError."""
        async with deadline(self._deadline_ms):
            reply = await self._engine.similar(item_id, k, model, space)
        if isinstance(reply, ServiceError):
            raise reply
        return reply

    async def _learn_of_changes(self) -> None:
        try:
            self._engine.know(await self._items.number())
        except RedisUnavailable as error:
            logger.warning("answering by what is known of the catalogue: %s", error)

    async def accept(self, events: Sequence[Event]) -> int:
        """Keep the events in Redis and in their users' histories, and say how many they are.

        With the private server they are on its disk within a second; with another one, as its
        `appendonly` and `appendfsync` say. Raises RedisUnavailable; then all or none are kept.
        """
        return await self._histories.append(events)

    async def models(self) -> bytes:
        """The models in service."""
        async with deadline(self._deadline_ms):
            return await self._engine.models()


@asynccontextmanager
async def deadline(deadline_ms: int) -> AsyncIterator[None]:
    """Raise DeadlineExceeded if the block takes longer."""
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            f"there was no answer within the deadline of {deadline_ms} ms; "
            "try again later, or with a larger deadline_ms"
        ) from None


def dump(reply: Reply, instance: str | None = None) -> bytes:
    """The JSON of the reply, or of the problem that stands for it."""
    if isinstance(reply, ServiceError):
        return reply.problem(instance).model_dump_json().encode()
    return reply


def _query(request: RecommendRequest, histories: dict[str, list[str]] | None) -> Query:
    if request.history is not None:
        return Query(request, request.history)
    if request.user_id is None:
        return Query(request, ())
    if histories is None:
        return Query(request, (), unavailable=True)
    return Query(request, histories[request.user_id])
