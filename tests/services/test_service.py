"""What HTTP and the queue share: one reading of bodies, one way to give up on an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from ray.exceptions import ActorDiedError

from infra.redis import connect_async
from recsys.registry import Registry
from services import remote
from services.active_models import ActiveModels
from services.history import HistoryStore
from services.live_follower import LiveFollower
from services.live_items import LiveItems
from services.problems import MAX_BODY, Unavailable
from services.remote import RemoteEngine
from services.schemas import Problem, RecommendReply
from services.service import Service
from tests.near import Near

T = TypeVar("T")


class Deployment:
    """Calls as a Ray Serve handle takes them, of a replica that dies so many times."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.calls = 0
        self.models = self

    async def remote(self, number: int) -> bytes:
        self.calls += 1
        if self.calls <= self.deaths:
            raise ActorDiedError
        return b"{}"


def asked(deployment: Any) -> bytes:
    return asyncio.run(RemoteEngine(deployment).models())


@pytest.fixture
def ask(
    registry: Registry, redis_url: str, namespace: str
) -> Callable[[Callable[[Service], Awaitable[T]]], T]:
    """Runs a story with a service whose engine looks for changes only when it has to."""
    models = ActiveModels(registry, "ials")

    def run(story: Callable[[Service], Awaitable[T]]) -> T:
        async def main() -> T:
            redis = connect_async(redis_url)
            histories = HistoryStore(redis, namespace, max_items=10, ttl_s=60)
            near = Near(models, LiveFollower(LiveItems(redis, namespace, max_backlog=10), models))
            items = LiveItems(redis, namespace, max_backlog=10)
            service = Service(near, histories, items, micro_batch=4, deadline_ms=2000)
            try:
                return await story(service)
            finally:
                await redis.aclose()

        return asyncio.run(main())

    return run


def test_another_replica_is_asked_where_one_dies() -> None:
    deployment = Deployment(deaths=2)
    assert asked(deployment) == b"{}"
    assert deployment.calls == 3


def test_a_call_that_goes_on_killing_replicas_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.3)
    deployment = Deployment(deaths=1000)
    with pytest.raises(Unavailable, match="ended more than once"):
        asked(deployment)
    assert 2 <= deployment.calls <= 5


@pytest.mark.parametrize(
    ("body", "lifetime_ms"),
    [
        (b'{"user_id": "u", "deadline_ms": 500}', 500),
        (b'{"user_id": "u"}', 2000),
        (b'{"deadline_ms": null}', 2000),
        (b'{"deadline_ms": -5}', 2000),
        (b"no JSON", 2000),
        (b'{"deadline_ms": 500, "user_id": "' + b"u" * MAX_BODY + b'"}', 2000),
    ],
)
def test_a_queued_body_says_how_long_its_answer_is_of_use(
    ask: Callable[[Callable[[Service], Awaitable[int]]], int], body: bytes, lifetime_ms: int
) -> None:
    async def story(service: Service) -> int:
        return service.lifetime_ms(body)

    assert ask(story) == lifetime_ms


def test_what_was_deleted_elsewhere_leaves_the_very_next_answer_over_the_queue(
    ask: Callable[[Callable[[Service], Awaitable[list[str]]]], list[str]],
    redis_url: str,
    namespace: str,
) -> None:
    body = b'{"history": ["comedy-0", "comedy-1"], "k": 5}'

    async def recommended(service: Service) -> list[str]:
        [reply] = await service.answer([body])
        return [item.item_id for item in RecommendReply.model_validate_json(reply).items]

    async def story(service: Service) -> list[str]:
        [first, *_] = await recommended(service)
        redis = connect_async(redis_url)
        await LiveItems(redis, namespace, max_backlog=10).delete(first)
        await redis.aclose()
        return [first, *await recommended(service)]

    deleted, *after = ask(story)
    assert deleted not in after
    assert len(after) == 5


def test_a_huge_body_over_the_queue_is_answered_as_over_http(
    ask: Callable[[Callable[[Service], Awaitable[list[bytes]]]], list[bytes]],
) -> None:
    async def story(service: Service) -> list[bytes]:
        return await service.answer([b" " * (MAX_BODY + 1)])

    [reply] = ask(story)
    problem = Problem.model_validate_json(reply)
    assert (problem.status, problem.title) == (413, "Body too large")
