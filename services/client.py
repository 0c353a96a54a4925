"""Clients of the service: over HTTP, blocking or asynchronous, and over the Redis queue.

    with Client("http://127.0.0.1:8000") as client:
        reply = client.recommend(RecommendRequest(user_id="196", k=5))

All take and give the types of `schemas.py`, and raise ApiError with the service's own words where
it refuses, or Unreachable where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any, Self

import httpx
from pydantic import TypeAdapter, ValidationError

from infra.publisher import Publisher
from infra.redis import connect, redis_server
from infra.settings import Settings
from services import calls
from services.calls import ApiError, Call, R, Unreachable
from services.event_schemas import Event, EventsReply
from services.item_schemas import DeleteReply, Item, ItemReply, ItemsReply
from services.schemas import (
    ModelsReply,
    Problem,
    RecommendBatchReply,
    RecommendReply,
    RecommendRequest,
    SimilarReply,
)
from services.search_schemas import SearchReply, SearchRequest, SpacesReply

__all__ = ["ApiError", "AsyncClient", "Client", "QueueClient", "Unreachable", "parse_url"]

TIMEOUT_S = 65.0
"""How long an answer may take: longer than the longest deadline of a request."""


def parse_url(url: str) -> httpx.URL:
    """The URL of a service; raises Unreachable where it is none."""
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Unreachable(
            f"{url!r} is not a URL ({error}): write it as http://host:port, an IPv6 address in "
            "brackets, as http://[::1]:8000"
        ) from None


def _options(url: str) -> dict[str, Any]:
    """What an HTTP client of the service at the URL is made with; raises Unreachable."""
    host = parse_url(url).host
    # No proxy leads to this machine, whatever HTTP_PROXY says.
    return {"base_url": url, "timeout": TIMEOUT_S, "trust_env": not _is_loopback(host)}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_FAILURES = (httpx.HTTPError, UnicodeError)
"""What httpx raises where no answer comes; UnicodeError for a name that no host can have."""


def _unreachable(url: str, error: Exception) -> Unreachable:
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(f"{url} did not answer in {TIMEOUT_S:.0f} s; look at its log")
    reason = str(error) or type(error).__name__
    return Unreachable(
        f"no service answers at {url} ({reason}): start one with `recsys serve`, or name another"
    )


class Client:
    """Asks a service over HTTP. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(**_options(self._url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def recommend(self, request: RecommendRequest) -> RecommendReply:
        """Items for a user, or to go on from a history."""
        return self._send(calls.recommend(request))

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> RecommendBatchReply:
        """Many at once; one that failed has its problem in its place."""
        return self._send(calls.recommend_batch(requests))

    def similar(
        self, item_id: str, k: int | None = None, model: str | None = None, space: str | None = None
    ) -> SimilarReply:
        """The items most similar to one, in a model's space or a content space."""
        return self._send(calls.similar(item_id, k, model, space))

    def search(self, request: SearchRequest) -> SearchReply:
        """Items by words, by a picture, by examples."""
        return self._send(calls.search(request))

    def put_items(self, items: Sequence[Item]) -> ItemsReply:
        """Put items into the catalogue; they are found once they are embedded."""
        return self._send(calls.put_items(items))

    def item(self, item_id: str) -> ItemReply:
        """What is known of an item."""
        return self._send(calls.item(item_id))

    def delete_item(self, item_id: str) -> DeleteReply:
        """Hide an item at once."""
        return self._send(calls.delete_item(item_id))

    def spaces(self) -> SpacesReply:
        """The content spaces in service."""
        return self._send(calls.spaces())

    def events(self, events: Sequence[Event]) -> EventsReply:
        """Tell what users did."""
        return self._send(calls.events(events))

    def models(self) -> ModelsReply:
        """The models in service."""
        return self._send(calls.models())

    def _send(self, call: Call[R]) -> R:
        try:
            response = self._http.request(**call.options())
        except _FAILURES as error:
            raise _unreachable(self._url, error) from error
        return call.read(response)


class AsyncClient:
    """As Client, for asyncio."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(**_options(self._url))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def recommend(self, request: RecommendRequest) -> RecommendReply:
        return await self._send(calls.recommend(request))

    async def recommend_batch(self, requests: Sequence[RecommendRequest]) -> RecommendBatchReply:
        return await self._send(calls.recommend_batch(requests))

    async def similar(
        self, item_id: str, k: int | None = None, model: str | None = None, space: str | None = None
    ) -> SimilarReply:
        return await self._send(calls.similar(item_id, k, model, space))

    async def search(self, request: SearchRequest) -> SearchReply:
        return await self._send(calls.search(request))

    async def put_items(self, items: Sequence[Item]) -> ItemsReply:
        return await self._send(calls.put_items(items))

    async def item(self, item_id: str) -> ItemReply:
        return await self._send(calls.item(item_id))

    async def delete_item(self, item_id: str) -> DeleteReply:
        return await self._send(calls.delete_item(item_id))

    async def spaces(self) -> SpacesReply:
        return await self._send(calls.spaces())

    async def events(self, events: Sequence[Event]) -> EventsReply:
        return await self._send(calls.events(events))

    async def models(self) -> ModelsReply:
        return await self._send(calls.models())

    async def _send(self, call: Call[R]) -> R:
        try:
            response = await self._http.request(**call.options())
        except _FAILURES as error:
            raise _unreachable(self._url, error) from error
        return call.read(response)


class QueueClient:
    """Asks a service over the Redis queue, which also keeps requests while none is running."""

    def __init__(
        self, redis_url: str, namespace: str, *, deadline_ms: int, max_backlog: int
    ) -> None:
        """deadline_ms: of a request that names none; the answer is waited for as long."""
        self._deadline_ms = deadline_ms
        self._stream = f"{namespace}:requests"
        self._close = ExitStack()
        redis = connect(redis_url)
        self._close.callback(redis.close)
        self._publisher = Publisher(redis, self._stream, max_backlog=max_backlog)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A client of the Redis that the settings name, or of the private one of `state_dir`."""
        with ExitStack() as stack:
            client = cls(
                stack.enter_context(redis_server(settings)),
                settings.namespace,
                deadline_ms=settings.deadline_ms,
                max_backlog=settings.max_backlog,
            )
            client._close.push(stack.pop_all().__exit__)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._close.close()

    def recommend(self, request: RecommendRequest) -> RecommendReply:
        """Items for a user, or to go on from a history.

        Raises ApiError, or Unreachable if there is no reply before the deadline; QueueFull and
        RedisUnavailable as they come.
        """
        deadline_ms = request.deadline_ms or self._deadline_ms
        reply_to = self._publisher.new_reply_key()
        self._publisher.publish(
            request.model_dump_json(exclude_unset=True).encode(),
            deadline_ms=int(time.time() * 1000) + deadline_ms,
            reply_to=reply_to,
        )
        body = self._publisher.wait_reply(reply_to, deadline_ms / 1000)
        if body is None:
            raise Unreachable(
                f"no reply came over {self._stream} in {deadline_ms} ms: see that `recsys serve` "
                "runs with the same RECSYS_REDIS_URL, RECSYS_NAMESPACE and RECSYS_STATE_DIR"
            )
        try:
            reply = _QUEUE_REPLY.validate_json(body)
        except ValidationError:
            raise Unreachable(
                f"what answers over {self._stream} does not answer as this service does; check "
                "RECSYS_REDIS_URL and RECSYS_NAMESPACE"
            ) from None
        if isinstance(reply, Problem):
            raise ApiError(reply)
        return reply


_QUEUE_REPLY: TypeAdapter[RecommendReply | Problem] = TypeAdapter(RecommendReply | Problem)
