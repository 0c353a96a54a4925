"""The consumer on a real Redis: every message answered, together, once, and through trouble."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from infra.queue import Queue
from infra.redis import AsyncRedis, RedisUnavailable, connect_async, redis_server
from infra.settings import Settings
from services.consumer import BLOCK_MS, Consumer

T = TypeVar("T")

VISIBILITY_S = 0.6


class Upper:
    """Answers with the body in capitals; refuses a body that holds `poison`."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.batches: list[list[bytes]] = []
        self.takes_s = takes_s

    async def __call__(self, bodies: Sequence[bytes]) -> list[bytes]:
        self.batches.append(list(bodies))
        await asyncio.sleep(self.takes_s)
        if any(b"poison" in body for body in bodies):
            raise ValueError("poison")
        return [body.upper() for body in bodies]


class Desk:
    """A queue in a namespace of its own, and consumers of it."""

    def __init__(self, redis: AsyncRedis, namespace: str, max_deliveries: int = 5) -> None:
        self.redis = redis
        self.namespace = namespace
        self.max_deliveries = max_deliveries
        self.queue = self.new_queue()

    def new_queue(self) -> Queue:
        return Queue(
            self.redis,
            f"{self.namespace}:requests",
            visibility_timeout_s=VISIBILITY_S,
            max_deliveries=self.max_deliveries,
            max_backlog=1000,
            reply_ttl_s=30,
        )

    async def ask(self, body: bytes, within_s: float | None = None) -> str:
        reply_to = self.queue.new_reply_key()
        deadline_ms = None if within_s is None else int((time.time() + within_s) * 1000)
        await self.queue.publish(body, reply_to=reply_to, deadline_ms=deadline_ms)
        return reply_to

    async def reply(self, reply_to: str, timeout_s: float = 10) -> bytes:
        reply = await self.queue.wait_reply(reply_to, timeout_s)
        assert reply is not None, "no reply came"
        return reply

    @asynccontextmanager
    async def consumer(
        self, answer: Upper, micro_batch: int = 64, back_off_s: float | None = None
    ) -> AsyncIterator[asyncio.Event]:
        """Runs for the block, or until the event that it gives is set."""
        consumer = Consumer(
            self.new_queue(),
            answer,
            micro_batch=micro_batch,
            visibility_timeout_s=VISIBILITY_S,
            back_off_s=back_off_s,
        )
        stop = asyncio.Event()
        run = asyncio.create_task(consumer.run(stop))
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(run, 10)


Story = Callable[[Desk], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(redis_url: str, namespace: str) -> Play:
    """Runs a story at a desk."""

    def play(story: Story, max_deliveries: int = 5) -> None:
        async def run() -> None:
            redis = connect_async(redis_url)
            try:
                await story(Desk(redis, namespace, max_deliveries))
            finally:
                await redis.aclose()

        asyncio.run(run())

    return play


def test_every_message_is_answered_with_its_own_reply(play: Play) -> None:
    async def story(desk: Desk) -> None:
        async with desk.consumer(Upper()):
            keys = [await desk.ask(f"m{i}".encode()) for i in range(100)]
            replies = [await desk.reply(key) for key in keys]
        assert replies == [f"M{i}".encode() for i in range(100)]
        backlog = await desk.queue.backlog()
        assert (backlog.lag, backlog.pending) == (0, 0)

    play(story)


def test_what_waits_is_answered_in_micro_batches(play: Play) -> None:
    async def story(desk: Desk) -> None:
        keys = [await desk.ask(b"%d" % i) for i in range(10)]
        upper = Upper()
        async with desk.consumer(upper, micro_batch=4):
            for key in keys:
                await desk.reply(key)
        assert [len(batch) for batch in upper.batches] == [4, 4, 2]

    play(story)


def test_work_that_takes_long_is_not_taken_away(play: Play) -> None:
    async def story(desk: Desk) -> None:
        slow, other = Upper(takes_s=3 * VISIBILITY_S), Upper()
        async with desk.consumer(slow):
            key = await desk.ask(b"long")
            while not slow.batches:
                await asyncio.sleep(0.01)
            async with desk.consumer(other):
                assert await desk.reply(key) == b"LONG"
        assert other.batches == []

    play(story)


def test_a_consumer_that_is_stopped_answers_what_it_holds(play: Play) -> None:
    async def story(desk: Desk) -> None:
        upper = Upper(takes_s=0.5)
        key = await desk.ask(b"held")
        async with desk.consumer(upper) as stop:
            while not upper.batches:
                await asyncio.sleep(0.01)
            stop.set()
            late = await desk.ask(b"late")
        assert await desk.reply(key, 1) == b"HELD"
        assert await desk.queue.wait_reply(late, 0.5) is None

    play(story)


def test_an_idle_consumer_stops_promptly(play: Play) -> None:
    async def story(desk: Desk) -> None:
        async with desk.consumer(Upper()) as stop:
            await asyncio.sleep(0.1)
            stop.set()
            began = time.monotonic()
        assert time.monotonic() - began < BLOCK_MS / 1000 + 1

    play(story)


def test_one_that_cannot_be_answered_takes_no_other_with_it(play: Play) -> None:
    async def story(desk: Desk) -> None:
        good = [await desk.ask(b"a"), await desk.ask(b"b")]
        bad = await desk.ask(b"poison")
        async with desk.consumer(Upper()):
            assert [await desk.reply(key) for key in good] == [b"A", b"B"]
            problem = json.loads(await desk.reply(bad))
        assert problem["status"] == 500
        [letter] = await desk.queue.dead.newest()
        assert letter.fields["body"] == b"poison"
        assert letter.deliveries == 3

    play(story, max_deliveries=2)


def test_what_fails_is_tried_again_after_longer_and_longer_pauses(play: Play) -> None:
    class Timed(Upper):
        async def __call__(self, bodies: Sequence[bytes]) -> list[bytes]:
            moments.append(time.monotonic())
            return await super().__call__(bodies)

    moments: list[float] = []

    async def story(desk: Desk) -> None:
        bad = await desk.ask(b"poison")
        async with desk.consumer(Timed(), back_off_s=0.1):
            problem = json.loads(await desk.reply(bad))
        assert "ValueError: poison" in problem["detail"]
        [letter] = await desk.queue.dead.newest()
        assert (letter.reason, letter.deliveries) == ("ValueError: poison", 3)

    play(story, max_deliveries=3)
    assert moments[1] - moments[0] >= 0.1
    assert moments[2] - moments[1] >= 0.2


def test_what_expires_while_another_is_tried_is_dropped_and_not_computed(play: Play) -> None:
    async def story(desk: Desk) -> None:
        await desk.ask(b"poison")
        await desk.ask(b"brief", within_s=0.3)
        good = await desk.ask(b"good")
        upper = Upper(takes_s=0.4)
        async with desk.consumer(upper):
            assert await desk.reply(good) == b"GOOD"
        assert upper.batches == [[b"poison", b"brief", b"good"], [b"poison"], [b"good"]]

    play(story)


def test_an_answer_is_not_waited_for_longer_than_it_is_of_use(play: Play) -> None:
    async def story(desk: Desk) -> None:
        hangs = Upper(takes_s=60)
        gone = [await desk.ask(b"never", within_s=0.3) for _ in range(2)]
        async with desk.consumer(hangs):
            while await desk.redis.xlen(f"{desk.namespace}:requests"):
                await asyncio.sleep(0.05)
            hangs.takes_s = 0
            assert await desk.reply(await desk.ask(b"next", within_s=10)) == b"NEXT"
        assert hangs.batches == [[b"never", b"never"], [b"next"]]
        assert await desk.redis.exists(*gone) == 0

    play(story)


async def patiently(do: Callable[[], Awaitable[T]]) -> T:
    """What it gives once Redis is there again."""
    until = time.monotonic() + 20
    while True:
        try:
            return await do()
        except RedisUnavailable:
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


def test_redis_may_be_killed_while_an_answer_is_computed(tmp_path: Path) -> None:
    async def story(url: str) -> None:
        redis = connect_async(url)
        desk = Desk(redis, "restart")
        upper = Upper(takes_s=0.5)
        try:
            key = await desk.ask(b"before")
            async with desk.consumer(upper):
                while not upper.batches:
                    await asyncio.sleep(0.01)
                os.kill((await redis.info("server"))["process_id"], signal.SIGKILL)
                assert await patiently(lambda: desk.reply(key)) == b"BEFORE"
                later = await patiently(lambda: desk.ask(b"after"))
                assert await patiently(lambda: desk.reply(later)) == b"AFTER"
        finally:
            await redis.aclose()

    with redis_server(Settings(redis_url=None, state_dir=tmp_path)) as url:
        asyncio.run(story(url))
