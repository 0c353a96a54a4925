"""The index finds what scoring everything finds, and never what it may not return."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from recsys.retrieval.index import NO_ROW, Index

Vectors = NDArray[np.float32]

N_ITEMS, DIM, N_CLUSTERS = 120_000, 32, 200

finite = st.floats(-100, 100, width=32)


@pytest.fixture(scope="module")
def clusters() -> NDArray[np.int64]:
    """Int64[N_ITEMS]: the cluster of every item."""
    return np.random.default_rng(1).integers(0, N_CLUSTERS, N_ITEMS)


@pytest.fixture(scope="module")
def centres() -> Vectors:
    return np.random.default_rng(2).standard_normal((N_CLUSTERS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def clustered(clusters: NDArray[np.int64], centres: Vectors) -> Vectors:
    """Clustered vectors whose lengths vary as those of recommenders do: most are short."""
    random = np.random.default_rng(3)
    vectors = centres[clusters] + 0.7 * random.standard_normal((N_ITEMS, DIM))
    return (vectors * random.lognormal(0, 0.4, (N_ITEMS, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def graph(clustered: Vectors) -> Index:
    index = Index.build(clustered)
    assert index.description["type"] == "hnsw"
    return index


@pytest.fixture(scope="module")
def queries(centres: Vectors) -> Vectors:
    """200 points near the clusters; none is an item."""
    random = np.random.default_rng(4)
    near = centres[random.integers(0, N_CLUSTERS, 200)]
    return (near + 0.5 * random.standard_normal(near.shape)).astype(np.float32)


def recall(index: Index, queries: Vectors, k: int, allow: NDArray[np.bool_] | None = None) -> float:
    """The share of the true k best (by numpy, over the allowed) that the index returns."""
    scores = queries @ index.vectors.T
    if allow is not None:
        scores[:, ~allow] = -np.inf
    true = np.argpartition(-scores, k, axis=1)[:, :k]
    rows = index.search(queries, k, allow)[1]
    return float(np.mean([np.isin(t, r).mean() for t, r in zip(true, rows, strict=True)]))


@st.composite
def small_searches(draw: st.DrawFn) -> tuple[Vectors, Vectors, int, NDArray[np.bool_]]:
    n, d, b = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(0, 5))
    vectors = draw(arrays(np.float32, (n, d), elements=finite))
    queries = draw(arrays(np.float32, (b, d), elements=finite))
    return vectors, queries, draw(st.integers(1, 50)), draw(arrays(np.bool_, n))


@given(small_searches())
def test_exact_search_agrees_with_scoring_everything(
    search: tuple[Vectors, Vectors, int, NDArray[np.bool_]],
) -> None:
    vectors, queries, k, allow = search
    scores, rows = Index.build(vectors).search(queries, k, allow)
    everything = np.where(allow, queries @ vectors.T, -np.inf)
    expected = -np.sort(-everything, axis=1)[:, :k]
    found = min(k, int(allow.sum()))
    assert scores.shape == rows.shape == (len(queries), k)
    np.testing.assert_allclose(scores[:, :found], expected[:, :found], rtol=1e-4, atol=1e-2)
    assert np.all(rows[:, found:] == NO_ROW) and np.all(scores[:, found:] == -np.inf)
    assert all(len(set(row[:found])) == found for row in rows)
    assert allow[rows[:, :found]].all()


@given(small_searches())
def test_a_batch_answers_as_its_queries_one_by_one(
    search: tuple[Vectors, Vectors, int, NDArray[np.bool_]],
) -> None:
    vectors, queries, k, allow = search
    index = Index.build(vectors)
    scores, rows = index.search(queries, k, allow)
    for i in range(len(queries)):
        one_scores, one_rows = index.search(queries[i : i + 1], k, allow)
        np.testing.assert_array_equal(one_scores[0], scores[i])
        np.testing.assert_array_equal(one_rows[0], rows[i])


@pytest.mark.parametrize("share", [None, 0.5, 0.1, 0.001])
def test_a_batch_on_a_graph_answers_as_its_queries_one_by_one(
    graph: Index, queries: Vectors, share: float | None
) -> None:
    allow = None if share is None else np.random.default_rng(0).random(len(graph)) < share
    scores, rows = graph.search(queries[:40], 10, allow)
    singles = [graph.search(queries[i : i + 1], 10, allow) for i in range(40)]
    np.testing.assert_array_equal(scores, np.concatenate([s for s, _ in singles]))
    np.testing.assert_array_equal(rows, np.concatenate([r for _, r in singles]))


@pytest.mark.parametrize("k", [1, 10, 30, 110, 1000])
def test_a_graph_keeps_the_promised_recall_at_every_k(
    graph: Index, queries: Vectors, k: int
) -> None:
    assert recall(graph, queries, k) >= 0.95


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01, 0.0005])
def test_a_graph_keeps_the_promised_recall_whatever_share_is_allowed(
    graph: Index, queries: Vectors, share: float
) -> None:
    allow = np.random.default_rng(0).random(len(graph)) < share
    assert recall(graph, queries, 10, allow) >= 0.95


def test_a_graph_keeps_the_promised_recall_where_the_allowed_lie_apart_from_the_query(
    graph: Index, queries: Vectors, clusters: NDArray[np.int64]
) -> None:
    assert recall(graph, queries, 10, clusters < N_CLUSTERS // 2) >= 0.95
    assert recall(graph, queries, 10, clusters == 7) >= 0.95


def test_a_graph_keeps_the_promised_recall_among_short_vectors(
    graph: Index, queries: Vectors
) -> None:
    lengths = np.linalg.norm(graph.vectors, axis=1)
    assert recall(graph, queries, 10, lengths < np.median(lengths)) >= 0.95


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), k=st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_a_graph_never_returns_a_disallowed_row_and_as_many_as_there_are(
    graph: Index, queries: Vectors, seed: int, share: float, k: int
) -> None:
    allow = np.random.default_rng(seed).random(len(graph)) < share**4
    scores, rows = graph.search(queries[:5], k, allow)
    found = min(k, int(allow.sum()))
    assert allow[rows[:, :found]].all()
    assert np.all(rows[:, found:] == NO_ROW) and np.all(scores[:, found:] == -np.inf)
    assert np.all(np.diff(scores[:, :found], axis=1) <= 0)
    assert all(len(set(row[:found])) == found for row in rows)


def test_the_description_tells_the_recall_that_was_measured(graph: Index) -> None:
    description = graph.description
    assert (description["n"], description["d"]) == (N_ITEMS, DIM)
    assert description["promised"] == 0.95
    assert 0.95 <= description["recall"]["10"] <= 1
    assert description["measured_with"] == "1000 vectors of the index"


def test_given_queries_measure_the_recall(clustered: Vectors) -> None:
    some = clustered[:12_000]
    index = Index.build(some, queries=some[:300] + some[300:600], exact_below=10_000)
    assert index.description["measured_with"] == "300 given queries"


def test_a_promise_that_no_graph_keeps_makes_the_index_exact() -> None:
    random = np.random.default_rng(0).standard_normal((12_000, 128)).astype(np.float32)
    index = Index.build(random, recall=0.999, exact_below=10_000)
    assert index.description["type"] == "exact"
    assert "0.999" in index.description["why"]
    assert recall(index, random[:50] * 0.5, 10) == 1


def test_few_vectors_are_searched_exactly(clustered: Vectors) -> None:
    index = Index.build(clustered[:5000])
    assert index.description == {"type": "exact", "n": 5000, "d": DIM}


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_save_then_load_is_the_identity(
    graph: Index, clustered: Vectors, queries: Vectors, tmp_path: Path, kind: str
) -> None:
    index = graph if kind == "hnsw" else Index.build(clustered[:5000])
    index.save(tmp_path / "space.faiss")
    again = Index.load(tmp_path / "space.faiss", index.description)
    assert again.description == index.description
    np.testing.assert_array_equal(again.vectors, index.vectors)
    for k, allow in [(10, None), (7, np.arange(len(index)) % 3 == 0)]:
        for before, after in zip(
            index.search(queries, k, allow), again.search(queries, k, allow), strict=True
        ):
            np.testing.assert_array_equal(before, after)


def test_an_index_that_is_not_the_one_described_is_refused(
    clustered: Vectors, tmp_path: Path
) -> None:
    path = tmp_path / "space.faiss"
    index = Index.build(clustered[:100])
    index.save(path)
    with pytest.raises(ValueError, match="100 vectors of dimension 32, not 99"):
        Index.load(path, index.description | {"n": 99})
    with pytest.raises(ValueError, match="not a 'hnsw' index"):
        Index.load(path, index.description | {"type": "hnsw"})
    faiss.write_index(faiss.IndexFlatL2(DIM), str(path))
    with pytest.raises(ValueError, match="holds a IndexFlatL2"):
        Index.load(path, index.description)
    path.write_bytes(b"no index")
    with pytest.raises(ValueError, match="is not a FAISS index"):
        Index.load(path, index.description)


def test_what_cannot_be_searched_is_named() -> None:
    index = Index.build(np.eye(3, dtype=np.float32))
    query = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="query 1 holds a value that is not finite"):
        index.search(np.array([[0, 0, 0], [0, np.nan, 0]], np.float32), 1)
    with pytest.raises(ValueError, match=r"queries must be Float32\[B, 3\]"):
        index.search(query[:, :2], 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(query, 0)
    with pytest.raises(ValueError, match=r"allow must be Bool\[3\]"):
        index.search(query, 1, np.ones(4, np.bool_))
    with pytest.raises(ValueError, match="vector 1 holds a value that is not finite"):
        Index.build(np.array([[0], [np.inf]], np.float32))
    with pytest.raises(ValueError, match="not empty"):
        Index.build(np.empty((0, 3), np.float32))


def test_equal_scores_come_in_the_order_of_rows() -> None:
    index = Index.build(np.array([[1], [2], [1], [2], [2]], np.float32))
    assert index.search(np.ones((1, 1), np.float32), 4)[1].tolist()[0][:3] == [1, 3, 4]


def test_progress_is_told_until_all_is_indexed(clustered: Vectors) -> None:
    told: list[tuple[int, int]] = []
    Index.build(
        clustered[:25_000],
        exact_below=20_000,
        progress=lambda done, whole: told.append((done, whole)),
    )
    assert told == [(10_000, 25_000), (20_000, 25_000), (25_000, 25_000)]
