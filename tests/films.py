"""A small catalogue of films in content spaces, for all that searches."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

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
    texts = item_texts(catalogue).to_pylist()
    return _add(root, name, encoder, catalogue, [text.encode() for text in texts], texts, live)


def add_pictures(root: Path, encoder: Encoder[bytes]) -> Spaces:
    """Seal and activate a space `image` of the first film alone, which is all red."""
    content = picture("red")
    return _add(root, "image", encoder, films().slice(0, 1), [content], [content])


def picture(colour: str) -> bytes:
    """A picture's file, all of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def _add(
    root: Path,
    name: str,
    encoder: Encoder[Any],
    catalogue: pa.Table,
    files: Sequence[bytes],
    contents: Sequence[Any],
    live: Sequence[str] = (),
) -> Spaces:
    spaces = Spaces(root)
    hashes = [hashlib.sha256(each).digest()[:16] for each in files]
    items = catalogue.append_column(HASH, pa.array(hashes, pa.binary(16)))
    items = items.append_column(LIVE, pc.is_in(items["item_id"], pa.array(live, pa.string())))
    index = Index.build(encoder.encode(contents).vectors)
    version = spaces.add(
        name,
        lambda folder: seal_content(
            folder,
            space=name,
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
            items=items.cast(CONTENT_SCHEMA),
            index=index,
            data_fingerprint="films",
            cost={},
        ),
    )
    spaces.activate(name, version)
    return spaces
