"""The metrics: by hand, against trec_eval and scikit-learn, and the laws they keep."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score

from recsys.data.histories import PADDING, Histories
from recsys.evaluation import metrics
from tests.counts import counts

N_ITEMS = 12


def _targets(draw: st.DrawFn, n_users: int) -> Histories:
    some = st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=6)
    return Histories.of([draw(some) for _ in range(n_users)])


@st.composite
def full_rankings(draw: st.DrawFn) -> tuple[NDArray[np.int64], Histories]:
    """Whole permutations of the catalogue for some users, and what they turned out to take."""
    n_users = draw(st.integers(1, 5))
    ranked = [draw(st.permutations(range(N_ITEMS))) for _ in range(n_users)]
    return np.array(ranked, np.int64), _targets(draw, n_users)


@st.composite
def score_tables(draw: st.DrawFn) -> NDArray[np.float32]:
    """Scores with many ties and some -inf."""
    n_users = draw(st.integers(1, 4))
    few = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])
    rows = [draw(st.lists(few, min_size=N_ITEMS, max_size=N_ITEMS)) for _ in range(n_users)]
    return np.array(rows, np.float32)


def test_one_user_by_hand() -> None:
    recommended = np.array([[7, 3, 9, 1]])
    targets = Histories.of([[3, 1, 5]])
    hit, relevant = metrics.hits(recommended, targets), metrics.n_relevant(targets)
    assert hit.tolist() == [[False, True, False, True]]
    assert metrics.recall(hit, relevant, 4).tolist() == [2 / 3]
    assert metrics.recall(hit, relevant, 2).tolist() == [1 / 3]
    assert metrics.hit_rate(hit, 1).tolist() == [0.0]
    assert metrics.hit_rate(hit, 2).tolist() == [1.0]
    assert metrics.mrr(hit, 4).tolist() == [0.5]
    gained = 1 / np.log2(3) + 1 / np.log2(5)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert metrics.ndcg(hit, relevant, 4) == pytest.approx([gained / ideal])


def test_what_everybody_is_shown_by_hand() -> None:
    recommended = np.array([[0, 1], [0, PADDING]])
    exposed = metrics.exposure(recommended, n_items=4, k=2)
    assert exposed.tolist() == [2, 1, 0, 0]
    assert metrics.coverage(exposed) == 0.5
    # Sorted 0, 0, 1, 2 with the weights -3, -1, 1, 3, over 4 items · 3 recommendations.
    assert metrics.gini(exposed) == pytest.approx(7 / 12)
    popularity = np.array([10, 4, 1, 0])
    assert metrics.mean_popularity(recommended, popularity, 2).tolist() == [7.0, 10.0]


def test_gini_is_0_when_all_are_shown_alike_and_towards_1_when_one_is() -> None:
    assert metrics.gini(np.full(50, 3)) == pytest.approx(0)
    assert metrics.gini(np.bincount([7] * 9, minlength=50)) == pytest.approx(1 - 1 / 50)
    assert metrics.gini(np.zeros(50, np.int64)) == 0


def test_a_target_that_stands_twice_counts_once() -> None:
    targets = Histories.of([[4, 4, 2]])
    assert metrics.n_relevant(targets).tolist() == [2]
    hit = metrics.hits(np.array([[4, 1]]), targets)
    assert metrics.recall(hit, metrics.n_relevant(targets), 2).tolist() == [0.5]


def test_recommending_an_item_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        metrics.hits(np.array([[1, 2, 1]]), Histories.of([[1]]))


@given(full_rankings(), st.integers(1, N_ITEMS))
def test_agrees_with_trec_eval(ranked: tuple[NDArray[np.int64], Histories], k: int) -> None:
    recommended, targets = ranked
    hit, relevant = metrics.hits(recommended, targets), metrics.n_relevant(targets)
    qrels = {str(u): {str(i): 1 for i in targets[u]} for u in range(len(targets))}
    run = {
        str(u): {str(i): float(N_ITEMS - rank) for rank, i in enumerate(row)}
        for u, row in enumerate(recommended)
    }
    names = {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    for user in range(len(targets)):
        of_user = theirs[str(user)]
        assert metrics.ndcg(hit, relevant, k)[user] == pytest.approx(of_user[f"ndcg_cut_{k}"])
        assert metrics.recall(hit, relevant, k)[user] == pytest.approx(of_user[f"recall_{k}"])
        assert metrics.mrr(hit, N_ITEMS)[user] == pytest.approx(of_user["recip_rank"])


@given(full_rankings(), st.integers(1, N_ITEMS))
def test_ndcg_agrees_with_scikit_learn(ranked: tuple[NDArray[np.int64], Histories], k: int) -> None:
    recommended, targets = ranked
    scores = np.empty(recommended.shape)
    np.put_along_axis(scores, recommended, np.arange(N_ITEMS, 0, -1)[None, :], axis=1)
    wanted = (counts(targets, N_ITEMS).toarray() > 0).astype(float)
    ours = metrics.ndcg(metrics.hits(recommended, targets), metrics.n_relevant(targets), k)
    assert ours.mean() == pytest.approx(ndcg_score(wanted, scores, k=k))


@given(full_rankings(), st.permutations(range(N_ITEMS)))
def test_renaming_the_items_changes_no_accuracy(
    ranked: tuple[NDArray[np.int64], Histories], names: list[int]
) -> None:
    recommended, targets = ranked
    renamed = np.array(names)
    hit = metrics.hits(recommended, targets)
    again = metrics.hits(renamed[recommended], Histories(targets.offsets, renamed[targets.items]))
    assert (hit == again).all()


@given(full_rankings())
def test_recall_hit_rate_and_mrr_never_fall_as_k_grows(
    ranked: tuple[NDArray[np.int64], Histories],
) -> None:
    recommended, targets = ranked
    hit, relevant = metrics.hits(recommended, targets), metrics.n_relevant(targets)
    for k in range(1, N_ITEMS):
        assert (metrics.recall(hit, relevant, k) <= metrics.recall(hit, relevant, k + 1)).all()
        assert (metrics.hit_rate(hit, k) <= metrics.hit_rate(hit, k + 1)).all()
        assert (metrics.mrr(hit, k) <= metrics.mrr(hit, k + 1)).all()


@given(full_rankings(), st.integers(1, N_ITEMS))
def test_the_perfect_ranking_scores_1_and_none_scores_more(
    ranked: tuple[NDArray[np.int64], Histories], k: int
) -> None:
    recommended, targets = ranked
    hit, relevant = metrics.hits(recommended, targets), metrics.n_relevant(targets)
    assert (metrics.ndcg(hit, relevant, k) <= 1 + 1e-12).all()
    wanted = metrics.hits(recommended, targets)
    perfect = np.take_along_axis(recommended, np.argsort(~wanted, axis=1, kind="stable"), axis=1)
    hit = metrics.hits(perfect, targets)
    assert metrics.ndcg(hit, relevant, k) == pytest.approx(np.ones(len(targets)))
    assert (metrics.mrr(hit, k) == 1).all()
    assert (metrics.recall(hit, relevant, N_ITEMS) == 1).all()


@given(score_tables(), st.integers(1, N_ITEMS + 3))
def test_top_k_is_the_sort_by_score_then_row_without_what_scores_minus_infinity(
    scores: NDArray[np.float32], k: int
) -> None:
    ranking = metrics.top_k(scores, k)
    for row, items, values in zip(scores, ranking.items, ranking.scores, strict=True):
        best = sorted((i for i in range(N_ITEMS) if row[i] > -np.inf), key=lambda i: (-row[i], i))
        expected = best[:k] + [PADDING] * (k - len(best[:k]))
        assert items.tolist() == expected
        assert values[: len(best[:k])].tolist() == row[best[:k]].tolist()
        assert (values[len(best[:k]) :] == -np.inf).all()


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    scores = np.zeros((2, 9), np.float32)
    scores[1, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        metrics.top_k(scores, 3)


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(5)
    values = np.stack([rng.integers(0, 2, 2000), rng.normal(size=2000)], axis=1).astype(float)
    low, high = metrics.bootstrap(values)
    expected = 1.96 * values.std(axis=0) / np.sqrt(len(values))
    assert high - values.mean(axis=0) == pytest.approx(expected, rel=0.15)
    assert values.mean(axis=0) - low == pytest.approx(expected, rel=0.15)


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    values = np.random.default_rng(1).normal(size=(300, 2))
    first, again, other = (metrics.bootstrap(values, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_users_who_are_all_alike_leave_no_doubt() -> None:
    low, high = metrics.bootstrap(np.full((40, 1), 0.25))
    assert (low[0], high[0]) == (0.25, 0.25)
