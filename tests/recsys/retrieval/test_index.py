"""The index finds what scoring everything finds, and never what it may not return."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from recsys.retrieval.index import NO_ROW, Asked, Index, Kind

Vectors = NDArray[np.float32]

N_ITEMS, DIM, N_CLUSTERS = 40_000, 32, 200

KINDS = ("hnsw", "ivf_sq8", "ivf_pq")

PROMISED = 0.95
LUCK = 0.015
"""About three standard deviations of a recall over as many queries as are asked here."""

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
def near(centres: Vectors) -> Vectors:
    """2000 points near the clusters; none is an item."""
    random = np.random.default_rng(4)
    some = centres[random.integers(0, N_CLUSTERS, 2000)]
    return (some + 0.5 * random.standard_normal(some.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(near: Vectors) -> Vectors:
    return near[1000:1500]


@pytest.fixture(scope="module", params=KINDS)
def approximate(request: pytest.FixtureRequest, clustered: Vectors, near: Vectors) -> Index:
    """Tuned with other queries than those that are asked."""
    index = Index.build(clustered, kind=request.param, queries=near[:1000], recall=PROMISED)
    assert index.description["type"] == request.param
    return index


def recall(index: Index, queries: Vectors, k: int, allow: NDArray[np.bool_] | None = None) -> float:
    """The share of the true k best (by numpy, over the allowed) that the index returns."""
    scores = queries @ index.vectors.T
    if allow is not None:
        scores[:, ~allow] = -np.inf
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1, None]
    rows = index.search(queries, k, allow)[1]
    found = np.where(rows == NO_ROW, -np.inf, np.take_along_axis(scores, rows, axis=1))
    return float(np.mean(found >= least - 1e-5 * np.abs(least)))


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
def test_an_approximation_answers_a_batch_as_its_queries_one_by_one(
    approximate: Index, queries: Vectors, share: float | None
) -> None:
    allow = None if share is None else np.random.default_rng(0).random(N_ITEMS) < share
    scores, rows = approximate.search(queries[:200], 10, allow)
    singles = [approximate.search(queries[i : i + 1], 10, allow) for i in range(200)]
    np.testing.assert_array_equal(scores, np.concatenate([s for s, _ in singles]))
    np.testing.assert_array_equal(rows, np.concatenate([r for _, r in singles]))


def test_a_batch_so_large_that_faiss_multiplies_matrices_answers_as_a_small_one(
    approximate: Index, near: Vectors
) -> None:
    many = np.tile(near, (3, 1))  # 6,000 · 32 is past FAISS' threshold of 128,000
    scores, rows = approximate.search(many, 10)
    few_scores, few_rows = approximate.search(near[:100], 10)
    np.testing.assert_array_equal(scores[-2000:-1900], few_scores)
    np.testing.assert_array_equal(rows[-2000:-1900], few_rows)


@pytest.mark.parametrize("k", [1, 10, 30, 110, 1000])
def test_the_promised_recall_is_kept_at_every_k(
    approximate: Index, queries: Vectors, k: int
) -> None:
    assert recall(approximate, queries, k) >= PROMISED - LUCK


@pytest.mark.parametrize("share", [0.9999, 0.99, 0.9, 0.5, 0.1, 0.01, 0.0005])
def test_the_promised_recall_is_kept_whatever_share_is_allowed(
    approximate: Index, queries: Vectors, share: float
) -> None:
    allow = np.random.default_rng(0).random(N_ITEMS) < share
    assert recall(approximate, queries, 10, allow) >= PROMISED - LUCK


@pytest.mark.parametrize("n_allowed", [100, 20, 2])
def test_the_promised_recall_is_kept_where_the_allowed_lie_apart_from_the_query(
    approximate: Index, queries: Vectors, clusters: NDArray[np.int64], n_allowed: int
) -> None:
    # Half, a tenth and a hundredth of the items: whole clusters, in which few queries are.
    assert recall(approximate, queries, 10, clusters < n_allowed) >= PROMISED - LUCK


def test_the_promised_recall_is_kept_where_a_few_of_the_allowed_lie_near(
    approximate: Index, queries: Vectors, clusters: NDArray[np.int64]
) -> None:
    """A stray allowed item among the nearest is no sign that the best allowed ones are there."""
    strays = np.random.default_rng(0).random(N_ITEMS) < 0.002
    assert recall(approximate, queries, 10, strays | (clusters < 60)) >= PROMISED - LUCK


def test_the_promised_recall_is_kept_among_short_vectors(
    approximate: Index, queries: Vectors
) -> None:
    lengths = np.linalg.norm(approximate.vectors, axis=1)
    assert recall(approximate, queries, 10, lengths < np.median(lengths)) >= PROMISED - LUCK


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), k=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_a_disallowed_row_is_never_returned_and_there_are_as_many_as_may_be(
    approximate: Index, queries: Vectors, seed: int, share: float, k: int
) -> None:
    allow = np.random.default_rng(seed).random(N_ITEMS) < share**4
    scores, rows = approximate.search(queries[:5], k, allow)
    found = min(k, int(allow.sum()))
    assert allow[rows[:, :found]].all()
    assert np.all(rows[:, found:] == NO_ROW) and np.all(scores[:, found:] == -np.inf)
    assert np.all(np.diff(scores[:, :found], axis=1) <= 0)
    assert all(len(set(row[:found])) == found for row in rows)


@pytest.mark.parametrize("k", [10, 100])
def test_a_disallowed_row_that_would_not_be_found_changes_no_answer(
    approximate: Index, queries: Vectors, k: int
) -> None:
    scores, rows = approximate.search(queries, k)
    allow = np.ones(N_ITEMS, np.bool_)
    allow[np.setdiff1d(np.arange(N_ITEMS), rows)[0]] = False
    masked_scores, masked_rows = approximate.search(queries, k, allow)
    np.testing.assert_array_equal(masked_scores, scores)
    np.testing.assert_array_equal(masked_rows, rows)


@pytest.mark.parametrize("k", [10, 100])
def test_where_the_best_row_is_disallowed_the_next_ones_are_found(
    approximate: Index, queries: Vectors, k: int
) -> None:
    for query in queries[:20]:
        allow = np.ones(N_ITEMS, np.bool_)
        allow[approximate.search(query[None], 1)[1]] = False
        assert NO_ROW not in approximate.search(query[None], k, allow)[1]
        assert recall(approximate, query[None], k, allow) >= 0.8


def test_scores_are_inner_products_with_the_vectors_themselves(
    approximate: Index, queries: Vectors
) -> None:
    scores, rows = approximate.search(queries, 10)
    expected = np.einsum("bd,bkd->bk", queries, approximate.vectors[rows])
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)


def test_the_description_tells_what_was_measured(approximate: Index) -> None:
    description = approximate.description
    assert (description["n"], description["d"]) == (N_ITEMS, DIM)
    assert description["promised"] == PROMISED
    assert PROMISED <= description["recall"]["10"] <= 1
    assert description["rate"]["10"] > description["exact_rate"] > 0
    assert description["measured_with"] == "1000 given queries"
    assert max(description["tried"].values()) > 1
    parameters = {"hnsw": {"efSearch", "k_factor"}}.get(description["type"], {"nprobe", "k_factor"})
    assert set(description["settings"]["10"]) == parameters
    assert json.loads(json.dumps(description)) == description


def test_of_all_kinds_the_fastest_that_keeps_the_promise_is_chosen(clustered: Vectors) -> None:
    index = Index.build(clustered[:12_000], exact_below=10_000)
    description = index.description
    assert {name.split()[0] for name in description["tried"]} == set(KINDS)
    assert description["type"] in KINDS
    assert description["recall"]["10"] >= PROMISED
    assert description["measured_with"] == "1000 vectors of the index, which find themselves"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_asked_for_is_built_for_few_vectors_but_for_very_few(
    clustered: Vectors, kind: Kind
) -> None:
    some = clustered[:12_000]
    assert set(Index.build(some, kind=kind, recall=0.5).description["tried"]) != set()
    very_few = Index.build(some[:999], kind=kind)
    assert very_few.description["type"] == "exact"
    assert "fewer than 1,000 vectors" in very_few.description["why"]


@pytest.mark.parametrize("dim", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_any_dimension_can_be_indexed(kind: Kind, dim: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, dim)).astype(np.float32)
    assert recall(Index.build(vectors, kind=kind), vectors[:200], 10) >= PROMISED - LUCK


def test_a_promise_that_none_keeps_faster_makes_the_index_exact() -> None:
    random = np.random.default_rng(0).standard_normal((4_000, 128)).astype(np.float32)
    index = Index.build(random, recall=0.997, exact_below=1_000)
    assert index.description["type"] == "exact"
    assert all(said in index.description["why"] for said in (*KINDS, "recall@10 of 0.997"))
    assert recall(index, random[:50] * 0.5, 10) == 1


@pytest.mark.parametrize(("promised", "few"), [(0.95, 20), (0.99, 200), (1.0, 1000)])
def test_a_promise_that_so_few_queries_cannot_show_makes_the_index_exact(
    clustered: Vectors, near: Vectors, promised: float, few: int
) -> None:
    index = Index.build(clustered[:5000], kind="ivf_sq8", recall=promised, queries=near[:few])
    assert index.description["type"] == "exact"
    told = f"a recall of {promised} cannot be shown with {few} given queries"
    assert index.description["why"] == told


def test_few_vectors_are_searched_exactly(clustered: Vectors) -> None:
    index = Index.build(clustered[:5000])
    asked = {"promised": 0.95, "exact_below": 100_000, "kind": "auto"}
    assert index.description == {"type": "exact", "n": 5000, "d": DIM} | asked


def test_an_index_knows_what_it_was_asked_to_be(clustered: Vectors, tmp_path: Path) -> None:
    asked: Asked = {"recall": 0.9, "exact_below": 6000, "kind": "auto"}
    index = Index.build(clustered[:5000], **asked)
    index.save(tmp_path / "index.faiss")
    assert Index.load(tmp_path / "index.faiss", index.description).asked == asked
    of_an_older_release = {"type": "exact", "n": 5000, "d": DIM, "promised": 0.99}
    asked = {"recall": 0.99, "exact_below": 100_000, "kind": "auto"}
    assert Index.load(tmp_path / "index.faiss", of_an_older_release).asked == asked


def assert_saved_is_loaded(index: Index, queries: Vectors, path: Path) -> None:
    index.save(path)
    again = Index.load(path, json.loads(json.dumps(index.description)))
    assert again.description == index.description
    np.testing.assert_array_equal(again.vectors, index.vectors)
    for k, allow in [(10, None), (7, np.arange(len(index)) % 3 == 0)]:
        for before, after in zip(
            index.search(queries, k, allow), again.search(queries, k, allow), strict=True
        ):
            np.testing.assert_array_equal(before, after)


def test_save_then_load_is_the_identity(
    approximate: Index, clustered: Vectors, queries: Vectors, tmp_path: Path
) -> None:
    assert_saved_is_loaded(approximate, queries, tmp_path / "approximate.faiss")
    assert_saved_is_loaded(Index.build(clustered[:5000]), queries, tmp_path / "exact.faiss")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="it is read there")
def test_a_loaded_index_is_mapped_into_memory(approximate: Index, tmp_path: Path) -> None:
    path = tmp_path / "space.faiss"
    approximate.save(path)
    again = Index.load(path, approximate.description)
    mapped = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line
    ]
    address = again.vectors.ctypes.data
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    assert any(start <= address < stop for start, stop in spans)


def test_an_index_that_is_not_the_one_described_is_refused(
    approximate: Index, clustered: Vectors, tmp_path: Path
) -> None:
    path = tmp_path / "space.faiss"
    index = Index.build(clustered[:100])
    index.save(path)
    with pytest.raises(ValueError, match="100 vectors of dimension 32, not 99"):
        Index.load(path, index.description | {"n": 99})
    with pytest.raises(ValueError, match="not a 'hnsw' index"):
        Index.load(path, index.description | {"type": "hnsw"})
    with pytest.raises(ValueError, match="not a 'tree' index"):
        Index.load(path, index.description | {"type": "tree"})
    faiss.write_index(faiss.IndexFlatL2(DIM), str(path))
    with pytest.raises(ValueError, match="holds a IndexFlatL2"):
        Index.load(path, index.description)
    path.write_bytes(b"no index")
    with pytest.raises(ValueError, match="is not a FAISS index"):
        Index.load(path, index.description)
    approximate.save(path)
    others = {"exact", *KINDS} - {approximate.description["type"]}
    for other in others:
        with pytest.raises(ValueError, match=f"holds a IndexRefine.*not a '{other}' index"):
            Index.load(path, approximate.description | {"type": other})


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
    doubles = np.array([[0, 0, 0], [0, 0, 0], [0, 1e300, 0]])
    with pytest.raises(ValueError, match="vector 2 holds a value that is not finite"):
        Index.build(doubles)
    with pytest.raises(ValueError, match="query 2 holds a value that is not finite"):
        index.search(doubles, 1)
    with pytest.raises(ValueError, match="not empty"):
        Index.build(np.empty((0, 3), np.float32))


def test_equal_scores_come_in_the_order_of_rows() -> None:
    index = Index.build(np.array([[1], [2], [1], [2], [2]], np.float32))
    assert index.search(np.ones((1, 1), np.float32), 4)[1].tolist()[0][:3] == [1, 3, 4]


def test_progress_is_told_of_each_candidate_until_all_is_indexed(clustered: Vectors) -> None:
    told: list[tuple[int, int]] = []
    Index.build(
        clustered[:25_000],
        kind="ivf_sq8",
        recall=0.5,
        progress=lambda done, whole: told.append((done, whole)),
    )
    of_one = [(10_000, 25_000), (20_000, 25_000), (25_000, 25_000)]
    assert told == 2 * of_one  # of 128 and of 512 lists
