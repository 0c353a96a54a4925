"""Pictures that searches name by URI: read under the configured roots, and from nowhere else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from encoders.picture import MAX_BYTES
from infra.roots import BadRoot, Roots, Unreached, Unreadable
from services.problems import Invalid, Unavailable
from services.schemas import FieldError


class NamedPictures:
    """Reads pictures under some roots, which are looked at when the first one is named: what is
    wrong with them keeps nobody from other answers."""

    def __init__(self, roots: Sequence[str]) -> None:
        """roots: as `Roots` takes them."""
        self._given = roots
        self._roots: Roots | None = None
        self._lock = threading.Lock()

    async def read(self, uri: str) -> bytes:
        """The picture's file; raises Invalid, or Unavailable where it cannot be read for now."""
        return await asyncio.to_thread(self._read, uri)

    def _read(self, uri: str) -> bytes:
        try:
            with self._lock:
                roots = self._roots = self._roots or Roots(self._given)
            return roots.read(uri, MAX_BYTES)
        except Unreadable as error:
            message = error.message
            raise Invalid(
                f"picture.uri: {message}", [FieldError(field="picture.uri", message=message)]
            ) from None
        except (Unreached, BadRoot) as error:
            raise Unavailable(error.message) from None
