"""How far predicted ratings are from those that were given.

With e the difference between a prediction and its rating, over all held-out ratings:

    rmse  √(mean e²)        mae  mean |e|

Intervals are bootstraps over users, since what one user thinks of many items is not so many
independent observations. Cross-validation predicts each rating once, by a model that was not
fitted on its fold, and measures all of them together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.evaluation import metrics
from recsys.evaluation.report import Estimate, Report

Predictor = Callable[[Ratings, Histories], NDArray[np.float32]]
"""Learns from all ratings that are known and predicts, Float32[nnz], what the same users would
give the items that are asked for, row for row."""


class TooFewRatings(RecsysError):
    """Of so few ratings, none can be held out for a measure."""


def mean_of_all(known: Ratings, asked: Histories) -> NDArray[np.float32]:
    """The `Predictor` that tells users and items apart in nothing: what any other must beat."""
    return np.full(len(asked.items), known.values.mean(), np.float32)


def cross_validate(
    predict: Predictor,
    ratings: Ratings,
    *,
    folds: int = 5,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Predict each fold of the ratings from the others, and measure; the seed draws the folds.

    progress: called with the folds done and all of them.
    Raises TooFewRatings if there are fewer of them than folds.
    """
    if len(ratings.values) < folds:
        raise TooFewRatings(
            f"{len(ratings.values)} ratings do not make {folds} folds: import more of them"
        )
    fold_of = ratings.folds(folds, seed)
    predicted = np.empty_like(ratings.values)
    for fold in range(folds):
        asked = fold_of == fold
        predicted[asked] = predict(ratings.where(~asked), ratings.where(asked).histories)
        if progress is not None:
            progress(fold + 1, folds)
    protocol = f"{folds}-fold cross-validation over ratings, seed {seed}"
    return assess(predicted, ratings, protocol=protocol, resamples=resamples, seed=seed)


def leave_last_out(
    predict: Predictor, ratings: Ratings, *, resamples: int = 1000, seed: int = 0
) -> Report:
    """Predict each user's last rating from all others, and measure.

    Users of a single rating are only learnt from. Raises TooFewRatings if there are no others.
    """
    last = ratings.last()
    if not last.any():
        raise TooFewRatings(
            "no user has two ratings or more, so none can be held out: import more of them"
        )
    asked = ratings.where(last)
    predicted = predict(ratings.where(~last), asked.histories)
    protocol = "leave the last rating out"
    return assess(predicted, asked, protocol=protocol, resamples=resamples, seed=seed)


def assess(
    predicted: NDArray[np.float32],
    ratings: Ratings,
    *,
    protocol: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Measure predictions Float32[nnz] of the ratings, whoever made them.

    protocol: how they were held out, as the report shall state it. Raises ValueError for another
    number of predictions than there are ratings, and if there are none.
    """
    if predicted.shape != ratings.values.shape:
        raise ValueError(f"{len(predicted)} predictions of {len(ratings.values)} ratings")
    if len(predicted) == 0:
        raise ValueError("there is no rating to measure on")
    errors = predicted.astype(np.float64) - ratings.values
    users = ratings.histories.rows()
    sums = [np.bincount(users, weights) for weights in (errors**2, np.abs(errors))]
    of_users = np.stack([*sums, np.bincount(users)], axis=1)
    of_users = of_users[of_users[:, 2] > 0]
    value = _rmse_and_mae(of_users.mean(axis=0, keepdims=True))[0]
    means = metrics.resampled_means(of_users, resamples=resamples, seed=seed)
    low, high = metrics.interval(_rmse_and_mae(means))
    return Report(
        metrics={
            name: Estimate(value=float(value[n]), low=float(low[n]), high=float(high[n]))
            for n, name in enumerate(("rmse", "mae"))
        },
        protocol={
            "split": protocol,
            "users": len(of_users),
            "ratings": len(predicted),
            "interval": f"95% bootstrap over users, {resamples} resamples",
        },
    )


def _rmse_and_mae(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Float64[R, 2] of the mean squared error, absolute error and number of ratings of a user."""
    squared, absolute, n = means.T
    return np.stack([np.sqrt(squared / n), absolute / n], axis=1)
