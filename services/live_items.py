"""Live items in Redis: what was put into the catalogue, or taken out, since the main index.

    <namespace>:items                   hash, item id → `<number> <the item as JSON>`
    <namespace>:items:deleted           set of item ids
    <namespace>:items:changes           sorted set, item id → the number of its newest change
    <namespace>:items:number            the number of the newest change of all
    <namespace>:items:generation        how often live items were dropped
    <namespace>:items:states:<space>    hash, item id → how far it is in the space
    <namespace>:items:vectors:<space>   hash, item id → fingerprint, content hash, vector
    <namespace>:items:queued-for        JSON, space → fingerprint of the encoder last queued for
    <namespace>:items:keeper            which worker looks after them; expires

A put is durable and queued for the workers in one step. A worker writes what it embedded only for
the content that is still there, and that is a change of its own, so that a follower who asks for
what changed after the number that it knows learns of it. Nothing is ever missed and nothing needs
a log: the state itself is numbered. When the main index is built anew, what went into it leaves
here; deletions stay while anything knows the item that may come into service.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from encoders.catalog import SPACES
from infra.redis import AsyncRedis, reaching
from services import live_scripts as scripts
from services.item_schemas import Item
from services.live_item import Embedding, LiveItem
from services.problems import Overloaded

logger = logging.getLogger(__name__)

MAX_LIVE = 20_000
"""The most live items: beyond, the main index has to be built anew first. All are searched exactly
and held by every replica."""

MAX_DELETED = 100_000
"""The most deletions that are remembered. A fold forgets those of items that no version of a space
or model knows any more, and no job that has not ended."""

STEP = 1000
"""Changes that are read at a time."""

RETRIED = 100
"""The most items in a message that were given up before: one may be the death of its worker, and
keeps the others of its message waiting."""


@dataclass(frozen=True)
class Changes:
    """What changed after some number."""

    items: list[LiveItem]
    """Oldest change first, each as it is now; without what is damaged."""

    number: int
    """Up to which these are all the changes."""

    generation: str
    """Where it is another one than before, what is known has to be read anew from 0: live items
    were dropped, or the server was started anew."""

    more: bool
    """Whether there may be changes past `number` already."""


class LiveItems:
    """The live items of one namespace."""

    def __init__(self, redis: AsyncRedis, namespace: str, *, max_backlog: int) -> None:
        self.stream = f"{namespace}:jobs:items"
        """Where workers hear of items to embed."""

        self._redis = redis
        self._key = f"{namespace}:items"
        self._max_backlog = max_backlog
        self._put: Any = redis.register_script(scripts.PUT)
        self._put_back: Any = redis.register_script(scripts.PUT_BACK)
        self._delete: Any = redis.register_script(scripts.DELETE)
        self._store: Any = redis.register_script(scripts.STORE)
        self._changes: Any = redis.register_script(scripts.CHANGES)
        self._read: Any = redis.register_script(scripts.READ)
        self._drop: Any = redis.register_script(scripts.DROP)
        self._retry: Any = redis.register_script(scripts.RETRY)
        self._keep: Any = redis.register_script(scripts.KEEP)

    async def put(self, items: Sequence[Item]) -> int:
        """Keep the items and queue them for embedding, all or none; the number of the last change.

        Raises Overloaded where too many wait or are live already, and RedisUnavailable.
        """
        args: list[str | int | bytes] = [MAX_LIVE, self._max_backlog]
        args += _told(items)
        with reaching(self._redis):
            number = int(await self._put(keys=[*self._keys(), self.stream], args=args))
        if number == scripts.BACKLOG_FULL:
            raise Overloaded(
                f"{self._max_backlog} changes wait to be embedded already; try again later, and "
                "look whether workers run (`recsys worker`)"
            )
        if number == scripts.LIVE_FULL:
            raise Overloaded(
                f"there would be more than {MAX_LIVE} live items beside the main index: fold them "
                "into it with `recsys items fold`"
            )
        return number

    async def put_back(self, items: Sequence[Item]) -> tuple[int, int]:
        """Put items that went into a main index and have no place in the next one, but those that
        are live or deleted now; how many, and for how many there was no room. Raises
        RedisUnavailable."""
        back = left = 0
        for start in range(0, len(items), STEP):
            args = [MAX_LIVE, *_told(items[start : start + STEP])]
            with reaching(self._redis):
                found = await self._put_back(keys=[*self._keys(), self.stream], args=args)
            back, left = back + int(found[0]), left + int(found[1])
        return back, left

    async def delete(self, item_id: str) -> int:
        """Remember that the item is gone; the number of the change.

        Raises Overloaded where MAX_DELETED are remembered already, and RedisUnavailable.
        """
        with reaching(self._redis):
            number = int(await self._delete(keys=self._keys(), args=[MAX_DELETED, item_id]))
        if number == scripts.LIVE_FULL:
            raise Overloaded(
                f"{MAX_DELETED} deletions are remembered already: train and embed anew without the "
                "deleted items, remove the versions that know them, then `recsys items fold`"
            )
        return number

    async def number(self) -> int:
        """The number of the newest change; 0 before the first. Raises RedisUnavailable."""
        with reaching(self._redis):
            return int(await self._redis.get(f"{self._key}:number") or 0)

    async def count(self) -> int:
        """How many items are live. Raises RedisUnavailable."""
        with reaching(self._redis):
            return int(await self._redis.hlen(self._key))

    async def changes(self, since: int) -> Changes:
        """What changed after the number `since`, STEP items at most. Raises RedisUnavailable."""
        with reaching(self._redis):
            number, generation, rows = await self._changes(
                keys=self._keys(), args=[since, STEP, *SPACES]
            )
        more = len(rows) == STEP
        return Changes(_whole(rows), int(number), generation.decode(), more)

    async def all(self) -> list[LiveItem]:
        """Everything live or deleted, oldest change first. Raises RedisUnavailable."""
        items: list[LiveItem] = []
        since, more = 0, True
        while more:
            changes = await self.changes(since)
            since, more = changes.number, changes.more
            items += changes.items
        return items

    async def read(self, item_ids: Sequence[str]) -> list[LiveItem]:
        """Those of the items that are live or deleted. Raises RedisUnavailable."""
        with reaching(self._redis):
            rows = await self._read(keys=self._keys(), args=[len(item_ids), *item_ids, *SPACES])
        return _whole(rows)

    async def store(self, space: str, embeddings: Sequence[Embedding]) -> int:
        """Write what became of the contents, where the items are still as they were put; returns
        for how many that was so. Raises RedisUnavailable."""
        args: list[str | int | bytes] = [space]
        for each in embeddings:
            args += [each.item_id, each.put, *each.dump()]
        with reaching(self._redis):
            return int(await self._store(keys=self._keys(), args=args))

    async def drop(self, items: Sequence[LiveItem]) -> int:
        """Forget live items that the main index holds now, or deletions that are needless, unless
        they changed since; returns how many. Raises RedisUnavailable."""
        args: list[str | int] = [len(SPACES), *SPACES]
        for item in items:
            args += [item.item_id, item.number]
        with reaching(self._redis):
            return int(await self._drop(keys=self._keys(), args=args))

    async def kept_by(self, who: str, seconds: float) -> bool:
        """Whether `who` is the one that keeps the live items, from now on for so long; not if
        another one is. Raises RedisUnavailable."""
        args = [who, int(1000 * seconds)]
        with reaching(self._redis):
            return bool(await self._keep(keys=[f"{self._key}:keeper"], args=args))

    async def queued_for(self) -> dict[str, str]:
        """By space, the fingerprints of the encoders that `requeue` was last called for. Raises
        RedisUnavailable."""
        with reaching(self._redis):
            found = await self._redis.get(f"{self._key}:queued-for")
        encoders: dict[str, str] = {} if found is None else orjson.loads(found)
        return encoders

    async def requeue(self, items: Sequence[LiveItem], encoders: Mapping[str, str]) -> None:
        """Queue items for embedding once more, since these encoders, fingerprints by space, are in
        service now. Raises RedisUnavailable."""
        with reaching(self._redis):
            async with self._redis.pipeline(transaction=True) as pipe:
                for start in range(0, len(items), STEP):
                    named = {each.item_id: each.put for each in items[start : start + STEP]}
                    pipe.xadd(self.stream, {"body": orjson.dumps({"items": named})})
                pipe.set(f"{self._key}:queued-for", orjson.dumps(dict(encoders)))
                await pipe.execute()

    async def retry(self) -> int:
        """Queue what was given up once more; how many items. Raises RedisUnavailable."""
        with reaching(self._redis):
            return int(await self._retry(keys=[*self._keys(), self.stream], args=[RETRIED]))

    def _keys(self) -> list[str]:
        key = self._key
        return [key, *(f"{key}:{part}" for part in ("deleted", "changes", "number", "generation"))]


def puts_of(body: bytes) -> dict[str, int]:
    """The items that a message asks to be embedded, each with the number of its put."""
    items: dict[str, int] = orjson.loads(body)["items"]
    return items


def _whole(rows: Sequence[Sequence[bytes]]) -> list[LiveItem]:
    """The items of rows; what is damaged is logged and left out, and stays as it was known."""
    items = []
    for row in rows:
        try:
            items.append(LiveItem.load(row))
        except (ValueError, TypeError) as error:
            logger.error(
                "the live item %r is passed over, since it is damaged in Redis: put it anew (%s)",
                *(row[0].decode(errors="replace"), error),
            )
    return items


def _told(items: Sequence[Item]) -> list[str | bytes]:
    """The id and the JSON of each."""
    told: list[str | bytes] = []
    for item in items:
        told += [item.item_id, orjson.dumps(item.model_dump(exclude={"item_id"}))]
    return told
