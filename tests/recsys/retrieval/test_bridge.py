"""The bridge finds planted content, leaves out as it says, and gives new items their share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.retrieval.bridge import LISTED, Fitted, NoBridge, fit

N, DC, D, Q = 600, 12, 6, 200


class World:
    """Items whose vectors are a linear map of their content, and noise; the fewer the events, the
    more. Queries all like one direction, and differ in the others."""

    def __init__(self, *, signal: float = 1.0, noise: float = 0.5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.content = rng.normal(size=(N, DC)).astype(np.float32)
        self.counts = rng.integers(1, 200, N)
        self.truth = signal * self.content @ rng.normal(size=(DC, D)) + rng.normal(size=D)
        spread = noise * np.sqrt(20 / self.counts)[:, None]
        self.vectors = (self.truth + spread * rng.normal(size=(N, D))).astype(np.float32)
        self.queries = (rng.normal(size=(Q, D)) + 3 * np.eye(D)[0]).astype(np.float32)
        self.seen = Histories.of([rng.choice(N, 5, replace=False) for _ in range(Q)])

    def fitted(self) -> Fitted:
        return fit(self.content, self.vectors, self.counts, self.queries, self.seen)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def fitted(world: World) -> Fitted:
    return world.fitted()


def places(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(-scores, axis=1), axis=1)


def test_a_planted_map_is_found(world: World, fitted: Fitted) -> None:
    assert fitted.explained > 0.9
    mapped = world.queries @ fitted.bridge.map(world.content).T
    correlation = np.corrcoef(mapped.ravel(), (world.queries @ world.truth.T).ravel())[0, 1]
    assert correlation > 0.99


def test_nothing_is_found_where_content_says_nothing() -> None:
    fitted = World(signal=0.0).fitted()
    assert fitted.explained < 0.05
    assert fitted.ridge > 100


def test_what_was_left_out_is_what_a_regression_without_the_item_maps_it_to(
    world: World, fitted: Fitted
) -> None:
    for item in (0, 17, N - 1):
        others = np.arange(N) != item
        w = world.counts[others] / world.counts.mean()
        # The ridge as rows of the regression: √λ for each coordinate, none for the intercept.
        rows = np.column_stack([world.content[others], np.ones(N - 1)]) * np.sqrt(w)[:, None]
        penalty = np.eye(DC, DC + 1) * np.sqrt(fitted.ridge)
        wanted = np.concatenate([world.vectors[others] * np.sqrt(w)[:, None], np.zeros((DC, D))])
        solved = np.linalg.lstsq(np.concatenate([rows, penalty]), wanted, rcond=None)[0]
        alone = np.append(world.content[item], 1) @ solved
        step = fitted.left_out[item] - alone
        q = world.queries.astype(np.float64)
        direction = np.linalg.solve(q.T @ q / Q, q.mean(axis=0))
        np.testing.assert_allclose(step, fitted.offset * direction, atol=2e-4)


def test_an_item_of_few_events_has_little_to_say() -> None:
    world = World()
    rare = np.argsort(world.counts)[:100]
    world.counts[rare] = 1
    before = world.fitted()
    world.vectors[rare] += 50 * np.random.default_rng(1).normal(size=(100, D)).astype(np.float32)
    world.counts[np.setdiff1d(np.arange(N), rare)] *= 10_000
    after = world.fitted()
    change = (after.bridge.weights - before.bridge.weights).ravel()
    assert np.abs(change).max() < 0.2 * np.abs(before.bridge.weights).max()


def test_left_out_vectors_are_listed_as_often_as_learnt_ones() -> None:
    # With so much noise the map explains little, and unmoved vectors would hardly be listed.
    world = World(noise=4.0)
    fitted = world.fitted()
    scores = world.queries @ world.vectors.T
    scores[world.seen.rows(), world.seen.items] = -np.inf
    last = -np.sort(-scores, axis=1)[:, LISTED - 1 : LISTED]

    def listed(vectors: NDArray[np.float32]) -> int:
        own = world.queries @ vectors.T
        own[world.seen.rows(), world.seen.items] = -np.inf
        return int((own >= last).sum())

    q = world.queries.astype(np.float64)
    direction = np.linalg.solve(q.T @ q / Q, q.mean(axis=0))
    unmoved = fitted.left_out - (fitted.offset * direction).astype(np.float32)
    assert listed(world.vectors) == LISTED * Q
    assert listed(unmoved) < 0.6 * LISTED * Q
    assert abs(listed(fitted.left_out) - LISTED * Q) <= 0.01 * LISTED * Q


def test_the_step_keeps_the_order_of_new_items_where_all_queries_gain_the_same() -> None:
    world = World(noise=4.0)
    world.queries[:, 0] = 3.0
    fitted = world.fitted()
    new = np.random.default_rng(2).normal(size=(50, DC)).astype(np.float32)
    unmoved = new @ fitted.bridge.weights
    moved = fitted.bridge.map(new)
    agree = places(world.queries @ unmoved.T) == places(world.queries @ moved.T)
    assert agree.mean() > 0.99


def test_an_item_without_events_is_mapped_and_not_learnt_from(world: World, fitted: Fitted) -> None:
    more = World()
    more.content = np.concatenate([world.content, world.content[:3]])
    more.vectors = np.concatenate([world.vectors, np.full((3, D), 1e6, np.float32)])
    more.counts = np.append(world.counts, [0, 0, 0])
    again = more.fitted()
    np.testing.assert_allclose(again.bridge.weights, fitted.bridge.weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        again.left_out[N:], again.bridge.map(world.content[:3]), rtol=1e-4, atol=1e-4
    )


def test_a_batch_is_mapped_as_its_items_one_by_one(world: World, fitted: Fitted) -> None:
    alone = [fitted.bridge.map(world.content[i : i + 1])[0] for i in range(20)]
    np.testing.assert_allclose(fitted.bridge.map(world.content[:20]), alone, rtol=1e-5, atol=1e-6)


def test_the_same_data_gives_the_same_bridge(world: World, fitted: Fitted) -> None:
    again = world.fitted()
    np.testing.assert_array_equal(again.bridge.weights, fitted.bridge.weights)
    np.testing.assert_array_equal(again.bridge.intercept, fitted.bridge.intercept)


def test_a_space_of_one_dimension_has_a_bridge() -> None:
    world = World()
    world.vectors, world.queries = world.vectors[:, :1], np.ones((Q, 1), np.float32)
    assert world.fitted().bridge.map(world.content).shape == (N, 1)


def test_items_without_content_or_events_are_told() -> None:
    world = World()
    world.counts[1:] = 0
    with pytest.raises(NoBridge, match="1 of 600 have"):
        world.fitted()


def test_queries_that_say_nothing_are_told() -> None:
    world = World()
    world.queries[:] = 0
    with pytest.raises(NoBridge, match="every query is zero"):
        world.fitted()


def test_histories_that_hold_everything_are_told() -> None:
    world = World()
    world.seen = Histories.of([range(N)] * Q)
    with pytest.raises(NoBridge, match="none is left"):
        world.fitted()


def test_shapes_that_do_not_agree_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="600 contents, 599 vectors"):
        fit(world.content, world.vectors[1:], world.counts, world.queries, world.seen)
    with pytest.raises(ValueError, match=r"queries \(199, 6\) of 200 histories"):
        fit(world.content, world.vectors, world.counts, world.queries[1:], world.seen)
