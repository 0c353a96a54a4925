"""Rules: which rows of the catalogue may be recommended at all, and which a filter leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class Rules:
    """What the catalogue says of its N items, laid out for fast masks.

    Building takes O(N + tags); a mask takes O(N) bytes and the items that bear the tags.
    """

    def __init__(self, catalogue: pa.Table) -> None:
        """catalogue: row i = item i; `available` (null is yes) and `tags` where it has them."""
        self.available = np.ones(len(catalogue), np.bool_)
        """Bool[N]: the rows that may be recommended."""
        if "available" in catalogue.column_names:
            column = pc.fill_null(catalogue["available"], True)
            self.available = np.asarray(column.to_numpy(), np.bool_)
        self._rows = np.empty(0, np.int64)
        self._spans: dict[str, slice] = {}
        if "tags" in catalogue.column_names:
            self._invert(catalogue["tags"].combine_chunks())

    def bearing(self, tags: Sequence[str]) -> NDArray[np.bool_]:
        """Bool[N]: the rows that bear at least one of the tags."""
        mask = np.zeros(len(self.available), np.bool_)
        for tag in tags:
            if tag in self._spans:
                mask[self._rows[self._spans[tag]]] = True
        return mask

    def _invert(self, tags: pa.ListArray) -> None:
        """From the tags of each row to the rows of each tag, end to end."""
        encoded = pc.list_flatten(tags).dictionary_encode()
        known = pc.is_valid(encoded).to_numpy(zero_copy_only=False)
        rows = pc.list_parent_indices(tags).to_numpy()[known]
        codes = encoded.indices.drop_null().to_numpy()
        self._rows = rows[np.argsort(codes, kind="stable")]
        counts = np.bincount(codes, minlength=len(encoded.dictionary))
        ends = np.cumsum(counts)
        self._spans = {
            tag: slice(start, end)
            for tag, start, end in zip(
                encoded.dictionary.to_pylist(), (ends - counts).tolist(), ends.tolist(), strict=True
            )
        }
