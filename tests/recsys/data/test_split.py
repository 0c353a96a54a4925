"""What a model may learn from and what it is asked: laws of the splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset
from recsys.data.histories import Histories
from recsys.data.split import PROTOCOLS, Split, leave_one_out, split_dataset, temporal


@st.composite
def timed_histories(draw: st.DrawFn) -> tuple[Histories, NDArray[np.int64]]:
    """Histories of which every item is another, and their times."""
    lengths = np.array(draw(st.lists(st.integers(0, 7), min_size=1, max_size=8)), np.int64)
    n = int(lengths.sum())
    times = np.array(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)), np.int64)
    histories = Histories.from_lengths(lengths, np.arange(n))
    return histories, times[np.lexsort((times, histories.rows()))]


def of_users(users: NDArray[np.int64], parts: Histories) -> set[tuple[int, int]]:
    """The (user, item) pairs that a part holds."""
    return set(zip(users[parts.rows()].tolist(), parts.items.tolist(), strict=True))


def parts_of(split: Split) -> list[set[tuple[int, int]]]:
    """The pairs trained on, those validated on, and those tested on."""
    everybody = np.arange(len(split.train))
    return [
        of_users(everybody, split.train),
        of_users(split.validation.users, split.validation.targets),
        of_users(split.test.users, split.test.targets),
    ]


def assert_laws(split: Split, histories: Histories) -> None:
    train, validation, test = parts_of(split)
    assert len(split.train) == len(histories)
    assert not train & validation
    assert not train & test
    assert not validation & test
    for holdout in (split.validation, split.test):
        assert (holdout.histories.lengths > 0).all()
        assert (holdout.targets.lengths > 0).all()
        for row, user in enumerate(holdout.users):
            asked = [*holdout.histories[row], *holdout.targets[row]]
            assert asked == histories[user].tolist()[: len(asked)], "the future follows the past"


@settings(deadline=None)
@given(timed_histories())
def test_leave_one_out_holds_every_event_in_exactly_one_part(
    timed: tuple[Histories, NDArray[np.int64]],
) -> None:
    histories, _ = timed
    split = leave_one_out(histories)
    assert_laws(split, histories)
    everything = of_users(np.arange(len(histories)), histories)
    assert set.union(*parts_of(split)) == everything
    asked = np.flatnonzero(histories.lengths >= 3).tolist()
    assert split.validation.users.tolist() == split.test.users.tolist() == asked


@settings(deadline=None)
@given(timed_histories(), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_a_temporal_split_learns_nothing_that_is_newer_than_what_it_asks(
    timed: tuple[Histories, NDArray[np.int64]], validation_share: float, test_share: float
) -> None:
    histories, times = timed
    if len(times) == 0:
        return
    try:
        split = temporal(histories, times, validation_share=validation_share, test_share=test_share)
    except RecsysError:
        return
    assert_laws(split, histories)
    # Every item stands once, so an item's time is its event's.
    trained, validated, tested = (
        times[part.items] for part in (split.train, split.validation.targets, split.test.targets)
    )
    assert trained.max(initial=-1) < validated.min()
    assert validated.max() < tested.min()
    assert times[split.test.histories.items].max() < tested.min()


def test_leave_one_out_asks_for_the_last_and_the_last_but_one() -> None:
    split = leave_one_out(Histories.of([[1, 2, 3, 4], [5, 6], [7, 8, 9], []]))
    assert [split.train[user].tolist() for user in range(4)] == [[1, 2], [5, 6], [7], []]
    assert split.validation.users.tolist() == [0, 2]
    assert split.validation.targets.items.tolist() == [3, 8]
    assert split.test.targets.items.tolist() == [4, 9]
    assert [split.test.histories[row].tolist() for row in range(2)] == [[1, 2, 3], [7, 8]]


def test_a_temporal_split_cuts_everybody_at_the_same_two_moments() -> None:
    histories = Histories.of([[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]])
    times = np.array([1, 2, 8, 9, 3, 4, 9, 8, 9, 9])
    split = temporal(histories, times, validation_share=0.2, test_share=0.4)
    assert split.train.items.tolist() == [0, 1, 4, 5]
    assert split.validation.users.tolist() == [0], "the third has no past to ask from"
    assert split.validation.targets.items.tolist() == [2]
    assert split.test.users.tolist() == [0, 1, 2]
    assert [split.test.histories[row].tolist() for row in range(3)] == [[0, 1, 2], [4, 5], [7]]
    assert [split.test.targets[row].tolist() for row in range(3)] == [[3], [6], [8, 9]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_before_the_test_is_the_training_and_the_validation_part(ring: Path, protocol: str) -> None:
    split = split_dataset(Dataset.load(ring), protocol)
    validated = np.zeros(len(split.train), np.int64)
    validated[split.validation.users] = split.validation.targets.lengths
    known = split.before_test.take(split.test.users)
    assert (split.before_test.lengths >= split.train.lengths + validated).all()
    np.testing.assert_array_equal(known.items, split.test.histories.items)
    np.testing.assert_array_equal(known.offsets, split.test.histories.offsets)


def test_a_temporal_split_of_no_events_is_refused() -> None:
    with pytest.raises(RecsysError, match="no events"):
        temporal(Histories.of([]), np.array([], np.int64))


def test_a_temporal_split_with_nobody_to_ask_is_refused() -> None:
    with pytest.raises(RecsysError, match="leaves nobody to ask"):
        temporal(Histories.of([[0, 1], [2, 3]]), np.array([1, 1, 9, 9]))


def test_a_data_set_is_split_by_the_name_of_the_protocol(ring: Path) -> None:
    dataset = Dataset.load(ring)
    assert split_dataset(dataset, "leave_one_out").protocol == "leave_one_out"
    assert split_dataset(dataset, "temporal").protocol == "temporal"
    with pytest.raises(RecsysError, match="the splits are leave_one_out, temporal"):
        split_dataset(dataset, "random")


def untimed(folder: Path, users: list[str]) -> Dataset:
    """One event after another, of these users, of which only the order is known."""
    n = len(users)
    events = pa.table(
        {
            "user_id": users,
            "item_id": [f"i{i}" for i in range(n)],
            "timestamp": pa.nulls(n, EVENTS_SCHEMA.field("timestamp").type),
            "event": ["view"] * n,
            "value": pa.nulls(n, pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )
    write_dataset(folder, [events], None, "a test")
    return Dataset.load(folder)


def test_a_data_set_without_timestamps_is_not_split_by_time(tmp_path: Path) -> None:
    dataset = untimed(tmp_path / "it", ["u", "u", "u"])
    assert split_dataset(dataset, "leave_one_out").test.users.tolist() == [0]
    with pytest.raises(RecsysError, match="no timestamps, only an order: use the split leave_one"):
        split_dataset(dataset, "temporal")


def test_a_data_set_of_too_short_histories_is_not_split(tmp_path: Path) -> None:
    dataset = untimed(tmp_path / "it", ["u", "v", "u", "v", "w"])
    with pytest.raises(RecsysError, match="no user with three events or more"):
        split_dataset(dataset, "leave_one_out")


def test_a_start_has_learnt_the_validation_of_users_of_three_events_and_of_no_others() -> None:
    yesterday = Histories.of([[0, 1], [2, 3], [4, 5, 6], [7]])
    today = Histories.of([[0, 1, 8], [2, 3, 9, 8], [4, 5, 6, 9], [7, 8, 9, 6]])
    split = leave_one_out(today)
    learnt = of_users(np.arange(4), leave_one_out(yesterday).train)
    whole, kept = split.validation, split.new_to_a_start()
    assert of_users(whole.users, whole.targets) & learnt == {(0, 1)}
    assert of_users(kept.users, kept.targets) == {(1, 9), (2, 6), (3, 9)}
    assert of_users(kept.users, kept.histories) & learnt
    assert not of_users(split.test.users, split.test.targets) & learnt


def test_popularity_counts_the_validation_part_only_where_it_was_learnt() -> None:
    split = leave_one_out(Histories.of([[0, 1, 2], [0, 1, 1, 2]]))
    assert split.popularity(4, validation_learnt=False).tolist() == [2, 1, 0, 0]
    assert split.popularity(4, validation_learnt=True).tolist() == [2, 3, 0, 0]
