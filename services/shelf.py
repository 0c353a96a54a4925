"""Shelves: items with vectors of one space, and which of them may be found.

A space in service is one shelf or several: the main index, the live items beside it, and for a
model the items that it never learnt, with bridged vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.retrieval.condition import BadCondition
from recsys.retrieval.index import Index
from recsys.retrieval.rules import Rules
from services.filter_schemas import Filters
from services.problems import Invalid
from services.schemas import FieldError

if TYPE_CHECKING:
    from services.live_catalogue import Overlay


class Shelf:
    """N items with a title, rules and an index over their vectors."""

    def __init__(self, catalogue: pa.Table, index: Index, items: Vocabulary | None = None) -> None:
        """catalogue: row i = item i = vector i, with `item_id` and `title` at least."""
        self.items = Vocabulary(catalogue["item_id"]) if items is None else items
        self.catalogue = catalogue
        self.index = index
        self.rules = Rules(catalogue)
        self.ids: pa.Array = self.items.to_arrow()
        self.titles: pa.Array = catalogue["title"].combine_chunks()

    def __len__(self) -> int:
        return len(self.items)

    def known(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Int64[n]: the rows of those of the ids that are here."""
        rows = self.items.rows(ids)
        found: NDArray[np.int64] = rows[rows != UNKNOWN]
        return found

    def available(self, overlay: Overlay | None) -> NDArray[np.bool_]:
        """Bool[N]: the rows that may be found at all."""
        mask = self.rules.available.copy()
        if overlay:
            overlay.renew(mask, overlay.live.rules.available)
            mask[overlay.gone] = False
        return mask


def flat(vectors: NDArray[np.float32]) -> Index:
    """An exact index."""
    return Index.build(vectors, exact_below=len(vectors) + 1)


def passing(filters: Filters, rules: Sequence[Rules]) -> list[NDArray[np.bool_]]:
    """For each of the rules Bool[N], the rows that pass.

    Raises Invalid where all of them refuse the same attribute, such as one that no item has; an
    attribute that some items have is met by none of the others.
    """
    masks = [np.ones(len(each.available), np.bool_) for each in rules]
    for name, given in filters.attributes.items():
        condition = given.rule()
        refusals: list[BadCondition] = []
        for mask, each in zip(masks, rules, strict=True):
            try:
                mask &= each.mask({name: condition})
            except BadCondition as error:
                refusals.append(error)
                mask[:] = False
        if len(refusals) == len(rules):
            field = f"filters.attributes.{name}"
            told = str(refusals[0])
            raise Invalid(f"{field}: {told}", [FieldError(field=field, message=told)])
    if filters.tags:
        for mask, each in zip(masks, rules, strict=True):
            mask &= each.bearing(filters.tags)
    return masks
