"""Vocabulary: the one place where external ids and rows meet.

Inside, an item or user is a row (Int64, 0-based); outside, it is the string its owner gave it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

UNKNOWN = -1
"""The row of an id that the vocabulary does not hold."""


class Vocabulary:
    """A frozen one-to-one map between N distinct string ids and the rows 0 .. N - 1.

    Look-ups are columnar for arrays and a dictionary for the few ids of a request; the
    dictionary costs about 100 bytes an id and is built at the first such look-up.
    """

    def __init__(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> None:
        """Raises ValueError if an id is null or stands twice."""
        array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(ids)
        self._ids = array.cast(pa.string())
        if self._ids.null_count:
            raise ValueError("an id is null; every id must be a string")
        if len(pc.unique(self._ids)) != len(self._ids):
            counts = pc.value_counts(self._ids).to_pylist()
            twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
            raise ValueError(f"the id {twice!r} stands twice in the vocabulary")
        self._rows: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, external_id: object) -> bool:
        return external_id in self._row_of()

    def to_arrow(self) -> pa.Array:
        """String[N], row by row."""
        return self._ids

    def rows(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Int64[n]: the row of each id, UNKNOWN where there is none."""
        if isinstance(ids, pa.Array | pa.ChunkedArray):
            found = pc.fill_null(pc.index_in(ids.cast(pa.string()), value_set=self._ids), UNKNOWN)
            return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
        row_of = self._row_of()
        return np.fromiter((row_of.get(i, UNKNOWN) for i in ids), np.int64, count=len(ids))

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of these rows; raises IndexError for a row outside 0 .. N - 1."""
        taken: list[str] = self._ids.take(pa.array(rows)).to_pylist()
        return taken

    def _row_of(self) -> dict[str, int]:
        if self._rows is None:
            self._rows = {external_id: row for row, external_id in enumerate(self._ids.to_pylist())}
        return self._rows
