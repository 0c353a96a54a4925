"""The queue on a real Redis: at least once to the workers, one reply to the caller."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.dead_letters import MOST_BYTES
from infra.message import Lifetime
from infra.publisher import Publisher, QueueFull
from infra.queue import OnBury, Queue
from infra.redis import AsyncRedis, RedisUnavailable, connect, connect_async

VISIBILITY_S = 0.2

Story = Callable[["Desk"], Awaitable[None]]


class Desk:
    """One stream, and queues on it."""

    def __init__(self, redis: AsyncRedis, namespace: str) -> None:
        self.redis = redis
        self.stream = f"{namespace}:requests"
        self.queue = self.another()

    def another(
        self,
        lifetime: Lifetime | None = None,
        on_bury: OnBury | None = None,
        visibility_s: float = VISIBILITY_S,
    ) -> Queue:
        """The queue as another worker's process has it."""
        return Queue(
            self.redis,
            self.stream,
            visibility_timeout_s=visibility_s,
            max_deliveries=2,
            max_backlog=5,
            reply_ttl_s=30,
            lifetime=lifetime,
            on_bury=on_bury,
        )

    async def add(self, body: bytes, **fields: Any) -> str:
        """Add a message as any client of Redis may, and return its reply key."""
        key = self.queue.new_reply_key()
        await self.redis.xadd(self.stream, {"body": body, "reply_to": key, **fields})
        return key

    async def problem(self, key: str) -> dict[str, Any]:
        """The problem document that the caller gets."""
        problem: dict[str, Any] = json.loads(await self.queue.wait_reply(key, 1) or b"{}")
        return problem


@pytest.fixture
def tell(redis_url: str, namespace: str) -> Callable[[Story], None]:
    """Runs a story in an event loop with a Desk of its own."""

    @asynccontextmanager
    async def desk() -> AsyncIterator[Desk]:
        redis = connect_async(redis_url)
        try:
            yield Desk(redis, namespace)
        finally:
            await redis.aclose()

    def run(story: Story) -> None:
        async def main() -> None:
            async with desk() as given:
                await story(given)

        asyncio.run(main())

    return run


