"""The live catalogue: what changed since the main indexes were built, laid over them.

A snapshot never changes; the next one shares what stayed. Deleted items are hidden, changed ones
judged by what is said of them now, and items with a vector of their own are a shelf of their own,
searched exactly beside the main index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.retrieval.rules import Rules
from services.item_schemas import Item
from services.live_item import LiveItem
from services.shelf import Shelf, flat


class LiveCatalogue:
    """Live items and deletions up to a number."""

    def __init__(self, entries: Mapping[str, LiveItem], number: int, generation: str) -> None:
        self.entries = entries
        """By item id; those without an item are deletions."""

        self.number = number
        self.generation = generation
        self._shelves: dict[tuple[str, str], Shelf | None] = {}

    @classmethod
    def empty(cls) -> LiveCatalogue:
        return cls({}, 0, "")

    def after(self, items: Sequence[LiveItem], number: int) -> LiveCatalogue:
        """The catalogue with these changes, which are all up to the number."""
        if not items:
            return LiveCatalogue(self.entries, number, self.generation)
        changed = {each.item_id: each for each in items}
        return LiveCatalogue({**self.entries, **changed}, number, self.generation)

    @cached_property
    def items(self) -> Vocabulary:
        """The items that are live, which deleted ones are not."""
        return Vocabulary([e.item_id for e in self.entries.values() if e.item is not None])

    @cached_property
    def deleted(self) -> list[str]:
        return [e.item_id for e in self.entries.values() if e.item is None]

    @cached_property
    def table(self) -> pa.Table:
        """The live items by ITEMS_SCHEMA, row i = item i of `items`."""
        return items_table([e.item for e in self.entries.values() if e.item is not None])

    @cached_property
    def rules(self) -> Rules:
        return Rules(self.table)

    def is_gone(self, item_id: str) -> bool:
        """Whether the item was deleted."""
        entry = self.entries.get(item_id)
        return entry is not None and entry.item is None

    def title(self, item_id: str, title: str) -> str:
        """The item's title as it is now; `title` where nothing changed."""
        entry = self.entries.get(item_id)
        return title if entry is None or entry.item is None else entry.item.title

    def shelf(self, space: str, fingerprint: str) -> Shelf | None:
        """The live items with a vector of this encoder; None where there is none."""
        key = (space, fingerprint)
        if key not in self._shelves:
            self._shelves[key] = self._gathered(space, fingerprint)
        return self._shelves[key]

    def over(self, items: Vocabulary) -> Overlay:
        """What of a catalogue's rows is gone or said anew here.

        The few ids of here are looked up one by one: what is live takes as long to lay over a large
        catalogue as over a small one."""
        at = items.rows(self.items.to_arrow().to_pylist())
        known = np.flatnonzero(at != UNKNOWN)
        gone = items.rows(self.deleted)
        return Overlay(self, at[known], known, gone[gone != UNKNOWN])

    def _gathered(self, space: str, fingerprint: str) -> Shelf | None:
        rows, vectors = [], []
        for row, item_id in enumerate(self.items.to_arrow().to_pylist()):
            found = self.entries[item_id].vectors.get(space)
            if found is not None and found.fingerprint == fingerprint:
                rows.append(row)
                vectors.append(found.vector)
        if not rows:
            return None
        return Shelf(self.table.take(pa.array(rows)), flat(np.stack(vectors)))


@dataclass(frozen=True, eq=False)
class Overlay:
    """A live catalogue as the rows of another one see it."""

    live: LiveCatalogue
    rows: NDArray[np.int64]
    """Int64[c]: the rows that are said anew."""

    live_rows: NDArray[np.int64]
    """Int64[c]: beside them, the rows of the live catalogue."""

    gone: NDArray[np.int64]
    """Int64[g]: the rows that were deleted."""

    def __bool__(self) -> bool:
        return bool(len(self.rows) or len(self.gone))

    def renew(self, mask: NDArray[np.bool_], live: NDArray[np.bool_]) -> None:
        """Let the live catalogue's mask judge those of the mask's rows that are said anew."""
        mask[self.rows] = live[self.live_rows]


def items_table(items: Sequence[Item]) -> pa.Table:
    """Items by ITEMS_SCHEMA."""
    return pa.Table.from_pylist(
        [
            {
                **item.model_dump(exclude={"attributes"}),
                "attributes": orjson.dumps(item.attributes).decode(),
            }
            for item in items
        ],
        schema=ITEMS_SCHEMA,
    )


def items_of(table: pa.Table) -> list[Item]:
    """The items of a table by ITEMS_SCHEMA, all of which were put in over the API."""
    items = []
    for row in table.select(ITEMS_SCHEMA.names).to_pylist():
        attributes = orjson.loads(row.pop("attributes") or "{}")
        items.append(Item(**row | {"tags": row["tags"] or [], "attributes": attributes}))
    return items
