"""A queue consumer that is killed over a batch: no request is lost, none is answered twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from infra.publisher import Publisher
from infra.redis import Redis, connect

REQUESTS = 60
VISIBILITY_S = 1.0

CONSUME = """
import asyncio, os, sys
from infra.queue import Queue
from infra.redis import connect_async
from services.consumer import Consumer

url, stream, takes_s, visibility_s = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])

async def answer(bodies):
    print("holds", len(bodies), flush=True)
    if b"poison" in bodies:
        os._exit(1)
    await asyncio.sleep(takes_s)
    return [body.upper() for body in bodies]

async def main():
    queue = Queue(connect_async(url), stream, visibility_timeout_s=visibility_s, max_deliveries=2,
                  max_backlog=1000, reply_ttl_s=60)
    consumer = Consumer(queue, answer, micro_batch=16, visibility_timeout_s=visibility_s)
    await consumer.run(asyncio.Event())

asyncio.run(main())
"""


def consumer(url: str, stream: str, takes_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONSUME, url, stream, str(takes_s), str(VISIBILITY_S)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("killed_after_s", [0.0, 0.3, 1.5])
def test_requests_of_a_killed_consumer_are_answered_once_by_another(
    redis_url: str, namespace: str, killed_after_s: float
) -> None:
    """The moments are before, in and after the first renewal of the lease, 0.33 s from the read."""
    stream = f"{namespace}:requests"
    redis = connect(redis_url)
    publisher = Publisher(redis, stream, max_backlog=1000)
    keys = [publisher.new_reply_key() for _ in range(REQUESTS)]
    for i, key in enumerate(keys):
        publisher.publish(b"m%d" % i, reply_to=key)
    first = consumer(redis_url, stream, takes_s=60)
    second = None
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds 16\n"
        time.sleep(killed_after_s)
        os.kill(first.pid, signal.SIGKILL)
        second = consumer(redis_url, stream, takes_s=0.01)
        replies = [publisher.wait_reply(key, 20) for key in keys]
        assert replies == [b"M%d" % i for i in range(REQUESTS)]
        time.sleep(VISIBILITY_S)
        assert given_again(redis, keys) == 0
        assert redis.xlen(stream) == 0
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
        redis.close()


def test_of_two_consumers_that_hold_a_request_only_one_answers_it(
    redis_url: str, namespace: str
) -> None:
    """One that is stopped, not killed, wakes up with a reply to what another has answered."""
    stream = f"{namespace}:requests"
    redis = connect(redis_url)
    publisher = Publisher(redis, stream, max_backlog=1000)
    key = publisher.new_reply_key()
    publisher.publish(b"both", reply_to=key)
    sleeper = consumer(redis_url, stream, takes_s=0.5)
    other = None
    try:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "holds 1\n"
        os.kill(sleeper.pid, signal.SIGSTOP)
        other = consumer(redis_url, stream, takes_s=0.01)
        assert publisher.wait_reply(key, 20) == b"BOTH"
        os.kill(sleeper.pid, signal.SIGCONT)
        time.sleep(1.5)
        assert given_again(redis, [key]) == 0
    finally:
        for process in (sleeper, other):
            if process is not None:
                process.kill()
                process.wait()
        redis.close()


def test_a_request_that_kills_its_consumers_is_buried_and_those_beside_it_are_answered(
    redis_url: str, namespace: str
) -> None:
    stream = f"{namespace}:requests"
    redis = connect(redis_url)
    publisher = Publisher(redis, stream, max_backlog=1000)
    keys = [publisher.new_reply_key() for _ in range(12)]
    for i, key in enumerate(keys):
        publisher.publish(b"poison" if i == 3 else b"m%d" % i, reply_to=key)
    killed = 0
    worker = consumer(redis_url, stream, takes_s=0.01)
    try:
        until = time.monotonic() + 60
        while redis.xlen(stream) > 0:
            assert time.monotonic() < until
            if worker.poll() is not None:
                killed += 1
                worker = consumer(redis_url, stream, takes_s=0.01)
            time.sleep(0.05)
        replies = [publisher.wait_reply(key, 1) for key in keys]
        problem = json.loads(replies.pop(3) or b"{}")
        assert replies == [b"M%d" % i for i in range(12) if i != 3]
        assert (problem["status"], problem["title"]) == (500, "Not answered")
        assert killed == 2
        assert redis.xlen(f"{stream}:dead") == 1
    finally:
        worker.kill()
        worker.wait()
        redis.close()


def given_again(redis: Redis, keys: list[str]) -> int:
    return sum(int(redis.exists(key)) for key in keys)
