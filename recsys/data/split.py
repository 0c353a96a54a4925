"""Splits: what a model may learn from, and what it is asked afterwards.

`leave_one_out` is the protocol of the sequential-recommendation papers: each user's last item is
the test, the one before it the validation. `temporal` cuts the time of everyone at two moments,
as production does: nothing is learnt from after the cut, by nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.histories import Histories, ragged_positions

if TYPE_CHECKING:
    from recsys.data.dataset import Dataset

PROTOCOLS = ("leave_one_out", "temporal")


@dataclass(frozen=True, eq=False)
class Holdout:
    """B users that are asked, and what they did next."""

    users: NDArray[np.int64]
    """Int64[B], rows of users."""

    histories: Histories
    """What is known when they are asked: B histories."""

    targets: Histories
    """What they did next: at least one item each."""


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of the events; no event is in two of them."""

    train: Histories
    """The training part of all users, row u for user u; some may be empty."""

    before_test: Histories
    """The training and the validation part of all users, row u for user u: for a fit that has
    nothing left to choose."""

    validation: Holdout
    """For every choice that is made while training."""

    test: Holdout
    """For the figures that are reported, and nothing else. Its histories hold the validation
    part too: it is known by then."""

    protocol: str

    def popularity(self, n_items: int, *, validation_learnt: bool) -> NDArray[np.int64]:
        """Int64[N]: how often each item stands in what was learnt."""
        learnt = self.before_test if validation_learnt else self.train
        return np.bincount(learnt.items, minlength=n_items)

    def new_to_a_start(self) -> Holdout:
        """Of the validation part, what a model of the same users' earlier events cannot have
        learnt.

        Under leave_one_out a user of two events is learnt whole; with the third, the second of
        them becomes the validation. From four on it is an event that was not there yet, or that
        was held out.
        """
        if self.protocol != "leave_one_out":
            return self.validation
        kept = np.flatnonzero(self.validation.histories.lengths > 1)
        part = self.validation
        return Holdout(part.users[kept], part.histories.take(kept), part.targets.take(kept))


def leave_one_out(histories: Histories) -> Split:
    """Each user's last item is the test and the one before it the validation.

    Users of fewer than three events are only trained on.
    """
    asked = np.flatnonzero(histories.lengths >= 3)
    held_out = np.where(histories.lengths >= 3, 2, 0)
    whole = histories.take(asked)
    known = whole.without_last(1)
    return Split(
        train=_head(histories, histories.lengths - held_out),
        before_test=_head(histories, histories.lengths - held_out // 2),
        validation=Holdout(asked, whole.without_last(2), known.last(1)),
        test=Holdout(asked, known, whole.last(1)),
        protocol="leave_one_out",
    )


def temporal(
    histories: Histories,
    timestamps: NDArray[np.int64],
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
) -> Split:
    """The newest `test_share` of all events is the test, what comes before it the validation.

    timestamps: Int64[nnz] of the histories' items, not decreasing within a history. Events of
    the same moment stay on one side of a cut. A user is asked in a part with the history before
    it and all events in it as targets; a user with no event before it is not asked. Raises
    RecsysError if a part would hold nobody.
    """
    if len(timestamps) == 0:
        raise RecsysError("there are no events to split")
    test_from = np.quantile(timestamps, 1 - test_share, method="higher")
    validation_from = np.quantile(timestamps, 1 - test_share - validation_share, method="higher")
    trained = _count_before(histories, timestamps, validation_from)
    known = _count_before(histories, timestamps, test_from)
    split = Split(
        train=_head(histories, trained),
        before_test=_head(histories, known),
        validation=_between(histories, trained, known),
        test=_between(histories, known, histories.lengths),
        protocol="temporal",
    )
    for name, part in (("validation", split.validation), ("test", split.test)):
        if len(part.users) == 0:
            raise RecsysError(
                f"the temporal split leaves nobody to ask in its {name} part: too few users have "
                "events both before and after the cut; use the split leave_one_out"
            )
    return split


def split_dataset(dataset: Dataset, protocol: str) -> Split:
    """The split of that name; raises RecsysError if there is none or the data does not allow it."""
    if protocol not in PROTOCOLS:
        raise RecsysError(f"there is no split {protocol!r}; the splits are {', '.join(PROTOCOLS)}")
    if protocol == "temporal":
        if dataset.timestamps is None:
            raise RecsysError(
                f"{dataset.path} has no timestamps, only an order: use the split leave_one_out"
            )
        return temporal(dataset.histories, dataset.timestamps)
    split = leave_one_out(dataset.histories)
    if len(split.test.users) == 0:
        raise RecsysError(
            f"{dataset.path} has no user with three events or more, so nothing can be held out"
        )
    return split


def _head(histories: Histories, lengths: NDArray[np.int64]) -> Histories:
    """The first lengths[b] items of each history."""
    positions = ragged_positions(histories.offsets[:-1], lengths)
    return Histories.from_lengths(lengths, histories.items[positions])


def _between(histories: Histories, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Holdout:
    """Asks those with an item before position start and one from there to before stop."""
    asked = np.flatnonzero((starts > 0) & (stops > starts))
    first = histories.offsets[asked] + starts[asked]
    lengths = stops[asked] - starts[asked]
    targets = Histories.from_lengths(lengths, histories.items[ragged_positions(first, lengths)])
    return Holdout(asked, _head(histories.take(asked), starts[asked]), targets)


def _count_before(
    histories: Histories, timestamps: NDArray[np.int64], moment: float
) -> NDArray[np.int64]:
    """Int64[B]: how many items of each history are older than the moment."""
    before = np.concatenate([[0], np.cumsum(timestamps < moment)])
    counts: NDArray[np.int64] = before[histories.offsets[1:]] - before[histories.offsets[:-1]]
    return counts
