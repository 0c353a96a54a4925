"""Histories in a real Redis: in order, once, capped, and gone in time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.redis import AsyncRedis, connect_async
from services.event_schemas import Event
from services.history import HistoryStore

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

Story = Callable[[AsyncRedis, HistoryStore], Awaitable[None]]


def event(item_id: str, minute: int, user_id: str = "ann") -> Event:
    return Event(user_id=user_id, item_id=item_id, timestamp=NOON + timedelta(minutes=minute))


@pytest.fixture
def tell(redis_url: str, namespace: str) -> Callable[[Story], None]:
    """Runs a story with a store of at most 5 items a user."""

    def run(story: Story) -> None:
        async def main() -> None:
            redis = connect_async(redis_url)
            try:
                await story(redis, HistoryStore(redis, namespace, max_items=5, ttl_s=100))
            finally:
                await redis.aclose()

        asyncio.run(main())

    return run


def test_what_was_told_is_read_at_once_oldest_first(tell: Callable[[Story], None]) -> None:
    async def story(_redis: AsyncRedis, store: HistoryStore) -> None:
        assert await store.append([event("tea", 1), event("jam", 2), event("rye", 1, "bob")]) == 3
        assert await store.read(["bob", "ann", "nobody"]) == [["rye"], ["tea", "jam"], []]

    tell(story)


def test_a_late_event_sorts_in_where_it_belongs(tell: Callable[[Story], None]) -> None:
    async def story(_redis: AsyncRedis, store: HistoryStore) -> None:
        await store.append([event("second", 2)])
        await store.append([event("first", 1)])
        assert await store.read(["ann"]) == [["first", "second"]]

    tell(story)


def test_an_event_told_twice_counts_once_but_doing_it_again_counts(
    tell: Callable[[Story], None],
) -> None:
    async def story(_redis: AsyncRedis, store: HistoryStore) -> None:
        for _ in range(2):
            await store.append([event("tea", 1)])
        await store.append([event("tea", 2)])
        assert await store.read(["ann"]) == [["tea", "tea"]]

    tell(story)


def test_events_of_the_same_moment_stay_in_their_order(tell: Callable[[Story], None]) -> None:
    async def story(_redis: AsyncRedis, store: HistoryStore) -> None:
        await store.append([event(item, 1) for item in ("z", "a", "m")])
        assert await store.read(["ann"]) == [["z", "a", "m"]]

    tell(story)


def test_events_of_the_same_moment_stay_in_the_order_of_their_arrival(
    tell: Callable[[Story], None],
) -> None:
    async def story(_redis: AsyncRedis, store: HistoryStore) -> None:
        for item in ("z", "a", "m"):
            await store.append([event(item, 1)])
        assert await store.read(["ann"]) == [["z", "a", "m"]]

    tell(story)


@given(
    told=st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2)), min_size=1, max_size=12),
    cuts=st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted),
    again=st.integers(0, 12),
)
@settings(max_examples=40, deadline=None)
def test_however_events_are_told_and_told_again_the_history_is_the_same(
    redis_url: str, told: list[tuple[str, int]], cuts: list[int], again: int
) -> None:
    """Seeded up to one place, told up to another, and then again from a third."""
    seeded, cut = cuts
    events = [event(item, minute) for item, minute in told]
    millis = [int(each.timestamp.timestamp()) * 1000 for each in events]

    async def main() -> list[str]:
        redis = connect_async(redis_url)
        store = HistoryStore(redis, f"test-{uuid.uuid4().hex[:8]}", max_items=20, ttl_s=100)
        try:
            for _ in range(2):
                before = [each.item_id for each in events[:seeded]]
                await store.seed(["ann"], [before], [millis[:seeded]])
            for part in (events[seeded:cut], events[cut:], events[again:]):
                await store.append(part)
            return (await store.read(["ann"]))[0]
        finally:
            await redis.aclose()

    once = dict.fromkeys(told)
    assert asyncio.run(main()) == [item for item, _ in sorted(once, key=lambda each: each[1])]


def test_only_the_newest_are_kept_and_not_for_ever(
    tell: Callable[[Story], None], namespace: str
) -> None:
    async def story(redis: AsyncRedis, store: HistoryStore) -> None:
        await store.append([event(f"i{n}", n) for n in range(8)])
        assert await store.read(["ann"]) == [["i3", "i4", "i5", "i6", "i7"]]
        assert 0 < await redis.ttl(f"{namespace}:history:ann") <= 100

    tell(story)


def test_a_seeded_order_without_times_comes_before_what_happens_now(
    tell: Callable[[Story], None],
) -> None:
    async def story(_redis: AsyncRedis, store: HistoryStore) -> None:
        await store.seed(["ann", "bob"], [["z", "a"], []], None)
        await store.append([event("now", 0)])
        assert await store.read(["ann", "bob"]) == [["z", "a", "now"], []]

    tell(story)


def test_every_event_is_in_the_stream_to_train_from(
    tell: Callable[[Story], None], namespace: str
) -> None:
    async def story(redis: AsyncRedis, store: HistoryStore) -> None:
        await store.append([event("caffè:ü", 1)])
        ((_, fields),) = await redis.xrange(f"{namespace}:events")
        assert fields[b"item_id"].decode() == "caffè:ü"
        assert await store.read(["ann"]) == [["caffè:ü"]]

    tell(story)
