"""A queue on a Redis stream: at least once to the workers, exactly one reply to the caller.

Anyone who reaches Redis can ask, no library needed:

    XADD recsys:requests * body '{"user_id": "196"}' reply_to recsys:reply:6ba7
    BLPOP recsys:reply:6ba7 2

`body` is the request. `reply_to`, if a reply is wanted, must start with `<namespace>:reply:`, the
namespace being what comes before the stream's first colon. `deadline_ms`, epoch milliseconds, is
when the answer ceases to be of use; of a message without it, when the time is over that the reader
gives its body from the moment of its id. What is past that is dropped, counted and not answered,
so that after an outage nobody works for callers who are gone.

`publish` refuses what would not fit into the backlog. A plain XADD cannot be refused: where
more waits than the backlog, readers answer the oldest of it with a problem of status 429. While
nobody reads, nothing bounds what is added by plain XADD.

A worker's messages are its own while it renews them; those of a worker that fell silent for the
visibility timeout go to another. `finish` acknowledges, deletes and replies in one step, and of
two workers that hold the same message only the first to finish gives the reply. What was delivered
too often, or cannot be read at all, goes to the dead letters, `<stream>:dead`, with the reason,
and its caller gets a problem document (RFC 9457). What was read before is given out by itself, one
message at a time: so a message that kills its workers is buried alone. `give_back` is for a worker
that could not do a message and lives: it is tried again after a while of the worker's choice; and
`postpone` for one that has not tried it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from infra import queue_scripts as scripts
from infra.dead_letters import MOST, MOST_BYTES, DeadLetters
from infra.message import (
    Entry,
    Lifetime,
    Malformed,
    Message,
    fields_of,
    new_reply_key,
    problem,
)
from infra.publisher import SLICE_S, full, published
from infra.redis import AsyncRedis, RedisUnavailable, reaching

logger = logging.getLogger(__name__)

UNBOUNDED = 1 << 53
"""A backlog past which nothing is refused: whoever publishes keeps to a bound of its own."""

SHED_MAX = 500
"""How many messages past the backlog are refused between two reads."""

TELL_S = 10.0
"""Seconds between two lines in the log about what was dropped and refused."""

_CLAIM_S = 1.0
"""How often, at most, a reader looks for the messages of the silent."""

_FORGET_CONSUMER_MS = 3_600_000

OnBury = Callable[[bytes, str], Awaitable[str]]
"""Told the body of a message that goes to the dead letters, and the reason; gives the reason as the
dead letter is to tell it."""


@dataclass(frozen=True)
class Backlog:
    lag: int
    """Messages that no worker has seen yet."""

    pending: int
    """Messages in some worker's hands."""


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
        lifetime: Lifetime | None = None,
        on_bury: OnBury | None = None,
    ) -> None:
        """max_backlog: UNBOUNDED where nobody would ask again for what is refused.
        lifetime: of messages that were published without a deadline; they have none if it is
        None.
        on_bury: called before a message goes to the dead letters, and again where it raised
        RedisUnavailable or its process died over it. Over anything else that it raises, which is
        logged, the message goes there all the same, with the reason as it stands.
        """
        self.dead = DeadLetters(redis, stream)

        self.expired = 0
        """How many messages this object has dropped because their deadline was over."""

        self.refused = 0
        """How many it has refused because too many were waiting."""

        self._redis = redis
        self._stream = stream
        self._group = group
        self._visibility_ms = int(visibility_timeout_s * 1000)
        self._max_deliveries = max_deliveries
        self._max_backlog = max_backlog
        self._reply_ttl_ms = int(reply_ttl_s * 1000)
        self._lifetime = lifetime
        self._on_bury = on_bury
        self._behind = True
        self._next_tell = 0.0
        self._cursor = "0-0"
        self._next_claim = 0.0
        self._claim_every_s = min(_CLAIM_S, visibility_timeout_s / 4)
        self._joined = False
        self._publish: Any = redis.register_script(scripts.PUBLISH)
        self._claim_script: Any = redis.register_script(scripts.CLAIM)
        self._shed: Any = redis.register_script(scripts.SHED)
        self._renew: Any = redis.register_script(scripts.RENEW)
        self._put_back: Any = redis.register_script(scripts.PUT_BACK)
        self._finish: Any = redis.register_script(scripts.FINISH)
        self._bury_script: Any = redis.register_script(scripts.BURY)
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
        return published(id_, self._stream, self._max_backlog)

    async def wait_reply(self, reply_to: str, timeout_s: float) -> bytes | None:
        """As `Publisher.wait_reply`."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            with reaching(self._redis):
                popped: Any = await self._redis.blpop([reply_to], timeout=min(left, SLICE_S))
            if popped is not None:
                return bytes(popped[1])
        return None

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Message]:
        """At most `count` messages, now this consumer's: one of the silent, or else new ones.

        Waits up to `block_ms` for one (a few seconds at most) and may return none. What is expired,
        malformed, past the backlog or was delivered too often is dealt with here and not returned.
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

    async def drop(self, messages: Sequence[Message]) -> None:
        """Remove messages that have expired in this worker's hands. Raises RedisUnavailable."""
        await self.finish([(message, None) for message in messages])
        self.expired += len(messages)
        self._tell()

    async def renew(self, consumer: str, messages: Sequence[Message]) -> int:
        """Start the visibility timeout of this consumer's messages again; how many still are its.

        To be called about three times in a visibility timeout. Raises RedisUnavailable.
        """
        if not messages:
            return 0
        args = [self._group, consumer, *(message.id for message in messages)]
        with reaching(self._redis):
            return int(await self._renew(keys=[self._stream], args=args))

    async def give_back(self, consumer: str, message: Message, reason: str, delay_s: float) -> None:
        """Leave a message that could not be done to whoever reads next, but not before `delay_s`,
        at most the visibility timeout; after its last try it goes to the dead letters with the
        reason. Nothing happens if it is another's meanwhile. Raises RedisUnavailable.
        """
        with reaching(self._redis):
            if message.deliveries < self._max_deliveries:
                await self._leave(consumer, message, message.deliveries, delay_s)
            elif await self.renew(consumer, [message]):
                await self._bury(message, message.reply_to, reason, "Not answered", 500)

    async def postpone(self, consumer: str, message: Message, delay_s: float) -> None:
        """As `give_back` of a message that was not tried: it may be done as often as one likes.
        Raises RedisUnavailable."""
        with reaching(self._redis):
            await self._leave(consumer, message, message.deliveries - 1, delay_s)

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

    async def _entries(self, consumer: str, count: int, block_ms: int) -> list[Entry]:
        await self._join()
        claimed = await self._claim(consumer)
        if claimed:
            return claimed
        if self._behind:
            await self._refuse_excess(consumer)
        wait_ms = max(1, min(block_ms, int(1000 * SLICE_S)))
        execute: Any = self._redis.execute_command
        streams = await execute(
            *("XREADGROUP", "GROUP", self._group, consumer, "COUNT", count, "BLOCK", wait_ms),
            *("STREAMS", self._stream, ">"),
        )
        found = [Entry(id_, fields, 1) for _, entries in streams or () for id_, fields in entries]
        self._behind = len(found) == count
        return found

    async def _leave(
        self, consumer: str, message: Message, deliveries: int, delay_s: float
    ) -> None:
        idle_ms = max(0, self._visibility_ms - int(1000 * delay_s))
        args = [self._group, consumer, message.id, idle_ms, deliveries]
        await self._put_back(keys=[self._stream], args=args)

    async def _refuse_excess(self, consumer: str) -> None:
        """Answer the oldest of what waits past the backlog with a problem."""
        args = [self._group, consumer, self._max_backlog, SHED_MAX]
        entries = await self._shed(keys=[self._stream], args=args)
        if not entries:
            return
        refused = await self._alive([Entry(id_, fields, 1) for id_, fields in entries])
        reply = problem("Too many requests", 429, full(self._stream, self._max_backlog))
        await self.finish([(message, reply) for message in refused])
        self.refused += len(refused)
        self._tell()

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

    async def _claim(self, consumer: str) -> list[Entry]:
        now = time.monotonic()
        if now < self._next_claim:
            return []
        args = [self._group, consumer, self._visibility_ms, self._cursor]
        cursor, entries = await self._claim_script(keys=[self._stream], args=args)
        self._cursor = cursor.decode()
        if self._cursor == "0-0":  # all were looked through
            self._next_claim = now + self._claim_every_s
        return [Entry(*entry) for entry in entries]

    async def _alive(self, entries: Sequence[Entry]) -> list[Message]:
        """Those that are to be answered; the others are buried or dropped."""
        if not entries:
            return []
        seconds, microseconds = await self._redis.time()  # the clock that gave the ids
        now_ms = 1000 * seconds + microseconds // 1000
        alive: list[Message] = []
        expired: list[Message] = []
        for entry in entries:
            try:
                message = entry.message(self._stream, now_ms, self._lifetime)
            except Malformed as error:
                reply_to = entry.reply_to(self._stream)
                await self._bury(entry, reply_to, str(error), "Malformed message", 400)
                continue
            if message.expired:
                expired.append(message)
            elif message.deliveries > self._max_deliveries:
                reason = f"{message.deliveries - 1} workers gave up on it"
                await self._bury(message, message.reply_to, reason, "Not answered", 500)
            else:
                alive.append(message)
        if expired:
            await self.drop(expired)
        return alive

    def _tell(self) -> None:
        """Say now and then how many got no answer."""
        if time.monotonic() < self._next_tell:
            return
        self._next_tell = time.monotonic() + TELL_S
        logger.warning(
            "of %s, %d messages were dropped because their deadlines were over, and %d refused "
            "because too many were waiting, since this reader began",
            *(self._stream, self.expired, self.refused),
        )

    async def _bury(
        self, what: Entry | Message, reply_to: str | None, reason: str, title: str, status: int
    ) -> None:
        """Put the message, or what is none, among the dead letters and tell its caller."""
        logger.warning(
            "message %s of %s goes to %s: %s", what.id, self._stream, self.dead.key, reason
        )
        reply = problem(title, status, f"the message cannot be answered: {reason}")
        if self._on_bury is not None and isinstance(what, Message):
            try:
                reason = await self._on_bury(what.body, reason)
            except RedisUnavailable:
                raise
            except Exception:  # whatever it is, the message must not come back, nor end the reader
                logger.exception("who wants to know that %s is buried failed over it", what.id)
        await self._bury_script(
            keys=[self._stream, self.dead.key, reply_to or self._stream],
            args=[
                *(self._group, self._reply_ttl_ms, MOST, MOST_BYTES),
                *(what.id, reason, what.deliveries, "1" if reply_to else "", reply),
            ],
        )
