"""How rating predictions are measured: by hand, and nothing held out is ever learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.evaluation.ratings import (
    TooFewRatings,
    assess,
    cross_validate,
    leave_last_out,
    mean_of_all,
)


def remember(known: Ratings, asked: Histories) -> NDArray[np.float32]:
    """0 for an item that is not among the known ones, else its number."""
    found = np.isin(asked.items, known.histories.items)
    return np.where(found, asked.items, 0).astype(np.float32)


def distinct(lengths: list[int]) -> Ratings:
    """Item n, rated n: no item is rated twice."""
    items = np.arange(sum(lengths))
    histories = Histories.from_lengths(np.array(lengths), items)
    return Ratings(histories, items.astype(np.float32))


def test_rmse_and_mae_by_hand() -> None:
    ratings = Ratings.of([[(0, 1.0), (1, 2.0)], [], [(0, 5.0)]])
    report = assess(np.array([2, 2, 2], np.float32), ratings, protocol="by hand")
    assert report.metrics["rmse"].value == pytest.approx((10 / 3) ** 0.5)
    assert report.metrics["mae"].value == pytest.approx(4 / 3)
    assert report.protocol["split"] == "by hand"
    assert report.protocol["users"] == 2
    assert report.protocol["ratings"] == 3


def test_an_interval_is_that_of_users_not_of_ratings() -> None:
    rng = np.random.default_rng(0)
    lengths = np.full(100, 50)
    histories = Histories.from_lengths(lengths, np.arange(5000))
    ratings = Ratings(histories, np.zeros(5000, np.float32))
    of_users = rng.uniform(0.5, 1.5, size=100)
    predicted = np.repeat(of_users, 50).astype(np.float32)  # a user's errors are all alike
    mae = assess(predicted, ratings, protocol="").metrics["mae"]
    assert mae.low is not None and mae.high is not None
    expected = 2 * 1.96 * of_users.std() / 10
    assert mae.high - mae.low == pytest.approx(expected, rel=0.15)
    assert mae.low < mae.value < mae.high


def test_cross_validation_predicts_each_rating_from_those_of_other_folds() -> None:
    ratings = distinct([7, 0, 5, 1])
    sizes = []

    def predict(known: Ratings, asked: Histories) -> NDArray[np.float32]:
        sizes.append(len(known.values))
        return remember(known, asked)

    told: list[tuple[int, int]] = []
    report = cross_validate(
        predict, ratings, folds=4, seed=1, progress=lambda *done: told.append(done)
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(sizes) == [9, 10, 10, 10]
    assert report.metrics["mae"].value == pytest.approx(ratings.values.mean())
    assert report.protocol["split"] == "4-fold cross-validation over ratings, seed 1"
    assert report == cross_validate(predict, ratings, folds=4, seed=1)


def test_leave_last_out_asks_for_the_last_of_those_who_rated_before() -> None:
    report = leave_last_out(remember, distinct([3, 1, 2]))
    assert report.metrics["mae"].value == pytest.approx((2 + 5) / 2)
    assert report.protocol["users"] == 2


def test_the_mean_of_all_is_off_by_the_standard_deviation() -> None:
    ratings = Ratings.of([[(0, 1.0), (1, 2.0)], [(0, 6.0)]])
    report = assess(mean_of_all(ratings, ratings.histories), ratings, protocol="")
    assert report.metrics["rmse"].value == pytest.approx(ratings.values.std())


def test_what_cannot_be_held_out_or_measured_is_refused() -> None:
    with pytest.raises(TooFewRatings, match="3 ratings do not make 5 folds"):
        cross_validate(remember, distinct([3]))
    with pytest.raises(TooFewRatings, match="no user has two ratings"):
        leave_last_out(remember, distinct([1, 1]))
    with pytest.raises(ValueError, match="2 predictions of 3 ratings"):
        assess(np.zeros(2, np.float32), distinct([3]), protocol="")
    with pytest.raises(ValueError, match="no rating to measure on"):
        assess(np.zeros(0, np.float32), distinct([0]), protocol="")
