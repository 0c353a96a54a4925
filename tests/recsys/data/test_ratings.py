"""Ratings: which events they are, and how they are held out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset
from recsys.data.ratings import NoRatings, Ratings

some_ratings = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 5, width=32)), max_size=8), max_size=6
)


def plain(ratings: Ratings) -> list[list[tuple[int, float]]]:
    items, values = ratings.histories.items.tolist(), ratings.values.tolist()
    ends = ratings.histories.offsets
    pairs = list(zip(items, values, strict=True))
    return [pairs[start:stop] for start, stop in pairwise(ends)]


def dataset_of(path: Path, events: list[tuple[str, str, float | None]]) -> Dataset:
    """A Dataset of (user, item, value), in order of time."""
    users, items, values = zip(*events, strict=True)
    columns = {
        "user_id": users,
        "item_id": items,
        "timestamp": pa.array(range(len(events))).cast(pa.timestamp("ms", tz="UTC")),
        "event": ["event"] * len(events),
        "value": values,
    }
    write_dataset(path, [pa.table(columns, schema=EVENTS_SCHEMA)], None, "a test")
    return Dataset.load(path)


@given(some_ratings)
def test_it_holds_what_it_was_made_of(rows: list[list[tuple[int, float]]]) -> None:
    assert plain(Ratings.of(rows)) == rows


@given(some_ratings, st.data())
def test_where_keeps_those_ratings_and_all_users(
    rows: list[list[tuple[int, float]]], data: st.DataObject
) -> None:
    ratings = Ratings.of(rows)
    n = len(ratings.values)
    kept = iter(mask := data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    expected = [[pair for pair in row if next(kept)] for row in rows]
    assert plain(ratings.where(np.array(mask, np.bool_))) == expected


@given(some_ratings, st.data())
def test_a_slice_holds_those_users(
    rows: list[list[tuple[int, float]]], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert plain(Ratings.of(rows).slice(start, stop)) == rows[start:stop]


@given(st.integers(0, 50), st.integers(1, 7))
def test_folds_are_of_one_size_and_drawn_by_their_seed(size: int, n: int) -> None:
    ratings = Ratings.of([[(item, 1.0) for item in range(size)]])
    folds = ratings.folds(n, seed=3)
    sizes = np.bincount(folds, minlength=n)
    assert len(sizes) == n
    assert sizes.sum() == size
    assert sizes.max() - sizes.min() <= 1
    assert (folds == ratings.folds(n, seed=3)).all()
    if size > 20 and n > 2:
        assert (folds != ratings.folds(n, seed=4)).any()


def test_the_last_rating_is_that_of_users_who_have_another() -> None:
    ratings = Ratings.of([[(0, 1.0), (1, 2.0)], [(2, 3.0)], [], [(1, 4.0), (2, 5.0), (0, 6.0)]])
    assert ratings.values[ratings.last()].tolist() == [2.0, 6.0]


def test_of_a_dataset_it_is_the_last_value_for_each_item(tmp_path: Path) -> None:
    dataset = dataset_of(
        tmp_path / "data",
        [
            ("ann", "tea", 2.0),
            ("bob", "tea", None),
            ("ann", "jam", 4.0),
            ("ann", "tea", 5.0),
            ("ann", "jam", None),
            ("cid", "jam", 3.0),
        ],
    )
    ratings = Ratings.of_dataset(dataset)
    tea, jam = dataset.items.rows(pa.array(["tea", "jam"])).tolist()
    assert plain(ratings) == [[(jam, 4.0), (tea, 5.0)], [], [(jam, 3.0)]]


@pytest.mark.parametrize(
    ("value", "said"), [(None, "no event of .* has a value"), (1.0, "each value of .* is 1")]
)
def test_events_that_rate_nothing_are_refused_with_what_to_do(
    tmp_path: Path, value: float | None, said: str
) -> None:
    dataset = dataset_of(tmp_path / "data", [("ann", "tea", value), ("bob", "jam", value)])
    with pytest.raises(NoRatings, match=said) as refused:
        Ratings.of_dataset(dataset)
    assert str(tmp_path / "data") in str(refused.value)
    assert "recsys data import --value COLUMN" in str(refused.value)


def test_values_that_are_no_ratings_are_refused() -> None:
    ratings = Ratings.of([[(0, 1.0), (1, 2.0)]])
    with pytest.raises(ValueError, match="1 values for 2 rated items"):
        Ratings(ratings.histories, ratings.values[:1])
    with pytest.raises(ValueError, match="not a finite number"):
        Ratings(ratings.histories, np.array([1, np.nan], np.float32))
