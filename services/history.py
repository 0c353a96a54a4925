"""Histories in Redis: what each user did lately, newest kept, there at once.

`<namespace>:history:<user>` is a sorted set: the score is the time in milliseconds, the member
`<tie>:<time>:<item>`. So late events sort in where they belong, the same event told twice counts
once, and events of the same moment told together stay in their order, which `tie` numbers. Each
is capped and expires. `<namespace>:events` is a stream of all events, trimmed to about
`EVENTS_MAX`: from it, training data is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from infra.redis import AsyncRedis, reaching
from services.schemas import Event

EVENTS_MAX = 1_000_000
"""About how many events the stream keeps; older ones are dropped. 200 bytes each."""


class HistoryStore:
    """The stored histories of one namespace."""

    def __init__(self, redis: AsyncRedis, namespace: str, *, max_items: int, ttl_s: int) -> None:
        self._redis = redis
        self._namespace = namespace
        self._max_items = max_items
        self._ttl_s = ttl_s

    async def read(self, user_ids: Sequence[str]) -> list[list[str]]:
        """The item ids of each user, oldest first; empty for a user without a history.

        Raises RedisUnavailable.
        """
        with reaching(self._redis):
            async with self._redis.pipeline(transaction=False) as pipe:
                for user_id in user_ids:
                    pipe.zrange(self._key(user_id), 0, -1)
                found = await pipe.execute()
        return [[_item(member) for member in members] for members in found]

    async def append(self, events: Sequence[Event]) -> int:
        """Keep the events in the stream and in their users' histories, all or none of them.

        Returns how many they are. Raises RedisUnavailable; then all or none are kept, and telling
        them again changes no history.
        """
        by_user: dict[str, list[tuple[int, str]]] = {}
        with reaching(self._redis):
            async with self._redis.pipeline(transaction=True) as pipe:
                for event in events:
                    moment = int(event.timestamp.timestamp() * 1000)
                    by_user.setdefault(event.user_id, []).append((moment, event.item_id))
                    pipe.xadd(
                        f"{self._namespace}:events",
                        {
                            "user_id": event.user_id,
                            "item_id": event.item_id,
                            "timestamp": moment,
                            "event": event.event,
                            "value": event.value,
                        },
                        maxlen=EVENTS_MAX,
                    )
                for user_id, moments in by_user.items():
                    self._add(pipe, user_id, moments)
                await pipe.execute()
        return len(events)

    async def seed(
        self,
        user_ids: Sequence[str],
        item_ids: Sequence[Sequence[str]],
        timestamps: Sequence[Sequence[int]] | None,
    ) -> None:
        """Put whole histories in, oldest first, beside what is there, in one round trip.

        timestamps: milliseconds since 1970 beside the item ids; without them, the order alone is
        kept, before whatever happens from now on. Raises RedisUnavailable.
        """
        with reaching(self._redis):
            async with self._redis.pipeline(transaction=False) as pipe:
                for i, (user_id, items) in enumerate(zip(user_ids, item_ids, strict=True)):
                    moments = range(len(items)) if timestamps is None else timestamps[i]
                    newest = list(zip(moments, items, strict=True))[-self._max_items :]
                    if newest:
                        self._add(pipe, user_id, newest)
                await pipe.execute()

    def _add(self, pipe: AsyncRedis, user_id: str, moments: Iterable[tuple[int, str]]) -> None:
        key = self._key(user_id)
        ties: Counter[int] = Counter()
        members: dict[str, int] = {}
        for moment, item_id in moments:
            members[f"{ties[moment]:04x}:{moment}:{item_id}"] = moment
            ties[moment] += 1
        pipe.zadd(key, members)
        pipe.zremrangebyrank(key, 0, -self._max_items - 1)
        pipe.expire(key, self._ttl_s)

    def _key(self, user_id: str) -> str:
        return f"{self._namespace}:history:{user_id}"


def _item(member: bytes) -> str:
    return member.decode().split(":", 2)[2]
