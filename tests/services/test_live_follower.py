"""The live catalogue is followed through whatever happens to Redis and to what stands in it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from infra.loopback import free_port
from infra.private_redis import server_binary
from infra.redis import AsyncRedis, RedisUnavailable, connect_async, reaching
from recsys.registry import Registry
from services import live_follower
from services.active_models import ActiveModels
from services.item_schemas import Item
from services.live_catalogue import LiveCatalogue
from services.live_follower import LiveFollower
from services.live_items import LiveItems


class Server:
    """A Redis that can be killed and started again, without a memory of what was before."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [server_binary(), *options], cwd=self._folder, stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


async def answers(redis: AsyncRedis) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                with reaching(redis):
                    await redis.ping()
                return
            except RedisUnavailable:
                await asyncio.sleep(0.02)


def item(item_id: str) -> Item:
    return Item(item_id=item_id, title=item_id)


class Failing(ActiveModels):
    """Models over which nothing can be laid as often as this says."""

    failures = 0

    def lay(self, live: LiveCatalogue) -> None:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("nothing can be laid")
        super().lay(live)


class World:
    """A follower that runs, and what it follows."""

    def __init__(self, registry: Registry, redis: AsyncRedis, namespace: str) -> None:
        self.redis = redis
        self.namespace = namespace
        self.items = LiveItems(redis, namespace, max_backlog=100)
        self.models = Failing(registry, "popularity")
        self.follower = LiveFollower(self.items, self.models)

    def live(self) -> set[str]:
        return set(self.models.recommender.searcher.live.entries)


Story = Callable[[World], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(
    registry: Registry, server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Play:
    monkeypatch.setattr(live_follower, "PAUSE_S", 0.2)

    def play(story: Story, follows: bool = True) -> None:
        async def run() -> None:
            redis = connect_async(server.url)
            await answers(redis)
            world = World(registry, redis, namespace)
            following = asyncio.create_task(world.follower.follow())
            if not follows:
                following.cancel()
            try:
                await story(world)
                assert following.done() is not follows
            finally:
                following.cancel()
                await redis.aclose()

        asyncio.run(run())

    return play


def test_a_restart_that_forgot_what_was_is_noticed_though_the_numbers_are_the_same(
    play: Play, server: Server
) -> None:
    async def story(world: World) -> None:
        follower = LiveFollower(world.items, world.models)  # one that looks when it is told to
        await follower.catch_up(await world.items.put([item("a"), item("b")]))
        assert world.live() == {"a", "b"}
        server.kill()
        server.start()
        await answers(world.redis)
        assert await world.items.put([item("c"), item("d")]) == 2
        await follower.catch_up(3)
        assert world.live() == {"c", "d"}

    play(story, follows=False)


def test_what_is_known_stays_in_force_while_redis_is_down_and_is_followed_again_after(
    play: Play, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(world: World) -> None:
        number = await world.items.put([item("a")])
        await until(lambda: world.live() == {"a"})
        server.kill()
        await asyncio.gather(*(world.follower.catch_up(number + 1) for _ in range(20)))
        await asyncio.sleep(0.5)
        assert world.live() == {"a"}
        server.start()
        await until(lambda: world.live() == set())
        await world.items.put([item("b")])
        await until(lambda: world.live() == {"b"})

    play(story)
    told = [r.getMessage() for r in caplog.records if r.name == live_follower.__name__]
    assert len(told) < 5, "the same failure is told once"
    assert "is not available" in told[0]
    assert "followed again" in told[-1]


def test_a_failure_of_laying_is_told_and_tried_again(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(world: World) -> None:
        await until(lambda: world.models.recommender.searcher.live.generation != "")
        world.models.failures = 3
        number = await world.items.put([item("a")])
        await world.follower.catch_up(number)  # answers by what is known, rather than not at all
        await until(lambda: world.live() == {"a"})

    play(story)
    [record] = [r for r in caplog.records if r.exc_info is not None]
    assert "ZeroDivisionError('nothing can be laid')" in record.getMessage()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("items", b"2 {no JSON"),
        ("items", b"\xff\xfe"),
        ("items", b'2 {"title": 7}'),
        ("items:states:text", b"nonsense"),
    ],
)
def test_a_damaged_item_is_named_and_passed_over_until_it_is_put_anew(
    play: Play, caplog: pytest.LogCaptureFixture, key: str, value: bytes
) -> None:
    async def story(world: World) -> None:
        async with world.redis.pipeline(transaction=True) as pipe:
            await world.items.put([item("a")])
            pipe.hset(f"{world.namespace}:{key}", "b", value)
            pipe.incr(f"{world.namespace}:items:number")
            pipe.zadd(f"{world.namespace}:items:changes", {"b": 2})
            await pipe.execute()
        await world.items.put([item("c")])
        await until(lambda: {"a", "c"} <= world.live())
        await world.items.put([item("b")])
        await until(lambda: world.live() == {"a", "b", "c"})

    play(story)
    assert any("'b'" in r.getMessage() and r.levelno == logging.ERROR for r in caplog.records)


@pytest.mark.parametrize("rest", [b"", b"x" * 16, b"x" * 16 + b"abc", b"x" * 16 + bytes(64)])
def test_an_item_with_a_damaged_vector_is_known_without_it(play: Play, rest: bytes) -> None:
    async def story(world: World) -> None:
        key = f"{world.namespace}:items:vectors:text"
        await world.redis.hset(key, "a", b"hashing-64\0" + rest)  # type: ignore[misc]
        await world.items.put([item("a")])
        await until(lambda: world.live() == {"a"})
        assert world.models.recommender.searcher.live.entries["a"].vectors == {}

    play(story)
