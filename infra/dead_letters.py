"""Dead letters: what no worker could answer, kept for a person to look at, retry or drop.

They stand in a stream of their own, `<stream>:dead`, each with the message's id, the reason, and
the message as it was, but for the end of a huge one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra import queue_scripts as scripts
from infra.message import pairs
from infra.redis import AsyncRedis, reaching

MOST = 10_000
"""About how many dead letters are kept; older ones are dropped."""

MOST_BYTES = 1 << 16
"""How much of a message is kept: enough to look at, and to retry what is not huge."""


@dataclass(frozen=True)
class DeadLetter:
    id: str
    """Its id among the dead letters, to retry or drop it by."""

    message_id: str
    reason: str
    deliveries: int
    whole: bool
    """Whether `fields` is all that there was, so that it can be retried."""

    fields: dict[str, bytes]
    """The message as it was in the stream; of a huge one, the beginning."""


class DeadLetters:
    """The dead letters of a stream."""

    def __init__(self, redis: AsyncRedis, stream: str) -> None:
        self.key = f"{stream}:dead"
        self._redis = redis
        self._stream = stream
        self._list: Any = redis.register_script(scripts.LIST)
        self._revive: Any = redis.register_script(scripts.REVIVE)

    async def newest(self, count: int = 100) -> list[DeadLetter]:
        """The newest ones, newest first. Raises RedisUnavailable."""
        with reaching(self._redis):
            entries = await self._list(keys=[self.key], args=[count])
        return [_dead_letter(id_, fields) for id_, fields in entries]

    async def retry(self, ids: Sequence[str]) -> int:
        """Put them back into the stream, as if published now and without their deadlines; returns
        how many: those that are whole. Raises RedisUnavailable."""
        with reaching(self._redis):
            return int(await self._revive(keys=[self._stream, self.key], args=list(ids)))

    async def drop(self, ids: Sequence[str]) -> int:
        """Remove them for good; returns how many. Raises RedisUnavailable."""
        if not ids:
            return 0
        with reaching(self._redis):
            return int(await self._redis.xdel(self.key, *ids))


def _dead_letter(raw_id: bytes, raw_fields: Sequence[bytes]) -> DeadLetter:
    """What BURY wrote: four fields of its own, then the message's."""
    own = pairs(raw_fields[:8])
    return DeadLetter(
        id=raw_id.decode(),
        message_id=own[b"id"].decode(),
        reason=own[b"reason"].decode(errors="replace"),
        deliveries=int(own[b"deliveries"]),
        whole=not own[b"cut"],
        fields={
            name.decode(errors="replace"): value for name, value in pairs(raw_fields[8:]).items()
        },
    )
