"""Ratings: what users thought of items, as histories with a value beside each item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.histories import Histories

if TYPE_CHECKING:
    from recsys.data.dataset import Dataset


class NoRatings(RecsysError):
    """A Dataset whose events say what was touched, not what was thought of it."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """What B users rated, in compressed rows; a user may have rated nothing."""

    histories: Histories
    values: NDArray[np.float32]
    """Float32[nnz], the ratings of the histories' items, finite."""

    def __post_init__(self) -> None:
        if self.values.shape != self.histories.items.shape:
            raise ValueError(
                f"{len(self.values)} values for {len(self.histories.items)} rated items"
            )
        if not np.isfinite(self.values).all():
            raise ValueError("a rating is not a finite number")

    @classmethod
    def of(cls, rows: Sequence[Iterable[tuple[int, float]]]) -> Ratings:
        """Ratings from one sequence of (item row, value) for each user, oldest first."""
        pairs = [list(row) for row in rows]
        values = [value for row in pairs for _, value in row]
        items = Histories.of([[item for item, _ in row] for row in pairs])
        return cls(items, np.array(values, np.float32))

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> Ratings:
        """What there is to learn from: `known`. Raises NoRatings where no event has a value or all
        have the same, which tells no item from another."""
        known = cls.known(dataset)
        values = known.values
        if len(values) == 0 or values.min() == values.max():
            found = (
                f"each value of {dataset.path} is {values[0]:g}"
                if len(values)
                else f"no event of {dataset.path} has a value"
            )
            raise NoRatings(
                f"{found}, so there are no ratings to predict. Import data with ratings (of a "
                "table, name their column with `recsys data import --value COLUMN`), or train a "
                "model of what users touch, such as ials"
            )
        return known

    @classmethod
    def known(cls, dataset: Dataset) -> Ratings:
        """The events that have a value; of several by one user for one item, the last.

        Row u for user u of the Dataset.
        """
        rated = np.isfinite(dataset.values)
        values = dataset.values[rated]
        lengths = np.bincount(dataset.histories.rows()[rated], minlength=len(dataset.histories))
        every = cls(Histories.from_lengths(lengths, dataset.histories.items[rated]), values)
        last = np.zeros(len(values), np.bool_)
        last[every.histories.last_mentions(len(dataset.items))] = True
        return every.where(last)

    def __len__(self) -> int:
        """How many users there are, those who rated nothing included."""
        return len(self.histories)

    def where(self, kept: NDArray[np.bool_]) -> Ratings:
        """The ratings where Bool[nnz] holds, of the same users."""
        lengths = np.bincount(self.histories.rows()[kept], minlength=len(self))
        return Ratings(
            Histories.from_lengths(lengths, self.histories.items[kept]), self.values[kept]
        )

    def slice(self, start: int, stop: int) -> Ratings:
        """The ratings of the users start..stop, without a copy."""
        first, last = self.histories.offsets[[start, stop]]
        return Ratings(self.histories.slice(start, stop), self.values[first:last])

    def folds(self, n: int, seed: int) -> NDArray[np.int64]:
        """Int64[nnz]: which of n folds each rating falls into, drawn uniformly; their sizes
        differ by one at most."""
        return np.random.default_rng(seed).permutation(len(self.values)) % n

    def last(self) -> NDArray[np.bool_]:
        """Bool[nnz]: the last rating of each user who has two or more."""
        last = np.zeros(len(self.values), np.bool_)
        last[self.histories.offsets[1:][self.histories.lengths >= 2] - 1] = True
        return last
