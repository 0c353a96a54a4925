"""A queue on a Redis stream: at least once to the workers, exactly one reply to the caller.

Anyone who reaches Redis can ask, no library needed:

    XADD recsys:requests * body '{"user_id": "196"}' reply_to recsys:reply:6ba7
    BLPOP recsys:reply:6ba7 2

`body` is the request. `reply_to`, if a reply is wanted, must start with `<namespace>:reply:`, the
namespace being what comes before the stream's first colon. `deadline_ms`, epoch milliseconds, is
when the answer ceases to be of use: a message read after it is dropped, counted and not answered.

A worker's messages are its own while it renews them; those of a worker that fell silent for the
visibility timeout go to another. `finish` acknowledges, deletes and replies in one step, and of
two workers that hold the same message only the first to finish gives the reply. What was delivered
too often, or cannot be read at all, goes to the dead letters, `<stream>:dead`, with the reason,
and its caller gets a problem document (RFC 9457).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from infra import queue_scripts as scripts
from infra.errors import RecsysError
from infra.message import (
    DeadLetter,
    Entry,
    Malformed,
    Message,
    dead_letter,
    fields_of,
    new_reply_key,
    problem,
)
from infra.redis import SOCKET_TIMEOUT_S, AsyncRedis, Redis, reaching

logger = logging.getLogger(__name__)

DEAD_MAX = 10_000
"""About how many dead letters are kept; older ones are dropped."""

RETRY_AFTER_S = 1
"""When to try again after the queue was full: at the rates that this is made for, it moved on."""

_SLICE_S = SOCKET_TIMEOUT_S / 4
"""The longest that one command blocks, well below what the connection takes for a failure."""

_CLAIM_S = 1.0
"""How often, at most, a reader looks for the messages of the silent."""

_FORGET_CONSUMER_MS = 3_600_000


class QueueFull(RecsysError):
    """So many messages wait that another one would wait too long."""

    def __init__(self, stream: str, max_backlog: int) -> None:
        super().__init__(
            f"{max_backlog} messages wait in {stream} already; try again in {RETRY_AFTER_S} s"
        )
        self.retry_after_s = RETRY_AFTER_S


@dataclass(frozen=True)
class Backlog:
    lag: int
    """Messages that no worker has seen yet."""

    pending: int
    """Messages in some worker's hands."""


