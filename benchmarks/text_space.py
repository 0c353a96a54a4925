"""A content space of a catalogue's texts, without an embedding job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from encoders.text import TextEncoder
from recsys.content_bundle import CONTENT_SCHEMA, HASH, LIVE, ContentManifest, seal_content
from recsys.retrieval.index import Index


def seal_texts(
    folder: Path, catalogue: pa.Table, texts: Sequence[str], encoder: TextEncoder
) -> ContentManifest:
    """Seal a content bundle of the catalogue, by ITEMS_SCHEMA and row i = text i, in the folder,
    which must not exist yet."""
    hashes = pa.repeat(pa.scalar(bytes(16), pa.binary(16)), len(texts))
    items = catalogue.append_column(HASH, hashes)
    items = items.append_column(LIVE, pa.repeat(False, len(texts))).cast(CONTENT_SCHEMA)
    return seal_content(
        folder,
        space="text",
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        items=items,
        index=Index.build(encoder.encode(texts).vectors),
        data_fingerprint="",
        cost={},
    )
