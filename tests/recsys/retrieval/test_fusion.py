"""Weighted reciprocal rank fusion, beside the sum that defines it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.retrieval.fusion import fuse, reciprocal_rank_fusion
from recsys.retrieval.index import NO_ROW

RANKING = st.lists(st.integers(0, 12), max_size=8, unique=True)
WEIGHTED = st.lists(
    st.tuples(RANKING, st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1, max_size=4
)


def rows(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def by_definition(
    rankings: list[list[int]], weights: list[float], constant: float
) -> list[tuple[float, int]]:
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for place, row in enumerate(ranking, start=1):
            if weight > 0:
                scores[row] = scores.get(row, 0.0) + weight / (constant + place)
    return sorted((-float(np.float32(score)), row) for row, score in scores.items())


@given(WEIGHTED, st.integers(1, 20), st.sampled_from([0.0, 1.0, 60.0]))
def test_scores_and_order_are_those_of_the_definition(
    weighted: list[tuple[list[int], float]], k: int, constant: float
) -> None:
    rankings, weights = [r for r, _ in weighted], [w for _, w in weighted]
    expected = by_definition(rankings, weights, constant)[:k]
    scores, found = reciprocal_rank_fusion(
        [rows(*r) for r in rankings], weights, k=k, constant=constant
    )
    np.testing.assert_array_equal(found, [row for _, row in expected])
    np.testing.assert_allclose(scores, [-score for score, _ in expected], rtol=1e-6)


@given(st.lists(st.tuples(RANKING, RANKING), min_size=1, max_size=6), st.integers(1, 10))
def test_a_batch_is_fused_as_its_queries_one_by_one(
    queries: list[tuple[list[int], list[int]]], k: int
) -> None:
    def padded(rankings: list[list[int]]) -> NDArray[np.int64]:
        return np.array([r + [NO_ROW] * (8 - len(r)) for r in rankings], np.int64)

    spaces = [padded([q[0] for q in queries]), padded([q[1] for q in queries])]
    scores, found = fuse(spaces, [1.0, 0.3], k=k)
    for i, query in enumerate(queries):
        alone = reciprocal_rank_fusion([rows(*r) for r in query], [1.0, 0.3], k=k)
        real = found[i] != NO_ROW
        np.testing.assert_array_equal(scores[i, real], alone[0])
        np.testing.assert_array_equal(found[i, real], alone[1])
        assert np.isneginf(scores[i, ~real]).all()


@given(st.permutations([([4, 1, 2], 0.7), ([2, 9, 4], 1.3), ([1, 2], 0.1), ([9], 2.0)]))
def test_the_order_of_the_rankings_does_not_matter(order: list[tuple[list[int], float]]) -> None:
    scores, found = reciprocal_rank_fusion([rows(*r) for r, _ in order], [w for _, w in order], k=9)
    np.testing.assert_array_equal(found, [9, 2, 4, 1])
    np.testing.assert_allclose(
        scores,
        [
            2 / 61 + 1.3 / 62,
            0.7 / 63 + 1.3 / 61 + 0.1 / 62,
            0.7 / 61 + 1.3 / 63,
            0.7 / 62 + 0.1 / 61,
        ],
        rtol=1e-6,
    )


def test_one_ranking_keeps_its_order() -> None:
    _, found = reciprocal_rank_fusion([rows(7, 3, 5)], k=3)
    assert found.tolist() == [7, 3, 5]


def test_what_two_spaces_agree_on_comes_before_the_first_of_either() -> None:
    _, found = reciprocal_rank_fusion([rows(1, 5), rows(2, 5)], k=3)
    assert found.tolist() == [5, 1, 2]


def test_equal_scores_go_by_row() -> None:
    _, found = reciprocal_rank_fusion([rows(9, 4), rows(4, 9)], k=2)
    assert found.tolist() == [4, 9]


def test_padding_takes_no_place() -> None:
    with_padding = reciprocal_rank_fusion([rows(NO_ROW, 3, NO_ROW, 8)], k=5)
    without = reciprocal_rank_fusion([rows(3, 8)], k=5)
    np.testing.assert_array_equal(with_padding[0], without[0])
    np.testing.assert_array_equal(with_padding[1], without[1])


def test_a_row_that_stands_twice_counts_at_its_better_place() -> None:
    scores, found = reciprocal_rank_fusion([rows(3, 8, 3)], k=5)
    assert found.tolist() == [3, 8]
    np.testing.assert_allclose(scores, [1 / 61, 1 / 62], rtol=1e-6)


def test_nothing_but_padding_gives_nothing() -> None:
    scores, found = fuse([np.full((2, 3), NO_ROW), np.empty((2, 0), np.int64)], k=2)
    assert (found == NO_ROW).all()
    assert np.isneginf(scores).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"rankings": [], "k": 1}, "no ranking"),
        ({"rankings": [rows(1)], "k": 0}, "k must be at least 1"),
        ({"rankings": [rows(1)], "k": 1, "weights": [1.0, 2.0]}, "2 weights for 1 rankings"),
        ({"rankings": [rows(1)], "k": 1, "weights": [-1.0]}, "at least 0"),
        ({"rankings": [rows(1)], "k": 1, "weights": [float("nan")]}, "at least 0"),
        ({"rankings": [rows(1)], "k": 1, "constant": -1.0}, "constant must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        reciprocal_rank_fusion(**arguments)  # type: ignore[arg-type]


def test_rankings_of_different_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\), \(1, 1\)"):
        fuse([np.zeros((2, 1), np.int64), np.zeros((1, 1), np.int64)], k=1)
