"""The asking side of a queue, blocking: for clients that have no event loop."""

from __future__ import annotations

import time
from typing import Any

from infra import queue_scripts as scripts
from infra.errors import RecsysError
from infra.message import fields_of, new_reply_key
from infra.redis import SOCKET_TIMEOUT_S, Redis, reaching

RETRY_AFTER_S = 1
"""When to try again after the queue was full: at the rates that this is made for, it moved on."""

SLICE_S = SOCKET_TIMEOUT_S / 4
"""The longest that one command blocks, well below what the connection takes for a failure."""


class QueueFull(RecsysError):
    """So many messages wait that another one would wait too long."""

    def __init__(self, stream: str, max_backlog: int) -> None:
        super().__init__(full(stream, max_backlog))
        self.retry_after_s = RETRY_AFTER_S


class Publisher:
    """Asks, and waits for the reply."""

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
        return published(id_, self._stream, self._max_backlog)

    def wait_reply(self, reply_to: str, timeout_s: float) -> bytes | None:
        """Take the reply from its key; None if none comes in time. Raises RedisUnavailable."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            with reaching(self._redis):
                popped: Any = self._redis.blpop([reply_to], timeout=min(left, SLICE_S))
            if popped is not None:
                return bytes(popped[1])
        return None


def published(id_: bytes | None, stream: str, max_backlog: int) -> str:
    """The id that the script gave; raises QueueFull where it gave none."""
    if id_ is None:
        raise QueueFull(stream, max_backlog)
    return id_.decode()


def full(stream: str, max_backlog: int) -> str:
    """Why nothing more is taken."""
    return f"{max_backlog} messages wait in {stream} already; try again in {RETRY_AFTER_S} s"
