"""The live catalogue as a replica follows it: never behind what its caller has changed.

A caller who put or deleted an item names the number of that change with what it asks next; the
replica reads up to it before it answers. What others changed it learns within `POLL_S` or so.
"""

from __future__ import annotations

import asyncio
import logging
import time

from infra.errors import RecsysError
from services.active_models import ActiveModels
from services.live_catalogue import LiveCatalogue
from services.live_items import LiveItems

logger = logging.getLogger(__name__)

POLL_S = 0.05
"""Seconds between two looks at what changed, at least; so many times as long as it took to lay the
last changes over the models, so that it leaves the replica time to answer."""

_SHARE = 5

PAUSE_S = 2.0
"""The most seconds until the next look where one failed: twice as many each time."""


class LiveFollower:
    """Lays what changes in Redis over the models in service."""

    def __init__(self, items: LiveItems, models: ActiveModels) -> None:
        self._items = items
        self._models = models
        self._live = LiveCatalogue.empty()
        self._reading = asyncio.Lock()
        self._failures = 0
        self._told = ""

    async def follow(self) -> None:
        """Follow for ever, through whatever fails."""
        pause_s = POLL_S
        while True:
            started = time.monotonic()
            if await self._read():
                pause_s = max(POLL_S, _SHARE * (time.monotonic() - started))
            else:
                pause_s = min(2 * pause_s, PAUSE_S)
            await asyncio.sleep(pause_s)

    async def catch_up(self, number: int) -> None:
        """Return once all changes up to the number are in force, or it has failed to read them or
        to lay them over the models: then the answer is by what is known."""
        if self._live.number < number:
            # What is begun is finished though the caller gives up meanwhile: otherwise what is
            # still being laid could come after what is newer.
            await asyncio.shield(self._read(number))

    async def _read(self, number: int | None = None) -> bool:
        """Read what changed and lay it over the models, unless that is done up to the number, or
        has failed for somebody else meanwhile; whether it did not fail."""
        failures = self._failures
        async with self._reading:
            if self._failures != failures:
                return False
            if number is not None and number <= self._live.number:
                return True
            try:
                await self._lay_newest()
            except Exception as error:  # noqa: BLE001 - what changes later must be learnt of
                self._failures += 1
                self._tell(error)
                return False
            if self._told:
                logger.warning("the live catalogue is followed again")
                self._told = ""
            return True

    def _tell(self, error: Exception) -> None:
        """Log what fails, once as long as it stays the same."""
        known = isinstance(error, RecsysError)
        told = str(error) if known else repr(error)
        if told != self._told:
            logger.error(
                "the live catalogue cannot be followed, so that what was put or deleted since does "
                "not count in answers; trying again: %s",
                told,
                exc_info=not known,
            )
        self._told = told

    async def _lay_newest(self) -> None:
        live, more = self._live, True
        while more:
            changes = await self._items.changes(live.number)
            if changes.generation != live.generation or changes.number < live.number:
                # What is in a main index now was dropped, or the server is another one: the main
                # index goes first into service, or items would be in neither for a moment.
                await asyncio.to_thread(self._models.refresh)
                live = LiveCatalogue({}, 0, changes.generation)
                changes = await self._items.changes(0)
            live, more = live.after(changes.items, changes.number), changes.more
        if live.entries is not self._live.entries:
            await asyncio.to_thread(self._models.lay, live)
        self._live = live
