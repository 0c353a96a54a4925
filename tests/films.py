"""A small catalogue of films in content spaces, for all that searches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from encoders.encoder import Encoder
from encoders.item_text import item_texts
from recsys.content_bundle import CONTENT_SCHEMA, HASH, LIVE, seal_content
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.registry import Spaces
from recsys.retrieval.index import Index

WORDS = {
    "western": ("sheriff", "saddle", "dust", "horse"),
    "space": ("rocket", "orbit", "alien", "star"),
    "romance": ("kiss", "letter", "paris", "rose"),
}


def films() -> pa.Table:
    """36 films by ITEMS_SCHEMA: twelve of each genre, told in four words of it and one of their
    own; `space-3` is not available."""
    rows = [
        {
            "item_id": f"{genre}-{n}",
            "title": f"{genre.title()} {n}",
            "text": f"{words[n % 4]} {words[(n + 1) % 4]} w{genre}{n}",
            "image": None,
            "tags": [genre],
            "attributes": orjson.dumps({"year": 1980 + n}).decode(),
            "available": f"{genre}-{n}" != "space-3",
        }
        for genre, words in WORDS.items()
        for n in range(12)
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA)


def add_space(
    root: Path,
    encoder: Encoder[str],
    catalogue: pa.Table,
    name: str = "text",
    live: Sequence[str] = (),
) -> Spaces:
    """Seal and activate the catalogue's vectors as a space; `live` items were put in over the
    API."""
    spaces = Spaces(root)
    texts = item_texts(catalogue).to_pylist()
    encoded = encoder.encode(texts)
    hashes = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
    items = catalogue.append_column(HASH, pa.array(hashes, pa.binary(16)))
    items = items.append_column(LIVE, pc.is_in(items["item_id"], pa.array(live, pa.string())))
    version = spaces.add(
        name,
        lambda folder: seal_content(
            folder,
            space="text",
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
            items=items.cast(CONTENT_SCHEMA),
            index=Index.build(encoded.vectors),
            data_fingerprint="films",
            cost={},
        ),
    )
    spaces.activate(name, version)
    return spaces