class Publisher:
    """The asking side, blocking: for clients that have no event loop."""

    def __init__(self, redis: Redis, stream: str, *, max_backlog: int) -> None:
        self._redis = redis
        self._stream = stream
        self._max_backlog = max_backlog
        self._publish: Any = redis.register_script(scripts.PUBLISH)

    def new_reply_key(self) -> str:
        """A key for one reply that nobody else has."""
        return new_reply_key(self._stream)

    def publish(
        self, body: bytes, *, deadline_ms: int | None = None, reply_to: str | None = None
    ) -> str:
        """Append a message and return its id; raises QueueFull, RedisUnavailable.

        After RedisUnavailable the message may be in the stream or not: ask again under another
        reply key.
        """
        fields = fields_of(self._stream, body, deadline_ms, reply_to)
        with reaching(self._redis):
            id_ = self._publish(keys=[self._stream], args=[self._max_backlog, *fields])
        return _published(id_, self._stream, self._max_backlog)

    def wait_reply(self, reply_to: str, timeout_s: float) -> bytes | None:
        """Take the reply from its key; None if none comes in time. Raises RedisUnavailable."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            with reaching(self._redis):
                popped: Any = self._redis.blpop([reply_to], timeout=min(left, _SLICE_S))
            if popped is not None:
                return bytes(popped[1])
        return None


class Queue:
    """Both sides for asyncio. One object a worker: it remembers where its claiming stands."""

    def __init__(
        self,
        redis: AsyncRedis,
        stream: str,
        group: str = "workers",
        *,
        visibility_timeout_s: float,
        max_deliveries: int,
        max_backlog: int,
        reply_ttl_s: float,
    ) -> None:
        self.expired = 0
        """How many messages this object has dropped because their deadline was over."""

        self._redis = redis
        self._stream = stream
        self._group = group
        self._dead = f"{stream}:dead"
        self._visibility_ms = int(visibility_timeout_s * 1000)
        self._max_deliveries = max_deliveries
        self._max_backlog = max_backlog
        self._reply_ttl_ms = int(reply_ttl_s * 1000)
        self._cursor = "0-0"
        self._next_claim = 0.0
        self._claim_every_s = min(_CLAIM_S, visibility_timeout_s / 4)
        self._joined = False
        self._publish: Any = redis.register_script(scripts.PUBLISH)
        self._claim_script: Any = redis.register_script(scripts.CLAIM)
        self._renew: Any = redis.register_script(scripts.RENEW)
        self._finish: Any = redis.register_script(scripts.FINISH)
        self._bury_script: Any = redis.register_script(scripts.BURY)
        self._revive: Any = redis.register_script(scripts.REVIVE)
        self._list_dead: Any = redis.register_script(scripts.LIST)
        self._prune: Any = redis.register_script(scripts.PRUNE)

    def new_reply_key(self) -> str:
        """A key for one reply that nobody else has."""
        return new_reply_key(self._stream)

    async def publish(
        self, body: bytes, *, deadline_ms: int | None = None, reply_to: str | None = None
    ) -> str:
        """As `Publisher.publish`."""
        fields = fields_of(self._stream, body, deadline_ms, reply_to)
        with reaching(self._redis):
            id_ = await self._publish(keys=[self._stream], args=[self._max_backlog, *fields])
        return _published(id_, self._stream, self._max_backlog)

    async def wait_reply(self, reply_to: str, timeout_s: float) -> bytes | None:
        """As `Publisher.wait_reply`."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            with reaching(self._redis):
                popped: Any = await self._redis.blpop([reply_to], timeout=min(left, _SLICE_S))
            if popped is not None:
                return bytes(popped[1])
        return None

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Message]:
        """At most `count` messages, now this consumer's: those of the silent first, then new ones.

        Waits up to `block_ms` for one (a few seconds at most) and may return none. What is expired,
        malformed or was delivered too often is dealt with here and not returned.
        Raises RedisUnavailable.
        """
        with reaching(self._redis):
            try:
                entries = await self._entries(consumer, count, block_ms)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._joined = False  # the database was emptied
                entries = await self._entries(consumer, count, block_ms)
            return await self._alive(entries)

    async def renew(self, consumer: str, messages: Sequence[Message]) -> int:
        """Start the visibility timeout of this consumer's messages again; how many still are its.

        To be called about three times in a visibility timeout. Raises RedisUnavailable.
        """
        if not messages:
            return 0
        args = [self._group, consumer, *(message.id for message in messages)]
        with reaching(self._redis):
            return int(await self._renew(keys=[self._stream], args=args))

    async def finish(self, replies: Sequence[tuple[Message, bytes | None]]) -> int:
        """Remove the messages and give their replies; returns how many were still to be finished.

        A message that another worker has finished is left alone, its reply here is thrown away: so
        it can be repeated after RedisUnavailable.
        """
        keys, args = [self._stream], [self._group, self._reply_ttl_ms]
        for message, reply in replies:
            wanted = message.reply_to is not None and reply is not None
            keys.append(message.reply_to or self._stream)
            args += [message.id, "1" if wanted else "", reply or b""]
        with reaching(self._redis):
            return int(await self._finish(keys=keys, args=args))

    async def backlog(self) -> Backlog:
        """How much is to be done, to scale workers on. Raises RedisUnavailable."""
        with reaching(self._redis):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xlen(self._stream)
                pipe.xinfo_groups(self._stream)
                length, groups = await pipe.execute(raise_on_error=False)
        if isinstance(groups, Exception):  # there is no stream: nothing was ever published
            return Backlog(0, 0)
        mine = [group for group in groups if group["name"] == self._group.encode()]
        pending = int(mine[0]["pending"]) if mine else 0
        return Backlog(max(length - pending, 0), pending)  # what is pending may have been deleted

    async def dead(self, count: int = 100) -> list[DeadLetter]:
        """The newest dead letters, newest first. Raises RedisUnavailable."""
        with reaching(self._redis):
            entries = await self._list_dead(keys=[self._dead], args=[count])
        return [dead_letter(id_, fields) for id_, fields in entries]

    async def retry(self, ids: Sequence[str]) -> int:
        """Put dead letters back into the stream, without a deadline; returns how many."""
        with reaching(self._redis):
            return int(await self._revive(keys=[self._stream, self._dead], args=list(ids)))

    async def drop(self, ids: Sequence[str]) -> int:
        """Remove dead letters for good; returns how many."""
        if not ids:
            return 0
        with reaching(self._redis):
            return int(await self._redis.xdel(self._dead, *ids))

    async def _entries(self, consumer: str, count: int, block_ms: int) -> list[Entry]:
        await self._join()
        claimed = await self._claim(consumer, count)
        if claimed:
            return claimed
        wait_ms = max(1, min(block_ms, int(1000 * _SLICE_S)))
        execute: Any = self._redis.execute_command
        streams = await execute(
            *("XREADGROUP", "GROUP", self._group, consumer, "COUNT", count, "BLOCK", wait_ms),
            *("STREAMS", self._stream, ">"),
        )
        return [Entry(id_, fields, 1) for _, entries in streams or () for id_, fields in entries]

    async def _join(self) -> None:
        if self._joined:
            return
        try:  # from id 0: what was published before the first worker came is work too
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        await self._prune(keys=[self._stream], args=[self._group, _FORGET_CONSUMER_MS])
        self._joined = True

    async def _claim(self, consumer: str, count: int) -> list[Entry]:
        now = time.monotonic()
        if now < self._next_claim:
            return []
        args = [self._group, consumer, self._visibility_ms, self._cursor, count]
        cursor, entries = await self._claim_script(keys=[self._stream], args=args)
        self._cursor = cursor.decode()
        if self._cursor == "0-0":  # all were looked through
            self._next_claim = now + self._claim_every_s
        return [Entry(*entry) for entry in entries]

    async def _alive(self, entries: Sequence[Entry]) -> list[Message]:
        """Those that are to be answered; the others are buried or dropped."""
        now_ms = time.time() * 1000
        alive: list[Message] = []
        expired: list[tuple[Message, bytes | None]] = []
        for entry in entries:
            try:
                message = entry.message(self._stream)
            except Malformed as error:
                await self._bury(entry, str(error), "Malformed message", 400)
                continue
            if message.deadline_ms is not None and message.deadline_ms < now_ms:
                expired.append((message, None))
            elif message.deliveries > self._max_deliveries:
                tries = message.deliveries - 1
                await self._bury(entry, f"{tries} workers gave up on it", "Not answered", 500)
            else:
                alive.append(message)
        if expired:
            self.expired += len(expired)
            await self.finish(expired)
        return alive

    async def _bury(self, entry: Entry, reason: str, title: str, status: int) -> None:
        """Put the entry among the dead letters and tell its caller."""
        logger.warning(
            "message %s of %s goes to %s: %s", entry.id, self._stream, self._dead, reason
        )
        reply_to = entry.reply_to(self._stream)
        reply = problem(title, status, f"the message cannot be answered: {reason}")
        await self._bury_script(
            keys=[self._stream, self._dead, reply_to or self._stream],
            args=[
                *(self._group, self._reply_ttl_ms, DEAD_MAX),
                *(entry.id, reason, entry.deliveries, "1" if reply_to else "", reply),
            ],
        )


def _published(id_: bytes | None, stream: str, max_backlog: int) -> str:
    if id_ is None:
        raise QueueFull(stream, max_backlog)
    return id_.decode()
