"""The live catalogue as a replica follows it: never behind what its caller has changed.

A caller who put or deleted an item names the number of that change with what it asks next; the
replica reads up to it before it answers. What others changed it learns within `POLL_S` or so.
"""

from __future__ import annotations

import asyncio
import logging
import time

from infra.redis import RedisUnavailable
from services.active_models import ActiveModels
from services.live_catalogue import LiveCatalogue
from services.live_items import LiveItems

logger = logging.getLogger(__name__)

POLL_S = 0.05
"""Seconds between two looks at what changed, at least; so many times as long as it took to lay the
last changes over the models, so that it leaves the replica time to answer."""

_SHARE = 5


class LiveFollower:
    """Lays what changes in Redis over the models in service."""

    def __init__(self, items: LiveItems, models: ActiveModels) -> None:
        self._items = items
        self._models = models
        self._live = LiveCatalogue.empty()
        self._reading = asyncio.Lock()
        self._told = False

    async def follow(self) -> None:
        """Follow for ever."""
        while True:
            started = time.monotonic()
            await self._read()
            await asyncio.sleep(max(POLL_S, _SHARE * (time.monotonic() - started)))

    async def catch_up(self, number: int) -> None:
        """Return once all changes up to the number are in force, or Redis is not there to ask."""
        if self._live.number < number:
            # What is begun is finished though the caller gives up meanwhile: otherwise what is
            # still being laid could come after what is newer.
            await asyncio.shield(self._read())

    async def _read(self) -> None:
        async with self._reading:
            try:
                await self._lay_newest()
                self._told = False
            except RedisUnavailable as error:
                if not self._told:
                    logger.warning("the live catalogue cannot be followed: %s", error)
                self._told = True

    async def _lay_newest(self) -> None:
        live, more = self._live, True
        while more:
            changes = await self._items.changes(live.number)
            if changes.generation != live.generation or changes.number < live.number:
                # What is in a main index now was dropped, or the database was emptied: the main
                # index goes first into service, or items would be in neither for a moment.
                await asyncio.to_thread(self._models.refresh)
                live = LiveCatalogue({}, 0, changes.generation)
                changes = await self._items.changes(0)
            live, more = live.after(changes.items, changes.number), changes.more
        if live.entries is not self._live.entries:
            await asyncio.to_thread(self._models.lay, live)
        self._live = live
