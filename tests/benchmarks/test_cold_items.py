"""The cold-start benchmark asks about items that nothing was learnt of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.cold_items import CountsBefore, cold_items
from benchmarks.cold_rows import asked
from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset

N_ITEMS, N_USERS, LENGTH = 60, 40, 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who took items at random, at times that all share."""
    rng = np.random.default_rng(0)
    n = N_USERS * LENGTH
    items = np.concatenate([rng.permutation(N_ITEMS)[:LENGTH] for _ in range(N_USERS)])
    events = pa.table(
        {
            "user_id": [f"u{user}" for user in np.repeat(np.arange(N_USERS), LENGTH)],
            "item_id": [f"i{item}" for item in items],
            "timestamp": pa.array(rng.integers(0, 200, n)).cast(pa.timestamp("ms", tz="UTC")),
            "event": ["view"] * n,
            "value": pa.nulls(n, pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )
    folder: Path = tmp_path_factory.mktemp("data") / "random"
    write_dataset(folder, [events], None, "random")
    return Dataset.load(folder)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_no_event_of_a_new_item_is_learnt_or_in_a_history(dataset: Dataset, part: str) -> None:
    cold = cold_items(dataset, part, seed=0, at_most=10**6)
    for learnt in (cold.split.before_test, cold.split.test.targets, cold.histories):
        assert not cold.new[learnt.items].any()
    assert cold.new[cold.targets].all()
    assert (cold.counts[cold.new] == 0).all()


def test_the_validation_knows_nothing_of_the_test_items(dataset: Dataset) -> None:
    test = cold_items(dataset, "test", seed=3, at_most=10)
    validation = cold_items(dataset, "validation", seed=3, at_most=10)
    assert not (validation.new & test.new).any()
    assert not validation.ranked[test.new].any()
    assert not test.new[validation.split.before_test.items].any()


def test_a_history_is_what_the_user_had_taken_before(dataset: Dataset) -> None:
    cold = cold_items(dataset, "test", seed=0, at_most=10**6)
    for question, event in enumerate(cold.events.tolist()):
        user = int(cold.users[question])
        start = int(dataset.histories.offsets[user])
        before = dataset.histories.items[start:event]
        assert dataset.histories.items[event] == cold.targets[question]
        assert cold.histories[question].tolist() == before[~cold.new[before]].tolist()


def test_counts_before_are_those_of_earlier_events(dataset: Dataset) -> None:
    assert dataset.timestamps is not None
    moments = np.unique(dataset.timestamps)[[0, 57, -1]]
    counts = CountsBefore(dataset, dataset.timestamps)(moments)
    for moment, found in zip(moments, counts, strict=True):
        earlier = dataset.histories.items[dataset.timestamps < moment]
        np.testing.assert_array_equal(found, np.bincount(earlier, minlength=N_ITEMS))


def test_who_knows_the_target_finds_it_in_both_rankings(dataset: Dataset) -> None:
    cold = cold_items(dataset, "test", seed=0, at_most=100)
    row = asked("knowing", cold, lambda some: np.eye(N_ITEMS, dtype=np.float32)[cold.targets[some]])
    assert row.full.all()
    assert row.among_new.all()
