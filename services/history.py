"""Histories in Redis: what each user did lately, newest kept, there at once.

`<namespace>:history:<user>` is a sorted set: the score is the time in milliseconds, the member
`<tie>:<time>:<item>`. So late events sort in where they belong, the same event told again counts
once, and events of the same moment stay in the order of their arrival, which `tie` numbers. Each
is capped and expires. `<namespace>:events` is a stream of all events, trimmed to about
`EVENTS_MAX`: from it, training data is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.redis import AsyncRedis, reaching
from services.event_schemas import Event

EVENTS_MAX = 1_000_000
"""About how many events the stream keeps; older ones are dropped. 200 bytes each."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_REMEMBER = """
-- Puts `<time>:<item>` into a history, after those of the same moment, unless it is there.
local function remember(key, moment, what)
  local tied = redis.call('ZRANGEBYSCORE', key, moment, moment)
  for _, member in ipairs(tied) do
    if string.sub(member, 8) == what then return end
  end
  local tie = #tied == 0 and 0 or tonumber(string.sub(tied[#tied], 1, 6), 16) + 1
  redis.call('ZADD', key, moment, string.format('%06x:', tie) .. what)
end
local function bound(key, max_items, ttl_s)
  redis.call('ZREMRANGEBYRANK', key, 0, -max_items - 1)
  redis.call('EXPIRE', key, ttl_s)
end
"""

_APPEND = (
    _REMEMBER
    + """
-- KEYS: the stream, then the history that each event belongs to.
-- ARGV: max_items, ttl_s, most events, then (user, item, moment, kind, value) of each event.
for i = 2, #KEYS do
  local user, item, moment, kind, value = unpack(ARGV, 5 * i - 6, 5 * i - 2)
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*',
    'user_id', user, 'item_id', item, 'timestamp', moment, 'event', kind, 'value', value)
  remember(KEYS[i], moment, moment .. ':' .. item)
  bound(KEYS[i], ARGV[1], ARGV[2])
end
"""
)

_SEED = (
    _REMEMBER
    + """
-- ARGV: max_items, ttl_s, then (moment, member) of each event, as they are in an empty history.
if redis.call('EXISTS', KEYS[1]) == 0 then
  for i = 3, #ARGV, 1000 do
    redis.call('ZADD', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
else
  for i = 3, #ARGV, 2 do remember(KEYS[1], ARGV[i], string.sub(ARGV[i + 1], 8)) end
end
bound(KEYS[1], ARGV[1], ARGV[2])
"""
)


class HistoryStore:
    """The stored histories of one namespace."""

    def __init__(self, redis: AsyncRedis, namespace: str, *, max_items: int, ttl_s: int) -> None:
        self._redis = redis
        self._namespace = namespace
        self._max_items = max_items
        self._ttl_s = ttl_s
        self._append: Any = redis.register_script(_APPEND)
        self._seed: Any = redis.register_script(_SEED)

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
        keys = [f"{self._namespace}:events", *(self._key(event.user_id) for event in events)]
        args: list[str | int | float] = [self._max_items, self._ttl_s, EVENTS_MAX]
        for event in events:
            moment = (event.timestamp - _EPOCH) // timedelta(milliseconds=1)
            args += [event.user_id, event.item_id, moment, event.event, event.value]
        with reaching(self._redis):
            await self._append(keys=keys, args=args)
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
                        args = [self._max_items, self._ttl_s, *_members(newest)]
                        await self._seed(keys=[self._key(user_id)], args=args, client=pipe)
                await pipe.execute()

    def _key(self, user_id: str) -> str:
        return f"{self._namespace}:history:{user_id}"


def _members(events: Iterable[tuple[int, str]]) -> Iterator[int | str]:
    """The score and the member of each, in turn; told twice, it counts once."""
    ties: Counter[int] = Counter()
    for moment, item_id in dict.fromkeys(events):
        yield moment
        yield f"{ties[moment]:06x}:{moment}:{item_id}"
        ties[moment] += 1


def _item(member: bytes) -> str:
    return member.decode().split(":", 2)[2]
