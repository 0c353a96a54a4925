"""What users did, as it was told to the service, made into training data.

The stream `<namespace>:events` is where `history.py` keeps every event that it accepts; here it is
read back, oldest first, in batches by the Dataset's schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from infra.redis import Redis, reaching
from recsys.data.dataset import EVENTS_SCHEMA

BATCH = 10_000


class ToldEvents:
    """The stream of one namespace, from after a place in it to its end."""

    def __init__(self, redis: Redis, namespace: str, after: str = "0-0") -> None:
        """after: the id of the last entry that is not wanted."""
        self._redis = redis
        self._stream = f"{namespace}:events"
        self.last = after
        """The id of the last entry that was read."""

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables by EVENTS_SCHEMA. Raises RedisUnavailable."""
        while True:
            with reaching(self._redis):
                entries: Any = self._redis.xrange(self._stream, min=f"({self.last}", count=BATCH)
            if not entries:
                return
            self.last = entries[-1][0].decode()
            yield _table([fields for _, fields in entries])


def _table(events: list[dict[bytes, bytes]]) -> pa.Table:
    def column(name: bytes) -> list[str]:
        return [event[name].decode() for event in events]

    moments = pa.array([int(event[b"timestamp"]) for event in events], pa.int64())
    return pa.table(
        {
            "user_id": column(b"user_id"),
            "item_id": column(b"item_id"),
            "timestamp": moments.cast(EVENTS_SCHEMA.field("timestamp").type),
            "event": column(b"event"),
            "value": pa.array([float(event[b"value"]) for event in events], pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )
