"""Encoders loaded ahead: a version of a space goes into service only with its encoder beside it.

Until then the old version answers, encoder and index together, so that no search waits for a model
to be loaded, and none is ever encoded by one encoder and answered by the index of another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from infra.errors import RecsysError
from recsys.registry import Spaces
from services.content_space import SpaceEncoder

logger = logging.getLogger(__name__)

WATCH_S = 0.5
"""Seconds between two looks at which versions are active."""

RETRY_S = 10.0
"""Seconds until what failed is tried again."""


class EncodersAhead:
    """Has the encoders of the active spaces loaded, and says whose are."""

    def __init__(self, spaces: Spaces, load: Callable[[SpaceEncoder], Awaitable[None]]) -> None:
        """load: returns once queries are encoded by the encoder at once; raises RecsysError.

        What is active by now is taken as loaded: there is nothing before it that could answer.
        """
        self._spaces = spaces
        self._load = load
        self._ready = self._active()
        self._failing: dict[SpaceEncoder, str] = {}
        self._not_before: dict[SpaceEncoder, float] = {}

    def are_ready(self, name: str, version: str) -> bool:
        """Whether a version of a space has its encoder."""
        return SpaceEncoder.of(self._spaces.manifest(name, version)) in self._ready

    async def follow(self) -> None:
        """Load for ever what the registry says, one encoder at a time."""
        while True:
            try:
                for encoder in await asyncio.to_thread(self._new):
                    await self._load_one(encoder)
            except Exception:  # whatever it is, what becomes active later must be loaded
                logger.exception("the registry %s cannot be followed", self._spaces.root)
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(WATCH_S)

    async def _load_one(self, encoder: SpaceEncoder) -> None:
        try:
            await self._load(encoder)
        except Exception as error:  # whatever it is, it keeps no other from being loaded
            if self._failing.get(encoder) != str(error):
                logger.warning(
                    "the encoder %r of a new version of the space %r cannot be loaded, so the "
                    "version before stays in service: %s",
                    *(encoder.model, encoder.space, error),
                    exc_info=not isinstance(error, RecsysError),
                )
            self._failing[encoder] = str(error)
            self._not_before[encoder] = time.monotonic() + RETRY_S
        else:
            self._failing.pop(encoder, None)
            self._ready.add(encoder)

    def _new(self) -> list[SpaceEncoder]:
        active = self._active()
        self._ready &= active
        now = time.monotonic()
        return [e for e in active - self._ready if self._not_before.get(e, now) <= now]

    def _active(self) -> set[SpaceEncoder]:
        found = set()
        for name in self._spaces.names():
            with suppress(RecsysError):  # who opens the version says what is wrong with it
                if (version := self._spaces.active(name)) is not None:
                    found.add(SpaceEncoder.of(self._spaces.manifest(name, version)))
        return found
