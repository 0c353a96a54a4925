"""What keeps the live items: queues them for an encoder that went into service, tries again what
was given up, and folds them when they are many.

Any worker can, and one at a time does: who it is stands in Redis, and so does for which encoders
the items were queued last. What one keeper leaves undone the next one finds.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from infra.errors import RecsysError
from infra.settings import Settings
from recsys.registry import Spaces
from services.folding import fold_live
from services.item_schemas import ItemState
from services.live_item import LiveItem
from services.live_items import LiveItems

logger = logging.getLogger(__name__)

WATCH_S = 2.0
"""Seconds between two looks."""

KEEPER_S = 15.0
"""Seconds that a keeper who does not look any more stays the keeper."""

RETRY_S = (60.0, 3600.0)
"""Seconds until what was given up is queued again, twice as many each time, and the most."""

FOLD_AT = 5000
"""Live items, ready to be, from which on they are folded into the main indexes."""

FOLD_PAUSE_S = 60.0
"""Seconds between two looks whether so many are."""


class LiveKeeper:
    """Keeps the live items of one namespace while it is the one who does."""

    def __init__(self, items: LiveItems, settings: Settings) -> None:
        self._items = items
        self._settings = settings
        self._spaces = Spaces(settings.spaces_dir)
        self._name = uuid.uuid4().hex
        self._next_fold = 0.0
        self._next_retry = 0.0
        self._retry_s, self._longest_retry_s = RETRY_S

    async def watch(self, stop: asyncio.Event) -> None:
        """Look after the live items until `stop` is set."""
        while not stop.is_set():
            try:
                if await self._items.kept_by(self._name, KEEPER_S):
                    await self._look()
            except RecsysError as error:
                logger.warning("the live items cannot be looked after: %s", error)
            except Exception:  # whatever it is, it must not end the worker
                logger.exception("the live items cannot be looked after")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WATCH_S)

    async def _look(self) -> None:
        manifests = await asyncio.to_thread(self._spaces.encoders)
        encoders = {name: manifest.fingerprint for name, manifest in manifests.items()}
        if encoders != await self._items.queued_for():
            behind = [each for each in await self._items.all() if _behind(each, encoders)]
            await self._items.requeue(behind, encoders)
        if time.monotonic() >= self._next_retry:
            await self._retry()
        if encoders and time.monotonic() >= self._next_fold:
            self._next_fold = time.monotonic() + FOLD_PAUSE_S
            await self._fold_many(encoders)

    async def _retry(self) -> None:
        again = await self._items.retry()
        self._retry_s = min(2 * self._retry_s, self._longest_retry_s) if again else RETRY_S[0]
        self._next_retry = time.monotonic() + self._retry_s

    async def _fold_many(self, encoders: Mapping[str, str]) -> None:
        if await self._items.count() < FOLD_AT:
            return
        entries = await self._items.all()
        ready = [each for each in entries if each.vectors and not _behind(each, encoders)]
        if len(ready) >= FOLD_AT:
            folded = await fold_live(self._items, self._settings)
            logger.info("folded %d live items", folded.folded)


def _behind(item: LiveItem, encoders: Mapping[str, str]) -> bool:
    """Whether a live item waits for a vector of an encoder in service."""
    if item.item is None:
        return False
    states = (item.state_by(space, fingerprint) for space, fingerprint in encoders.items())
    return ItemState.PENDING in states