def test_a_message_is_read_answered_once_and_gone(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        key = desk.queue.new_reply_key()
        id_ = await desk.queue.publish(b"question", reply_to=key)
        (message,) = await desk.queue.read("w1", 10, 100)
        assert (message.id, message.body, message.deliveries) == (id_, b"question", 1)
        assert await desk.queue.finish([(message, b"answer")]) == 1
        assert await desk.queue.finish([(message, b"again")]) == 0
        assert 0 < await desk.redis.pttl(key) <= 30_000, "a reply that nobody takes goes"
        assert await desk.queue.wait_reply(key, 1) == b"answer"
        assert await desk.redis.exists(key, desk.stream) == 1, "only the empty stream is left"
        assert await desk.redis.xlen(desk.stream) == 0

    tell(story)


def test_what_was_published_before_the_first_worker_came_is_read(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"early")
        assert [m.body for m in await desk.another().read("w1", 10, 100)] == [b"early"]

    tell(story)


def test_the_messages_of_a_silent_worker_go_to_another_and_the_first_to_finish_replies(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        key = desk.queue.new_reply_key()
        await desk.queue.publish(b"question", reply_to=key)
        (held,) = await desk.queue.read("silent", 10, 100)
        await asyncio.sleep(2 * VISIBILITY_S)
        (claimed,) = await desk.another().read("other", 10, 100)
        assert (claimed.id, claimed.deliveries) == (held.id, 2)
        assert await desk.queue.finish([(held, b"late but first")]) == 1
        assert await desk.queue.finish([(claimed, b"second")]) == 0
        assert await desk.redis.lrange(key, 0, -1) == [b"late but first"]

    tell(story)


def test_a_renewed_message_stays_its_workers(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"long work")
        held = await desk.queue.read("busy", 10, 100)
        for _ in range(6):
            await asyncio.sleep(VISIBILITY_S / 3)
            assert await desk.queue.renew("busy", held) == 1
        assert await desk.another().read("other", 10, 1) == []

    tell(story)


def test_what_is_given_back_is_read_again_after_its_delay_and_not_before(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"later")
        queue, other = desk.another(visibility_s=60), desk.another(visibility_s=60)
        (message,) = await queue.read("w1", 10, 100)
        began = time.monotonic()
        await queue.give_back("w1", message, "not now", 0.5)
        while not (again := await other.read("w2", 10, 10)):
            assert time.monotonic() - began < 30
        assert time.monotonic() - began >= 0.5
        assert (again[0].body, again[0].deliveries) == (b"later", 2)

    tell(story)


def test_what_is_postponed_is_read_again_as_if_it_had_not_been_tried(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"later")
        for _ in range(4):
            while not (held := await desk.queue.read("w1", 10, 10)):
                pass
            assert held[0].deliveries == 1
            await desk.queue.postpone("w1", held[0], 0)

    tell(story)


def test_what_is_given_back_the_last_time_is_buried_with_that_reason(
    tell: Callable[[Story], None],
) -> None:
    told: list[tuple[bytes, str]] = []

    async def on_bury(body: bytes, reason: str) -> str:
        told.append((body, reason))
        return f"{reason} of poison"

    async def story(desk: Desk) -> None:
        queue = desk.another(on_bury=on_bury)
        key = await desk.add(b"poison")
        for reason in ("first", "second"):
            while not (held := await queue.read("w1", 10, 10)):
                pass
            await queue.give_back("w1", held[0], reason, 0)
        (letter,) = await queue.dead.newest()
        assert (letter.reason, letter.deliveries) == ("second of poison", 2)
        assert (await desk.problem(key))["detail"].endswith(": second")

    tell(story)
    assert told == [(b"poison", "second")]


def test_what_another_holds_by_now_cannot_be_given_back(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"slow")
        (held,) = await desk.queue.read("slow", 10, 100)
        await asyncio.sleep(1.2 * VISIBILITY_S)
        (claimed,) = await desk.another().read("other", 10, 10)
        await desk.queue.give_back("slow", held, "too late", 0)
        await desk.queue.give_back("slow", claimed, "too late and the last try", 0)
        assert await desk.another().read("third", 10, 1) == []
        assert await desk.queue.dead.newest() == []
        assert await desk.queue.renew("other", [claimed]) == 1

    tell(story)


def test_who_wants_to_know_is_told_of_what_killed_its_workers(
    tell: Callable[[Story], None],
) -> None:
    told: list[tuple[bytes, str]] = []

    async def on_bury(body: bytes, reason: str) -> str:
        told.append((body, reason))
        return reason

    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"deadly")
        for _ in range(3):
            await desk.another(on_bury=on_bury).read("w", 10, 10)
            await asyncio.sleep(1.2 * VISIBILITY_S)

    tell(story)
    assert told == [(b"deadly", "2 workers gave up on it")]


def test_a_message_is_buried_though_who_wants_to_know_fails_over_it(
    tell: Callable[[Story], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def on_bury(body: bytes, reason: str) -> str:
        raise KeyError(body)

    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"poison")
        queue = desk.another(on_bury=on_bury)
        for _ in range(2):
            while not (held := await queue.read("w1", 10, 10)):
                pass
            await queue.give_back("w1", held[0], "no request", 0)
        (letter,) = await queue.dead.newest()
        assert (letter.reason, letter.deliveries) == ("no request", 2)
        assert await desk.redis.xlen(desk.stream) == 0

    tell(story)
    assert "KeyError" in caplog.text


def test_a_message_is_not_buried_before_redis_could_be_told(
    tell: Callable[[Story], None],
) -> None:
    there = False

    async def on_bury(body: bytes, reason: str) -> str:
        if not there:
            raise RedisUnavailable("not now")
        return f"{reason}, which was told"

    async def story(desk: Desk) -> None:
        nonlocal there
        await desk.queue.publish(b"poison")
        queue = desk.another(on_bury=on_bury)
        (held,) = await queue.read("w1", 10, 10)
        await queue.give_back("w1", held, "first", 0)
        while not (again := await queue.read("w1", 10, 10)):
            pass
        with pytest.raises(RedisUnavailable):
            await queue.give_back("w1", again[0], "second", 0)
        assert await queue.dead.newest() == []
        there = True
        await queue.give_back("w1", again[0], "second", 0)
        (letter,) = await queue.dead.newest()
        assert letter.reason == "second, which was told"

    tell(story)


def test_an_expired_message_is_dropped_and_counted(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"too late", deadline_ms=int(time.time() * 1000) - 1)
        await desk.queue.publish(b"in time", deadline_ms=int(time.time() * 1000) + 60_000)
        assert [m.body for m in await desk.queue.read("w1", 10, 100)] == [b"in time"]
        assert desk.queue.expired == 1

    tell(story)


def test_a_message_without_a_deadline_has_the_time_of_its_body_from_when_it_was_published(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        reader = desk.another(lifetime=int)
        await desk.add(b"100")
        await desk.add(b"60000")
        await asyncio.sleep(0.2)
        assert [m.body for m in await reader.read("w1", 10, 100)] == [b"60000"]
        assert reader.expired == 1

    tell(story)


def test_a_messages_own_deadline_goes_before_its_bodys(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        reader = desk.another(lifetime=int)
        now_ms = int(time.time() * 1000)
        await desk.add(b"100", deadline_ms=now_ms + 60_000)
        await desk.add(b"60000", deadline_ms=now_ms - 1)
        await asyncio.sleep(0.2)
        assert [m.body for m in await reader.read("w1", 10, 100)] == [b"100"]

    tell(story)


def test_a_message_that_expires_in_a_workers_hands_is_dropped_and_counted(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        reader = desk.another(lifetime=int)
        key = await desk.add(b"100")
        (message,) = await reader.read("w1", 10, 100)
        assert not message.expired
        await asyncio.sleep(0.2)
        assert message.expired
        await reader.drop([message])
        assert reader.expired == 1
        assert await desk.redis.exists(key) == await desk.redis.xlen(desk.stream) == 0

    tell(story)


def test_what_got_no_answer_is_said_now_and_then(
    tell: Callable[[Story], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        for _ in range(3):
            await desk.queue.publish(b"late", deadline_ms=1)
            await desk.queue.read("w1", 10, 1)

    with caplog.at_level(logging.WARNING):
        tell(story)
    (told,) = caplog.messages
    assert "1 messages were dropped because their deadlines were over" in told


def test_past_the_backlog_publishing_is_refused_until_there_is_room(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        for i in range(5):
            await desk.queue.publish(b"%d" % i)
        with pytest.raises(QueueFull, match="try again in") as refused:
            await desk.queue.publish(b"one too many")
        assert refused.value.retry_after_s > 0
        (first,) = await desk.queue.read("w1", 1, 100)
        await desk.queue.finish([(first, None)])
        await desk.queue.publish(b"now")

    tell(story)


def test_what_a_plain_xadd_put_past_the_backlog_is_refused_the_oldest_first(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        keys = [await desk.add(b"%d" % i) for i in range(12)]
        read = await desk.queue.read("w1", 10, 100)
        assert [m.body for m in read] == [b"7", b"8", b"9", b"10", b"11"]
        for key in keys[:7]:
            problem = await desk.problem(key)
            assert (problem["status"], problem["title"]) == (429, "Too many requests")
        assert await desk.redis.exists(*keys[7:]) == 0
        assert desk.queue.refused == 7
        (group,) = await desk.redis.xinfo_groups(desk.stream)
        assert (group["lag"], group["pending"]) == (0, 5)

    tell(story)


def test_a_flood_is_noticed_by_a_reader_at_work(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        assert await desk.queue.read("w1", 2, 1) == []
        keys = [await desk.add(b"%d" % i) for i in range(9)]
        first = await desk.queue.read("w1", 2, 100)
        assert [m.body for m in first] == [b"0", b"1"]
        await desk.queue.finish([(message, b"answer") for message in first])
        assert [m.body for m in await desk.queue.read("w1", 2, 100)] == [b"4", b"5"]
        assert [(await desk.problem(key))["status"] for key in keys[2:4]] == [429, 429]
        assert (await desk.redis.xinfo_groups(desk.stream))[0]["lag"] == 3

    tell(story)


def test_the_backlog_tells_what_waits_from_what_is_in_hand(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        for i in range(3):
            await desk.queue.publish(b"%d" % i)
        await desk.queue.read("w1", 2, 100)
        backlog = await desk.queue.backlog()
        assert (backlog.lag, backlog.pending) == (1, 2)

    tell(story)


def test_what_was_deleted_in_a_workers_hands_is_no_backlog_and_harms_nobody(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        id_ = await desk.queue.publish(b"gone")
        held = await desk.queue.read("w1", 10, 100)
        await desk.redis.xdel(desk.stream, id_)
        assert (await desk.queue.backlog()).lag == 0
        await asyncio.sleep(2 * VISIBILITY_S)
        assert await desk.another().read("w2", 10, 1) == []
        assert await desk.queue.finish([(held[0], None)]) == 0
        assert (await desk.queue.backlog()).pending == 0

    tell(story)


def test_workers_that_left_are_forgotten_once_they_hold_nothing(
    tell: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.queue._FORGET_CONSUMER_MS", 1)

    async def story(desk: Desk) -> None:
        for worker in ("done", "holds"):
            await desk.queue.publish(worker.encode())
            messages = await desk.queue.read(worker, 10, 100)
            if worker == "done":
                await desk.queue.finish([(message, None) for message in messages])
        await asyncio.sleep(0.01)
        await desk.another().read("new", 10, 1)
        consumers = await desk.redis.xinfo_consumers(desk.stream, "workers")
        # Redis 7.0 lists a worker from its first message on, later servers from its first read.
        assert {each["name"] for each in consumers} - {b"new"} == {b"holds"}

    tell(story)


def test_what_no_worker_can_answer_goes_to_the_dead_letters_and_can_be_retried(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        key = desk.queue.new_reply_key()
        id_ = await desk.queue.publish(b"poison", reply_to=key)
        for worker in ("w1", "w2"):
            assert len(await desk.another().read(worker, 10, 100)) == 1
            await asyncio.sleep(2 * VISIBILITY_S)
        assert await desk.another().read("w3", 10, 1) == []
        (letter,) = await desk.queue.dead.newest()
        assert (letter.message_id, letter.fields["body"]) == (id_, b"poison")
        assert "2 workers gave up" in letter.reason
        assert (await desk.problem(key))["status"] == 500
        assert await desk.queue.dead.retry([letter.id]) == 1
        assert [m.body for m in await desk.another().read("w4", 10, 100)] == [b"poison"]
        assert await desk.queue.dead.newest() == []

    tell(story)


def test_what_killed_its_worker_is_tried_alone_and_buried_alone(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        for body in (b"a", b"poison", b"b", b"c"):
            await desk.queue.publish(body)
        assert len(await desk.queue.read("killed", 10, 100)) == 4
        answered = []
        for worker in range(12):  # each ends over the poison, or as soon as it has answered one
            await asyncio.sleep(1.2 * VISIBILITY_S)
            for message in await desk.another().read(f"w{worker}", 10, 1):
                if message.body != b"poison":
                    await desk.queue.finish([(message, None)])
                    answered.append(message.body)
        assert sorted(answered) == [b"a", b"b", b"c"]
        (letter,) = await desk.queue.dead.newest()
        assert letter.fields["body"] == b"poison"

    tell(story)


def test_of_a_huge_message_the_dead_letter_keeps_the_beginning_and_tells_its_size(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        await desk.redis.xadd(desk.stream, {"question": b"x" * 5_000_000})
        assert await desk.queue.read("w1", 10, 1) == []
        (letter,) = await desk.queue.dead.newest()
        assert "5000008 bytes" in letter.reason
        assert letter.fields["question"] == b"x" * (MOST_BYTES - len("question"))
        assert not letter.whole
        assert await desk.queue.dead.retry([letter.id]) == 0
        assert len(await desk.queue.dead.newest()) == 1

    tell(story)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "where?"}, "no field body"),
        ({"body": "x", "deadline_ms": "soon"}, "deadline_ms is not a whole number"),
        ({"body": "x", "deadline_ms": "9" * 400}, "deadline_ms is no time in milliseconds"),
        ({"body": "x", "deadline_ms": "-1"}, "deadline_ms is no time in milliseconds"),
        ({"body": "x", "reply_to": "somebody:elses:key"}, "reply_to is not UTF-8 that starts with"),
        ({"body": "x", "reply_to": b"\xff"}, "reply_to is not UTF-8 that starts with"),
        ({b"\xff": b"\xff", "id": "7"}, "no field body"),
        ({f"f{i}": "thousands of fields" for i in range(5000)}, "no field body"),
    ],
)
def test_an_entry_that_is_no_message_goes_to_the_dead_letters(
    tell: Callable[[Story], None], fields: dict[Any, Any], reason: str
) -> None:
    async def story(desk: Desk) -> None:
        await desk.redis.xadd(desk.stream, fields)
        await desk.queue.publish(b"good")
        assert [m.body for m in await desk.queue.read("w1", 10, 100)] == [b"good"]
        (letter,) = await desk.queue.dead.newest()
        assert reason in letter.reason
        assert await desk.redis.exists("somebody:elses:key") == 0
        assert await desk.queue.dead.drop([letter.id]) == 1
        assert await desk.queue.dead.newest() == []

    tell(story)


def test_the_caller_of_a_malformed_message_is_told(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        key = desk.queue.new_reply_key()
        await desk.redis.xadd(desk.stream, {"reply_to": key})
        await desk.queue.read("w1", 10, 1)
        problem = await desk.problem(key)
        assert (problem["status"], problem["title"]) == (400, "Malformed message")

    tell(story)


def test_a_reader_goes_on_after_the_database_was_emptied(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        await desk.queue.publish(b"before")
        await desk.queue.read("w1", 10, 100)
        await desk.redis.delete(desk.stream)
        assert await desk.queue.read("w1", 10, 1) == []
        await desk.queue.publish(b"after")
        assert [m.body for m in await desk.queue.read("w1", 10, 100)] == [b"after"]

    tell(story)


def test_what_was_in_hand_when_the_database_was_emptied_is_nobodys(
    tell: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        key = desk.queue.new_reply_key()
        await desk.queue.publish(b"before", reply_to=key)
        (message,) = await desk.queue.read("w1", 10, 100)
        await desk.redis.delete(desk.stream)
        assert await desk.queue.renew("w1", [message]) == 0
        assert await desk.queue.finish([(message, b"too late")]) == 0
        assert await desk.queue.wait_reply(key, 0.05) is None

    tell(story)


def test_the_blocking_publisher_asks_as_the_asynchronous_one_does(
    redis_url: str, namespace: str, tell: Callable[[Story], None]
) -> None:
    redis = connect(redis_url)
    publisher = Publisher(redis, f"{namespace}:requests", max_backlog=1)
    key = publisher.new_reply_key()
    publisher.publish(b"question", reply_to=key)
    with pytest.raises(QueueFull):
        publisher.publish(b"another")
    assert publisher.wait_reply(key, 0.05) is None

    async def story(desk: Desk) -> None:
        (message,) = await desk.queue.read("w1", 10, 100)
        await desk.queue.finish([(message, b"answer")])

    tell(story)
    assert publisher.wait_reply(key, 1) == b"answer"
    redis.close()


def test_a_reply_key_of_another_namespace_is_refused_before_it_is_sent(
    redis_url: str, namespace: str
) -> None:
    redis = connect(redis_url)
    publisher = Publisher(redis, f"{namespace}:requests", max_backlog=10)
    with pytest.raises(ValueError, match="reply_to must start with"):
        publisher.publish(b"x", reply_to="other:reply:1")
    redis.close()
