"""Biased matrix factorisation: it solves what it says it solves, and a user is but ratings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.models.biased_mf import BiasedMf, BiasedMfConfig
from recsys.models.ials import IalsConfig

N_USERS, N_ITEMS = 60, 40


def planted(rank: int, noise: float, share: float = 0.5, seed: int = 0) -> Ratings:
    """Ratings around 3 that biases and `rank` factors explain but for the noise; each user
    rated this share of the items."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(N_USERS, rank)), rng.normal(size=(N_ITEMS, rank))
    table = 3 + rng.normal(size=(N_USERS, 1)) / 2 + rng.normal(size=(1, N_ITEMS)) / 2
    table = table + users @ items.T / max(rank, 1) ** 0.5 + noise * rng.normal(size=table.shape)
    rated = rng.random(table.shape) < share
    histories = Histories.from_lengths(rated.sum(axis=1), np.nonzero(rated)[1])
    return Ratings(histories, table[rated].astype(np.float32))


def dense_side(
    ratings: NDArray[np.float64],
    biases: NDArray[np.float64],
    vectors: NDArray[np.float64],
    config: BiasedMfConfig,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The biases and vectors of the rows of standardised ratings, NaN where there is none."""
    solutions = np.zeros((len(ratings), 1 + config.dim))
    for row, rated in enumerate(~np.isnan(ratings)):
        if rated.any():
            f = np.column_stack([np.ones(rated.sum()), vectors[rated]])
            ridge = config.regularization * rated.sum() ** config.regularization_exponent
            normal = f.T @ f + ridge * np.eye(f.shape[1])
            solutions[row] = np.linalg.solve(normal, f.T @ (ratings[row, rated] - biases[rated]))
    return solutions[:, 0], solutions[:, 1:]


def dense_predictions(model: BiasedMf, rated: Ratings) -> NDArray[np.float64]:
    """Float64[B, N]: what the model says of every item, before clipping."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in model.tensors().items()}
    mean, deviation = tensors["scale"][:2]
    table = np.full((len(rated), len(tensors["item_biases"])), np.nan)
    table[rated.histories.rows(), rated.histories.items] = (rated.values - mean) / deviation
    biases, vectors = dense_side(
        table, tensors["item_biases"], tensors["item_vectors"], model.config
    )
    standard = biases[:, None] + tensors["item_biases"] + vectors @ tensors["item_vectors"].T
    return mean + deviation * standard


def everything(n_users: int) -> Histories:
    return Histories.of([range(N_ITEMS)] * n_users)


def table_of(model: BiasedMf, rated: Ratings) -> NDArray[np.float32]:
    """Float32[B, N]: what each user would give each item."""
    return model.predict(rated, everything(len(rated))).reshape(len(rated), N_ITEMS)


some_ratings = st.lists(
    st.lists(
        st.tuples(st.integers(0, N_ITEMS - 1), st.sampled_from([1.0, 2.0, 3.5, 5.0])),
        max_size=20,
        unique_by=lambda pair: pair[0],
    ),
    min_size=1,
    max_size=5,
).map(Ratings.of)


@settings(max_examples=50)
@given(some_ratings, st.sampled_from([0, 2, 8]), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_prediction_is_one_dense_solve(rated: Ratings, dim: int, exponent: float) -> None:
    config = BiasedMfConfig(dim=dim, regularization=0.3, regularization_exponent=exponent)
    rng = np.random.default_rng(1)
    scale = np.array([3.2, 1.1, -1e9, 1e9], np.float32)
    biases, vectors = rng.normal(size=N_ITEMS), rng.normal(size=(N_ITEMS, dim))
    model = BiasedMf(config, scale, biases.astype(np.float32), vectors.astype(np.float32))
    expected = dense_predictions(model, rated)
    np.testing.assert_allclose(table_of(model, rated), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dim", [0, 3, 30])
def test_the_fit_is_where_a_dense_alternation_stays(dim: int) -> None:
    ratings = planted(rank=2, noise=0.3)
    config = BiasedMfConfig(dim=dim, regularization=0.8, epochs=60)
    tensors = BiasedMf.fit(config, ratings, N_ITEMS).tensors()
    table = np.full((N_USERS, N_ITEMS), np.nan)
    standard = (ratings.values - ratings.values.mean()) / ratings.values.std()
    table[ratings.histories.rows(), ratings.histories.items] = standard
    item_biases, item_vectors = (
        tensors[name].astype(np.float64) for name in ("item_biases", "item_vectors")
    )
    user_biases, user_vectors = dense_side(table, item_biases, item_vectors, config)
    biases, vectors = dense_side(table.T, user_biases, user_vectors, config)
    before = user_biases[:, None] + item_biases + user_vectors @ item_vectors.T
    after = user_biases[:, None] + biases + user_vectors @ vectors.T
    np.testing.assert_allclose(after, before, atol=0.02)


def test_planted_factors_are_found_where_nothing_was_rated() -> None:
    truth, ratings = planted(2, 0.0, share=1.0), planted(2, 0.0)
    whole = truth.values.reshape(N_USERS, N_ITEMS)
    config = BiasedMfConfig(dim=4, regularization=0.01, epochs=40)
    biases = BiasedMf.fit(config.model_copy(update={"dim": 0}), ratings, N_ITEMS)
    factors = BiasedMf.fit(config, ratings, N_ITEMS)
    assert np.abs(table_of(biases, ratings) - whole).mean() > 0.4
    assert np.abs(table_of(factors, ratings) - whole).mean() < 0.1


def test_random_ratings_are_predicted_no_better_than_by_their_mean() -> None:
    rng = np.random.default_rng(0)
    ratings = planted(rank=0, noise=0.0, share=0.7)
    noise = Ratings(ratings.histories, rng.normal(size=len(ratings.values)).astype(np.float32))
    held_out = noise.folds(5, seed=0) == 0
    known, asked = noise.where(~held_out), noise.where(held_out)
    predicted = BiasedMf.fit(BiasedMfConfig(), known, N_ITEMS).predict(known, asked.histories)
    assert np.square(predicted - asked.values).mean() > 0.95 * np.square(asked.values).mean()


def test_a_user_of_the_fit_and_a_newcomer_of_the_same_ratings_are_one() -> None:
    ratings = planted(rank=2, noise=0.3)
    model = BiasedMf.fit(BiasedMfConfig(dim=4), ratings, N_ITEMS)
    seventh = Ratings(ratings.histories.slice(7, 8), ratings.values[_part(ratings, 7)])
    together, alone = table_of(model, ratings)[7], table_of(model, seventh)[0]
    np.testing.assert_allclose(alone, together, atol=1e-4)


def _part(ratings: Ratings, user: int) -> slice:
    return slice(*ratings.histories.offsets[user : user + 2])


def test_predictions_stay_within_the_scale_of_the_ratings() -> None:
    ratings = planted(rank=3, noise=0.0)
    rounded = Ratings(ratings.histories, ratings.values.round().clip(1, 5))
    model = BiasedMf.fit(BiasedMfConfig(regularization=0.1), rounded, N_ITEMS)
    predicted, unclipped = table_of(model, rounded), dense_predictions(model, rounded)
    assert unclipped.min() < 1 and unclipped.max() > 5
    np.testing.assert_allclose(predicted, unclipped.clip(1, 5), atol=1e-3)


@pytest.mark.parametrize("factor", [0.2, 20.0])
def test_the_rating_scale_does_not_matter(factor: float) -> None:
    ratings = planted(rank=2, noise=0.3)
    other = Ratings(ratings.histories, factor * (ratings.values + 10))
    config = BiasedMfConfig(dim=4)
    on_one = table_of(BiasedMf.fit(config, ratings, N_ITEMS), ratings)
    on_other = table_of(BiasedMf.fit(config, other, N_ITEMS), other)
    np.testing.assert_allclose(on_other / factor - 10, on_one, atol=2e-2)


def test_who_rated_nothing_is_told_the_mean_and_the_items_biases() -> None:
    model = BiasedMf.fit(BiasedMfConfig(), planted(rank=2, noise=0.3), N_ITEMS)
    tensors = model.tensors()
    mean, deviation, least, greatest = tensors["scale"]
    expected = (mean + deviation * tensors["item_biases"]).clip(least, greatest)
    np.testing.assert_allclose(table_of(model, Ratings.of([[]]))[0], expected, atol=1e-6)


def test_one_rating_moves_a_newcomer_towards_it() -> None:
    ratings = planted(rank=2, noise=0.3)
    model = BiasedMf.fit(BiasedMfConfig(dim=4), ratings, N_ITEMS)
    greatest = float(ratings.values.max())
    nothing, one = table_of(model, Ratings.of([[], [(3, greatest)]]))
    assert nothing[3] < one[3] < greatest
    assert one.mean() > nothing.mean()


def test_an_item_that_nobody_rated_is_told_by_the_users_bias_alone() -> None:
    ratings = planted(rank=2, noise=0.3)
    model = BiasedMf.fit(BiasedMfConfig(dim=4), ratings, N_ITEMS + 1)
    assert model.tensors()["item_biases"][N_ITEMS] == 0
    assert (model.tensors()["item_vectors"][N_ITEMS] == 0).all()
    nothing, one = model.predict(Ratings.of([[], [(3, 9.0)]]), Histories.of([[N_ITEMS]] * 2))
    assert nothing == pytest.approx(ratings.values.mean(), abs=1e-5)
    assert one > nothing


def test_the_same_seed_fits_the_same_model_and_another_another() -> None:
    ratings = planted(rank=2, noise=0.3)
    first, again, other = (
        BiasedMf.fit(BiasedMfConfig(dim=4, seed=seed), ratings, N_ITEMS).tensors()["item_vectors"]
        for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert not np.allclose(first, other)


def test_saved_and_restored_it_predicts_the_same() -> None:
    ratings = planted(rank=2, noise=0.3)
    model = BiasedMf.fit(BiasedMfConfig(dim=4), ratings, N_ITEMS)
    restored = BiasedMf.restore(model.config, load(save(dict(model.tensors()))))
    assert (table_of(restored, ratings) == table_of(model, ratings)).all()


def test_tensors_that_do_not_fit_are_refused_by_name() -> None:
    model = BiasedMf.fit(BiasedMfConfig(dim=4), planted(rank=2, noise=0.3), N_ITEMS)
    without = {name: tensor for name, tensor in model.tensors().items() if name != "scale"}
    with pytest.raises(ValueError, match="scale is missing"):
        BiasedMf.restore(model.config, without)
    with pytest.raises(ValueError, match="item_vectors has shape"):
        BiasedMf.restore(BiasedMfConfig(dim=5), model.tensors())
    with pytest.raises(ValueError, match="needs a BiasedMfConfig, not IalsConfig"):
        BiasedMf.restore(IalsConfig(), model.tensors())


def test_ratings_of_the_same_value_are_predicted_to_be_that() -> None:
    ratings = Ratings.of([[(0, 4.0), (1, 4.0)], [(2, 4.0)]])
    model = BiasedMf.fit(BiasedMfConfig(dim=2), ratings, N_ITEMS)
    assert (table_of(model, ratings) == 4).all()


def test_what_cannot_be_fitted_or_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="no ratings to fit on"):
        BiasedMf.fit(BiasedMfConfig(), Ratings.of([[]]), N_ITEMS)
    with pytest.raises(ValueError, match=r"an item row outside 0 \.\. 39"):
        BiasedMf.fit(BiasedMfConfig(), Ratings.of([[(N_ITEMS, 3.0)]]), N_ITEMS)
    model = BiasedMf.fit(BiasedMfConfig(dim=2), planted(rank=2, noise=0.3), N_ITEMS)
    one = Ratings.of([[(0, 3.0)]])
    with pytest.raises(ValueError, match="2 rows of items are asked of 1 users"):
        model.predict(one, Histories.of([[1], [2]]))
    with pytest.raises(ValueError, match=r"an item row outside 0 \.\. 39"):
        model.predict(one, Histories.of([[-1]]))
