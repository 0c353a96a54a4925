"""The text of an item: what a text encoder reads of a catalogue's row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ITEM_TEXT_VERSION = 1
"""Changes with what `item_texts` makes of a row."""


def item_texts(items: pa.Table) -> pa.Array:
    """One text for each item: its title, its tags and its text, parted by full stops.

    items: with the columns `title` and `text`, strings, and `tags`, lists of strings; any of the
    values may be null. A text that begins with the title was made to be read alone, and is: then
    title and tags are not said again. An item that has nothing to say has the empty text.
    O(characters) time and memory.
    """
    title, text = _clean(items["title"]), _clean(items["text"])
    begins = map(str.startswith, text.to_pylist(), title.to_pylist())
    whole = pc.and_(pa.array(np.fromiter(begins, np.bool_, len(items))), pc.not_equal(title, ""))
    parts = [
        pc.if_else(whole, "", pc.utf8_rtrim(title, ".")),
        pc.if_else(whole, "", _listed(items["tags"])),
        text,
    ]
    first, *more = [pc.if_else(pc.equal(part, ""), None, part) for part in parts]
    # Arrow leaves out the row in which all that it joins is null, so one part never is.
    nothing = pc.and_(*[pc.is_null(part) for part in more])
    first = pc.if_else(nothing, pc.fill_null(first, ""), first)
    return pc.binary_join_element_wise(first, *more, ". ", null_handling="skip")


def _clean(column: pa.ChunkedArray) -> pa.Array:
    return pc.utf8_trim_whitespace(pc.fill_null(column.combine_chunks(), "").cast(pa.string()))


def _listed(column: pa.ChunkedArray) -> pa.Array:
    """The tags of each item, parted by commas; null and empty ones are left out."""
    lists = pc.fill_null(column.combine_chunks(), pa.scalar([], column.type))
    values, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    real = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(values), ""), False)
    counts = np.bincount(pc.filter(rows, real).to_numpy(), minlength=len(lists))
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    kept = pa.ListArray.from_arrays(offsets, pc.filter(values, real).cast(pa.string()))
    return pc.binary_join(kept, ", ")
