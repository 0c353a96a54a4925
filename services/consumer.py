"""The consumer of a queue: micro-batches in, replies out, nothing lost and nothing twice.

A message that was read stays this consumer's as long as it renews its lease. It is done once
`finish` says so, which gives the reply and removes the message in one step: a consumer that dies
before it leaves the message to another one, and of two that both computed a reply only the first
gives it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from infra.errors import RecsysError
from infra.message import Message
from infra.queue import Queue
from infra.redis import RedisUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

Answer = Callable[[Sequence[bytes]], Awaitable[Sequence[bytes | None]]]
"""Gives the reply of each body, None where nobody waits for one; a body that is no request is
answered with its problem."""

BLOCK_MS = 500
"""How long a read waits for messages, and so the longest that an idle consumer takes to stop."""

_LATE_S = 0.001
"""How long after its deadline an answer is given up, so that the message has surely expired."""

PAUSE_S = (0.1, 5.0)
"""The shortest and the longest pause before Redis is tried again."""


class NotYet(RecsysError):
    """Raised by who answers over what another has in hand: the message is tried again in a while,
    however long that takes, and its consumer reads on meanwhile."""


class _NotAnswered(Exception):
    """Why messages have no reply."""


class Consumer:
    """Answers the messages of a queue, a micro-batch at a time, until it is told to stop."""

    def __init__(
        self,
        queue: Queue,
        answer: Answer,
        *,
        micro_batch: int,
        visibility_timeout_s: float,
        back_off_s: float | None = None,
    ) -> None:
        """visibility_timeout_s: the queue's; leases are renewed three times as often.
        back_off_s: seconds until what failed is tried again, twice as many each time, up to the
        visibility timeout; that from the first time on if it is None.
        """
        self.name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._queue = queue
        self._answer = answer
        self._micro_batch = micro_batch
        self._renewal_s = visibility_timeout_s / 3
        self._back_off_s = back_off_s

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set and what was read by then is answered.

        While Redis is not there, it is tried again, ever more slowly; replies are kept until then.
        """
        while not stop.is_set():
            messages = await self._patiently(self._read, stop)
            if messages:
                await self._handle(messages, stop)

    async def _read(self) -> list[Message]:
        return await self._queue.read(self.name, self._micro_batch, BLOCK_MS)

    async def _handle(self, messages: Sequence[Message], stop: asyncio.Event) -> None:
        """Answer the messages together or, if that fails, one by one; drop those that expired.

        One that cannot be answered stays unfinished: it is delivered again after the visibility
        timeout, or the back-off, and goes to the dead letters when that does not help either. It
        does not take the others of its batch with it. A try that ends with NotYet is none.
        """
        late = [message for message in messages if message.expired]
        alive = [message for message in messages if not message.expired]
        if late:
            await self._patiently(lambda: self._queue.drop(late), stop)
        if not alive:
            return
        try:
            async with self._leased(alive):
                replies = await self._replies(alive)
                await self._patiently(lambda: self._queue.finish(replies), stop)
        except _NotAnswered as error:
            if len(alive) > 1 or alive[0].expired:
                async with self._leased(alive):
                    for message in alive:
                        await self._handle([message], stop)
            elif isinstance(error.__cause__, NotYet):
                await self._patiently(
                    lambda: self._queue.postpone(self.name, alive[0], self._renewal_s), stop
                )
            elif self._back_off_s is not None:
                delay_s = self._back_off_s * 2 ** (alive[0].deliveries - 1)
                reason = str(error)
                await self._patiently(
                    lambda: self._queue.give_back(self.name, alive[0], reason, delay_s), stop
                )

    async def _replies(self, messages: Sequence[Message]) -> list[tuple[Message, bytes | None]]:
        """Each message with its reply; raises _NotAnswered if that failed, or took longer than it
        was of use."""
        ends = [message.until for message in messages if message.until is not None]
        last = max(ends) + _LATE_S - time.monotonic() if len(ends) == len(messages) else None
        try:
            async with asyncio.timeout(last) as deadline:
                replies = await self._answer([message.body for message in messages])
        except Exception as error:  # whatever it is, it must not end the consumer
            reason = _reason(error)
            if deadline.expired():
                logger.warning("%d messages had no answer by their deadlines", len(messages))
            elif len(messages) > 1:
                logger.warning(
                    "a micro-batch of %d failed; answering one by one",
                    len(messages),
                    exc_info=True,
                )
            elif isinstance(error, RecsysError):
                logger.warning("message %s could not be answered: %s", messages[0].id, reason)
            else:
                logger.exception("message %s could not be answered", messages[0].id)
            raise _NotAnswered(reason) from error
        return list(zip(messages, replies, strict=True))

    @asynccontextmanager
    async def _leased(self, messages: Sequence[Message]) -> AsyncIterator[None]:
        """Renew the leases of the messages meanwhile."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._renewal_s)
                try:
                    await self._queue.renew(self.name, messages)
                except RedisUnavailable as error:
                    logger.warning("leases could not be renewed: %s", error)

        renewal = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewal.cancel()

    async def _patiently(
        self, operation: Callable[[], Awaitable[T]], stop: asyncio.Event
    ) -> T | None:
        """What the operation gives once Redis is there; None if it is not when `stop` is set."""
        pause_s, longest_s = PAUSE_S
        while True:
            try:
                return await operation()
            except RedisUnavailable as error:
                logger.warning("%s; trying again in %.1f s", error, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
                return None
            pause_s = min(2 * pause_s, longest_s)


def _reason(error: Exception) -> str:
    """What failed, for a person."""
    if isinstance(error, RecsysError):
        return error.message
    return f"{type(error).__name__}: {error}"
