"""Histories: who touched which items, oldest first, as one ragged array.

A user *is* the recent history; no model stores a user. Everything that trains, evaluates or
answers takes this one shape, so a single request is a batch of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PADDING = -1
"""The row that stands where a history has no item: real rows start at 0."""


@dataclass(frozen=True, eq=False)
class Histories:
    """A batch of B histories in compressed rows.

    offsets: Int64[B + 1]; history b is `items[offsets[b]:offsets[b + 1]]`.
    items: Int64[nnz], rows of the item vocabulary, oldest first within each history.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.offsets[0] != 0:
            raise ValueError("offsets must be a vector that starts with 0")
        if self.offsets[-1] != len(self.items):
            raise ValueError(
                f"offsets end at {self.offsets[-1]} but there are {len(self.items)} items"
            )

    @classmethod
    def of(cls, rows: Sequence[Iterable[int]]) -> Histories:
        """Histories from one sequence of item rows each."""
        arrays = [np.asarray(list(row), dtype=np.int64) for row in rows]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        items = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
        return cls.from_lengths(lengths, items)

    @classmethod
    def from_lengths(cls, lengths: NDArray[np.int64], items: NDArray[np.int64]) -> Histories:
        """Histories from their lengths Int64[B] and their items, laid end to end."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(offsets, items)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        """The items Int64[length] of one history."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Int64[B]."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Histories:
        """The histories of these rows, in this order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts  # of these alone: a batch is few of many
        return self.from_lengths(lengths, self.items[ragged_positions(starts, lengths)])

    def slice(self, start: int, stop: int) -> Histories:
        """The histories start..stop, without a copy of the items."""
        offsets = self.offsets[start : stop + 1]
        return Histories(offsets - offsets[0], self.items[offsets[0] : offsets[-1]])

    def last(self, n: int) -> Histories:
        """Each history cut to its newest n items."""
        return self.window(np.maximum(self.lengths - n, 0), n)

    def window(self, starts: NDArray[np.int64], n: int) -> Histories:
        """Of each history the n items from the start Int64[B] on, or as many as there are."""
        lengths = np.clip(self.lengths - starts, 0, n)
        positions = ragged_positions(self.offsets[:-1] + starts, lengths)
        return self.from_lengths(lengths, self.items[positions])

    def without_last(self, n: int) -> Histories:
        """Each history without its newest n items."""
        lengths = np.maximum(self.lengths - n, 0)
        return self.from_lengths(lengths, self.items[ragged_positions(self.offsets[:-1], lengths)])

    def renamed(self, rows: NDArray[np.int64]) -> Histories:
        """The histories by other rows Int64[N], without the items whose row is negative."""
        items = rows[self.items]
        kept = items >= 0
        lengths = np.bincount(self.rows()[kept], minlength=len(self))
        return Histories.from_lengths(lengths, items[kept])

    def rows(self) -> NDArray[np.int64]:
        """Int64[nnz]: for each item, the history that it stands in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def last_mentions(self, n_items: int) -> NDArray[np.int64]:
        """The positions in `items` where an item stands in its history for the last time, in
        order."""
        cells = self.rows() * n_items + self.items
        _, from_the_end = np.unique(cells[::-1], return_index=True)
        return np.sort(len(cells) - 1 - from_the_end)

    def transposed(self, n_items: int) -> tuple[Histories, NDArray[np.int64]]:
        """The n_items rows of who touched each item, by row of history; and Int64[nnz], the
        position here of each of theirs."""
        order = np.argsort(self.items, kind="stable")
        lengths = np.bincount(self.items, minlength=n_items)
        return Histories.from_lengths(lengths, self.rows()[order]), order


def ragged_positions(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions starts[i] .. starts[i] + lengths[i] of every run i, laid end to end."""
    return np.repeat(starts, lengths) + _positions_within(lengths)


def _positions_within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .. lengths[i] - 1 for every run i, laid end to end."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0, dtype=np.int64) - np.repeat(
        ends - lengths, lengths
    )
