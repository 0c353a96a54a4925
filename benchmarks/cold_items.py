"""What `cold_start.py` asks: items that no model has learnt an event of, and who took them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Dataset
from recsys.data.histories import Histories, ragged_positions
from recsys.data.split import Split, leave_one_out

ONE_IN = 10
"""One in so many items is held out."""


@dataclass(frozen=True, eq=False)
class ColdItems:
    """A Dataset without its new items' events, and B of those events as questions."""

    new: NDArray[np.bool_]
    """Bool[N]."""

    ranked: NDArray[np.bool_]
    """Bool[N]: the new items, and those with an event to learn from."""

    split: Split
    """Of the histories without the new items; its train part is what models learn, events after a
    question included: new items are held out, not what is new in time."""

    counts: NDArray[np.int64]
    """Int64[N], the events in the train part."""

    users: NDArray[np.int64]
    """Int64[B]."""

    histories: Histories
    """B histories: what the user had taken before, new items left out."""

    targets: NDArray[np.int64]
    """Int64[B], the new item that was taken."""

    events: NDArray[np.int64]
    """Int64[B], where the events stand in the Dataset."""


def cold_items(dataset: Dataset, part: str, seed: int, at_most: int) -> ColdItems:
    """Hold out one in ten of the items with events, drawn by the seed.

    part: for "validation", one in ten of the *other* items are the new ones, and those of the test
    are not in the data at all. Of the events with a new item and something before, `at_most` are
    drawn.
    """
    histories, n_items = dataset.histories, len(dataset.items)
    rng = np.random.default_rng(seed)
    with_events = np.unique(histories.items)
    test = rng.choice(with_events, len(with_events) // ONE_IN, replace=False)
    others = np.setdiff1d(with_events, test)
    validation = rng.choice(others, len(others) // ONE_IN, replace=False)
    new = np.zeros(n_items, np.bool_)
    new[test if part == "test" else validation] = True
    hidden = new.copy()
    hidden[test] = True
    warm = ~hidden[histories.items]
    rows = histories.rows()
    known = Histories.from_lengths(
        np.bincount(rows[warm], minlength=len(histories)), histories.items[warm]
    )
    warm_before = np.concatenate([[0], np.cumsum(warm)])
    before = warm_before[:-1] - warm_before[histories.offsets[rows]]
    events = np.flatnonzero(new[histories.items] & (before > 0))
    events = np.sort(rng.permutation(events)[:at_most])
    users, lengths = rows[events], before[events]
    split = leave_one_out(known)
    counts = np.bincount(split.train.items, minlength=n_items)
    return ColdItems(
        new=new,
        ranked=new | (counts > 0),
        split=split,
        counts=counts,
        users=users,
        histories=Histories.from_lengths(
            lengths, known.items[ragged_positions(known.offsets[users], lengths)]
        ),
        targets=histories.items[events],
        events=events,
    )


class CountsBefore:
    """How often each item was taken by anybody before a moment."""

    def __init__(self, dataset: Dataset, timestamps: NDArray[np.int64]) -> None:
        self._n_items, self._oldest = len(dataset.items), timestamps.min()
        self._span = int(timestamps.max() - self._oldest) + 1
        items = dataset.histories.items
        self._events = np.sort(items * self._span + (timestamps - self._oldest))
        self._first = np.searchsorted(self._events, np.arange(self._n_items) * self._span)

    def __call__(self, moments: NDArray[np.int64]) -> NDArray[np.float32]:
        """Float32[B, N] for moments Int64[B] of the Dataset's."""
        cells = np.arange(self._n_items) * self._span + (moments - self._oldest)[:, None]
        before = np.searchsorted(self._events, cells) - self._first
        return np.asarray(before, np.float32)
