"""The queue while its workers and its Redis are killed: nothing is lost, nothing answered twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.publisher import Publisher
from infra.redis import Redis, RedisUnavailable, connect, reaching, redis_server
from infra.settings import Settings

PATIENCE_S = 60.0
"""For everything to be answered in the end, on a machine that has other things to do."""

WORK = """
import asyncio, os, sys
from infra.queue import Queue
from infra.redis import RedisUnavailable, connect_async

async def main(url, stream):
    queue = Queue(connect_async(url), stream, visibility_timeout_s=1, max_deliveries=100,
                  max_backlog=10_000, reply_ttl_s=600)
    while True:
        try:
            messages = await queue.read(f"w{os.getpid()}", 8, 100)
            if messages:
                print("holds", len(messages), flush=True)
                await asyncio.sleep(0.1)
                await queue.finish([(message, message.body.upper()) for message in messages])
        except RedisUnavailable:
            await asyncio.sleep(0.1)

asyncio.run(main(*sys.argv[1:]))
"""


class Workers:
    """So many processes that answer in capitals, a batch of 8 at a time."""

    def __init__(self, url: str, stream: str, count: int) -> None:
        self._command = [sys.executable, "-c", WORK, url, stream]
        self.processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def kill_over_a_batch(self, which: int, after_s: float) -> None:
        """SIGKILL one that has read a batch, and start another in its place."""
        victim = self.processes[which]
        assert victim.stdout is not None
        assert victim.stdout.readline().startswith("holds")
        time.sleep(after_s)
        self.processes[which] = self._start()
        end(victim)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@contextmanager
def workers(url: str, stream: str, count: int) -> Iterator[Workers]:
    started = Workers(url, stream, count)
    try:
        yield started
    finally:
        for process in started.processes:
            end(process)


def patiently(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in time; Redis may be away meanwhile."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            if condition():
                return True
        except RedisUnavailable:
            pass
        time.sleep(0.1)
    return False


def answered(redis: Redis, keys: dict[str, bytes]) -> bool:
    with reaching(redis):
        return int(redis.exists(*keys)) == len(keys)


def replies(redis: Redis, keys: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Everything that was ever said to each caller."""
    with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.lrange(key, 0, -1)
        return dict(zip(keys, pipe.execute(), strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_killed_at_random_lose_nothing_and_answer_nothing_twice(
    redis_url: str, namespace: str, seed: int
) -> None:
    rng = random.Random(seed)
    stream = f"{namespace}:requests"
    with connect(redis_url) as redis:
        publisher = Publisher(redis, stream, max_backlog=1000)
        asked = {publisher.new_reply_key(): b"m%d" % i for i in range(400)}
        for key, body in asked.items():
            publisher.publish(body, reply_to=key)
        with workers(redis_url, stream, 3) as team:
            for _ in range(5):
                team.kill_over_a_batch(rng.randrange(3), rng.uniform(0, 0.15))
            assert patiently(lambda: answered(redis, asked))
            assert patiently(lambda: redis.xlen(stream) == 0)
            time.sleep(1.5)  # whoever held one that another has answered would say so now
        assert replies(redis, asked) == {key: [body.upper()] for key, body in asked.items()}


def kill_server(redis: Redis) -> None:
    """SIGKILL it, and wait until its guard has started it again."""
    os.kill(int(redis.info("server")["process_id"]), 9)
    assert patiently(lambda: bool(_ping(redis)))


def _ping(redis: Redis) -> bool:
    with reaching(redis):
        return bool(redis.ping())


def test_every_request_that_redis_took_is_answered_once_though_redis_is_killed(
    tmp_path: Path,
) -> None:
    stream = "test:requests"
    asked: dict[str, bytes] = {}
    over = threading.Event()

    def ask(url: str, who: int) -> None:
        with connect(url) as redis:
            publisher = Publisher(redis, stream, max_backlog=10_000)
            for i in range(100_000):
                if over.is_set():
                    return
                key, body = publisher.new_reply_key(), b"m%d.%d" % (who, i)
                try:
                    publisher.publish(body, reply_to=key)
                except RedisUnavailable:  # taken or not: nobody knows, so it is not counted
                    time.sleep(0.05)
                else:
                    asked[key] = body
                    time.sleep(0.005)

    with (
        redis_server(Settings(redis_url=None, state_dir=tmp_path)) as url,
        connect(url) as redis,
        workers(url, stream, 2),
    ):
        callers = [threading.Thread(target=ask, args=(url, who)) for who in range(3)]
        for caller in callers:
            caller.start()
        try:
            for pause_s in (0.7, 1.0, 0.4):
                time.sleep(pause_s)
                kill_server(redis)
        finally:
            over.set()
            for caller in callers:
                caller.join()
        assert len(asked) > 50
        assert patiently(lambda: answered(redis, asked))
        assert patiently(lambda: redis.xlen(stream) == 0)
        assert replies(redis, asked) == {key: [body.upper()] for key, body in asked.items()}


def test_a_killed_server_has_all_that_it_acknowledged_while_its_disk_was_busy(
    tmp_path: Path,
) -> None:
    """With `appendfsync everysec` some of these kills lose what was acknowledged during a sync."""
    body = os.urandom(20_000)
    with (
        redis_server(Settings(redis_url=None, state_dir=tmp_path)) as url,
        connect(url) as redis,
    ):
        for seconds in (1.5, 1.2, 1.8):
            acknowledged: list[bytes] = []
            killer = threading.Timer(seconds, kill_server, args=(connect(url),))
            killer.start()
            with pytest.raises(RedisUnavailable), reaching(redis):
                while True:
                    with redis.pipeline(transaction=False) as pipe:
                        for _ in range(20):
                            pipe.xadd("big", {"body": body})
                        acknowledged += pipe.execute()
            killer.join()
            last = acknowledged[-1]  # what is lost is lost from the end
            assert [id_ for id_, _ in redis.xrange("big", last, last)] == [last]
            assert redis.xlen("big") >= len(acknowledged)
            redis.delete("big")
