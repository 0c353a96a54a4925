"""Catalogues from elsewhere, by ITEMS_SCHEMA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.readers.rows import BadSource

YEAR = r"\((?P<year>\d{4})\)\s*$"


def films(item_ids: pa.Array, titles: pa.Array, genres: pa.Array) -> pa.Table:
    """Films with a year in their titles and genres list<string>: the genres are the tags, the
    year an attribute, and the text says both for the encoders to read."""
    years = pc.struct_field(pc.extract_regex(titles, YEAR), "year")
    attributes = pc.binary_join_element_wise('{"year": ', years, "}", "")
    spoken = pc.binary_join(genres, ", ")
    text = pc.binary_join_element_wise(titles, spoken, ". ")
    return pa.table(
        {
            "item_id": item_ids,
            "title": titles,
            "text": text,
            "image": pa.nulls(len(titles), pa.string()),
            "tags": genres,
            "attributes": attributes,
            "available": pa.repeat(True, len(titles)),
        }
    ).cast(ITEMS_SCHEMA)


def catalogue(columns: dict[str, pa.Array], source: str, lines: Sequence[int]) -> pa.Table:
    """A catalogue by ITEMS_SCHEMA from the columns there are; a missing title is the id.

    Raises BadSource naming an id that stands twice, with its line.
    """
    item_ids = columns["item_id"]
    n = len(item_ids)
    distinct, first = np.unique(np.asarray(item_ids.to_pylist(), object), return_index=True)
    if len(distinct) < n:
        again = int(np.setdiff1d(np.arange(n), first)[0])
        raise BadSource(
            f"{source}, line {lines[again]}, item_id: {item_ids[again].as_py()!r} stands twice; "
            "keep one row an item"
        )
    titles = columns.get("title", pa.nulls(n, pa.string()))
    available = columns.get("available", pa.nulls(n, pa.bool_()))
    whole = {
        name: columns.get(name, pa.nulls(n, ITEMS_SCHEMA.field(name).type))
        for name in ITEMS_SCHEMA.names
    }
    whole["title"] = pc.coalesce(titles, item_ids)
    whole["available"] = pc.fill_null(available, True)
    return pa.table(whole).cast(ITEMS_SCHEMA)
