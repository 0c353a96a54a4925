"""Pictures that searches name by URI: read under the configured roots, and from nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from encoders.picture import MAX_BYTES
from infra.roots import LazyRoots, Unreached, Unreadable
from services.problems import Invalid, Overloaded, Unavailable
from services.schemas import FieldError

MOST = 16
"""Pictures in memory at a time, of MAX_BYTES each at most: a request that names one is tiny."""

READERS = 4
"""Threads that read them: a root that hangs takes none that others need."""


class NamedPictures:
    """Reads pictures under some roots; what is wrong with these keeps nobody from other answers."""

    def __init__(self, roots: Sequence[str]) -> None:
        """roots: as `Roots` takes them."""
        self._roots = LazyRoots(roots)
        self._readers = ThreadPoolExecutor(READERS, "pictures")
        self._held = 0

    @asynccontextmanager
    async def read(self, uri: str) -> AsyncIterator[bytes]:
        """The picture's file, for as long as the block needs it; raises Invalid, Unavailable where
        it cannot be read for now, and Overloaded."""
        if self._held >= MOST:
            raise Overloaded(f"{MOST} searches by a named picture are under way; try again")
        self._held += 1
        try:
            yield await asyncio.get_running_loop().run_in_executor(self._readers, self._read, uri)
        finally:
            self._held -= 1

    def _read(self, uri: str) -> bytes:
        try:
            return self._roots.read(uri, MAX_BYTES)
        except Unreadable as error:
            message = error.message
            raise Invalid(
                f"picture.uri: {message}", [FieldError(field="picture.uri", message=message)]
            ) from None
        except Unreached as error:
            raise Unavailable(error.message) from None
