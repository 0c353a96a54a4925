"""Contents: what of a catalogue is embedded, and what names it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa

from encoders.item_text import item_texts
from encoders.picture import MAX_BYTES
from encoders.text_input import fault
from infra.roots import Roots, Unreadable
from recsys.embedding_store import HASH_BYTES

READERS = 8
"""Pictures that are read at the same time."""


class Contents:
    """The contents of catalogue rows: texts, and pictures by their URIs."""

    def __init__(self, folder: Path) -> None:
        """folder: the Dataset's, from which pictures are read."""
        self.folder = folder

    @cached_property
    def _roots(self) -> Roots:
        return Roots([self.folder])

    def of(self, space: str, batch: pa.RecordBatch) -> pa.Array:
        """String[n]: an item's text, or its picture's URI; null where it has none."""
        if space == "text":
            return item_texts(pa.table(batch))
        return batch["image"]

    def read(self, space: str, content: str) -> bytes:
        """What is encoded; raises Unreadable and Unreached."""
        return content.encode() if space == "text" else self._roots.read(content, MAX_BYTES)

    def hashes(self, space: str, contents: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Binary(16)[n], and String[n] why there is none where a content cannot be read, or is
        refused by every encoder; raises Unreached."""
        look = partial(self._look, space)
        if space == "text":
            looks = [look(each) for each in contents.to_pylist()]
        else:
            with ThreadPoolExecutor(READERS) as pool:
                looks = list(pool.map(look, contents.to_pylist()))
        found, problems = zip(*looks, strict=True) if looks else ((), ())
        return pa.array(found, pa.binary(HASH_BYTES)), pa.array(problems, pa.string())

    def _look(self, space: str, content: str | None) -> tuple[bytes | None, str | None]:
        if content is None:
            return None, None
        if space == "text" and (wrong := fault(content)) is not None:
            return None, wrong  # as every encoder would, after a detour over the workers
        try:
            return content_hash(self.read(space, content)), None
        except Unreadable as error:
            return None, error.message


def content_hash(content: bytes) -> bytes:
    """What names a content: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(content).digest()[:HASH_BYTES]
