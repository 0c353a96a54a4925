"""The index of a space: for each query vector, the k items with the largest inner product.

Exact below `exact_below` items: one pass over all vectors, O(N·D) a query. Above, a hierarchical
navigable small world graph (Malkov and Yashunin, arXiv 1603.09320) built on the inner product
itself, about O(beam·M·D) a query and 4·(D + 2M) bytes an item. Item vectors of recommenders differ
much in length; turning inner products into distances by one more coordinate (Bachrach et al., 2014)
was measured here and found far worse on such vectors (recall@10 of 0.1 against 0.97 at the same
beam), because all vectors but the longest end up far from every query.

The beam is tuned on the data at hand until the promised recall is measured, for 10 results and
separately for more, because short vectors are hard to reach in a graph of inner products. Where no
beam reaches it at less work than an exact pass, the pass is made; if that is so for 10 results
already, the index is exact and its description says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from infra.storage import atomic_file

NO_ROW = -1
"""The row in a result where there are fewer than k items to return; its score is -inf."""

LINKS = 32
"""M, the links of an item in the graph; 2M on the ground layer."""

CONSTRUCTION_BEAM = 100
"""How many candidates are looked at for the links of a new item."""

DEPTHS = (10, 30, 100, 300, 1000)
"""The numbers of results that a beam (efSearch) is tuned for."""

FIRST_BEAM = 16
STEP = 4 * 2 * LINKS
"""The work of one step of a beam, in vectors scored in an exact pass: it scores up to 2M vectors,
each about four times as slowly (measured) because they lie anywhere in memory."""

TUNING_QUERIES = 1000
BLOCK = 10_000
"""Items that are added to a graph between two calls of `progress`."""

Progress = Callable[[int, int], None]
"""Called with how many items are indexed and how many there are."""


class Index:
    """N vectors of dimension D, searched by inner product. Made by `build` or `load`.

    Searching changes nothing, so threads may share an index. FAISS runs the queries of a batch on
    OMP_NUM_THREADS threads: leave it at the cores of the process, which is 1 in a Ray replica.
    """

    def __init__(self, searcher: Any, description: Mapping[str, Any]) -> None:
        """`searcher`: a faiss.IndexFlatIP or a faiss.IndexHNSWFlat over one."""
        graph = isinstance(searcher, faiss.IndexHNSWFlat)
        self._graph = searcher if graph else None
        self._vectors = faiss.downcast_index(searcher.storage) if graph else searcher
        self._searcher = searcher  # owns the storage
        self._beams = {int(k): int(beam) for k, beam in description.get("beams", {}).items()}
        self.description: dict[str, Any] = dict(description)
        """`type`, `n`, `d`; for a graph `links`, and by number of results `beams` and the measured
        `recall`; for an exact index that was to be a graph, `why` it is not. As JSON has it."""

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        *,
        queries: NDArray[np.float32] | None = None,
        recall: float = 0.95,
        exact_below: int = 100_000,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Index:
        """Index `vectors` Float32[N, D].

        recall: the promised recall against exact search, at 10 results and at as many more as a
        beam reaches it for (beyond, the search is exact); the lower end of the measured 95 %
        confidence interval keeps it.
        queries: Float32[Q, D] to measure it with, such as the query vectors of held-out
        histories; without them, vectors of the index drawn by `seed`.

        A graph is built on all threads at once and so differs a little from run to run.
        Raises ValueError naming a vector or query that is not finite, or a wrong shape.
        """
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors must be Float32[N, D] and not empty, not {vectors.shape}")
        _check_finite(vectors, "vector")
        vectors = np.ascontiguousarray(vectors, np.float32)
        n, d = vectors.shape
        if n < exact_below:
            return cls(_flat(vectors, progress), {"type": "exact", "n": n, "d": d})
        graph = _graph(vectors, progress)
        index = cls(graph, {"type": "hnsw", "n": n, "d": d})
        if queries is None:
            # An item that nobody touched may be a zero vector, which every item answers as well.
            rows = np.flatnonzero(vectors.any(axis=1))
            rows = np.random.default_rng(seed).permutation(rows)[:TUNING_QUERIES]
            measured_with, queries = "vectors of the index", vectors[np.sort(rows)]
        else:
            measured_with = "given queries"
            queries = index._checked(queries)
        return index._tuned(queries, recall, measured_with)

    @classmethod
    def load(cls, path: Path, description: Mapping[str, Any]) -> Index:
        """The index that `save` wrote, with the description that it had.

        The file is mapped, not read: replicas on a machine share it. Never overwrite it.
        Raises ValueError if the file is no index, or not the one described.
        """
        try:
            searcher = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a FAISS index: {error}") from None
        kind = {"exact": faiss.IndexFlatIP, "hnsw": faiss.IndexHNSWFlat}.get(description["type"])
        if kind is None or not isinstance(searcher, kind):
            raise ValueError(
                f"{path} holds a {type(searcher).__name__}, not a {description['type']!r} index"
            )
        if searcher.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"{path} does not search by inner product")
        if (searcher.ntotal, searcher.d) != (description["n"], description["d"]):
            raise ValueError(
                f"{path} holds {searcher.ntotal} vectors of dimension {searcher.d}, not "
                f"{description['n']} of dimension {description['d']}"
            )
        return cls(searcher, description)

    def save(self, path: Path) -> None:
        """Write the index to one file; keep `description` beside it."""
        with atomic_file(path) as file:
            faiss.write_index(self._searcher, faiss.PyCallbackIOWriter(file.write))

    def __len__(self) -> int:
        return int(self._vectors.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._vectors.d)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Float32[N, D], a view that must not outlive the index or be written to."""
        flat = faiss.rev_swig_ptr(self._vectors.get_xb(), len(self) * self.dimension)
        view: NDArray[np.float32] = flat.reshape(len(self), self.dimension)
        return view

    def search(
        self, queries: NDArray[np.float32], k: int, allow: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores Float32[B, k] and rows Int64[B, k], best first and by row where scores are equal.

        allow: Bool[N], the rows that may be returned. Where there are fewer than k of them, the
        rest is padded with NO_ROW and -inf; never for another reason. A query's answer does not
        depend on the others in the batch.
        Raises ValueError if a query is not finite or a shape is wrong.
        """
        queries = self._checked(queries)
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        allowed = len(self)
        if allow is not None:
            if allow.shape != (len(self),) or allow.dtype != np.bool_:
                raise ValueError(f"allow must be Bool[{len(self)}], not {allow.dtype}{allow.shape}")
            allowed = int(allow.sum())
        found = min(k, allowed)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), NO_ROW, np.int64)
        if found and len(queries):
            depth = self._depth(found, allowed)
            if depth is None:
                answer = self._search_all(queries, found, allow)
            else:
                answer = self._search_graph(queries, found, allow, depth)
            scores[:, :found], rows[:, :found] = answer
        return scores, rows

    def _depth(self, k: int, allowed: int) -> int | None:
        """How many results to take from the graph so that most queries find k allowed among them;
        None where scoring all the allowed is less work, or there is no graph."""
        share = allowed / len(self)
        need = k if share == 1 else (k + 2 * math.sqrt(k) + 2) / share  # about two deviations
        for depth, beam in self._beams.items():
            if depth >= need:
                return depth if beam * STEP < allowed else None
        return None

    def _search_all(
        self, queries: NDArray[np.float32], k: int, allow: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Exact, for k of at most the allowed items."""
        # With a selector, FAISS computes every inner product by itself; without one it multiplies
        # matrices for large batches, rounds otherwise and so may answer a batch otherwise than
        # its queries one by one. It takes as long either way.
        if allow is None:
            selector = faiss.IDSelectorAll()
        else:
            bits = np.packbits(allow, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        return _sorted(
            *self._vectors.search(queries, k, params=faiss.SearchParameters(sel=selector))
        )

    def _search_graph(
        self, queries: NDArray[np.float32], k: int, allow: NDArray[np.bool_] | None, depth: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """From the graph, for k of at most the allowed items; exact for the queries for which the
        graph's first `depth` results hold too few.

        The allowed are picked from those results afterwards. A selector inside the graph would
        return allowed items met on the way, near the query or not, where the allowed ones lie
        apart from it (a genre, seen from another).
        """
        scores, rows = self._walk(queries, k if allow is None else depth, self._beams[depth])
        good = rows != NO_ROW
        if allow is not None:
            good &= allow[rows]
            order = np.argsort(~good, axis=1, kind="stable")[:, :k]
            scores = np.take_along_axis(scores, order, axis=1)
            rows = np.take_along_axis(rows, order, axis=1)
        scores, rows = _sorted(scores, rows)
        short = good.sum(axis=1) < k
        if short.any():
            scores[short], rows[short] = self._search_all(queries[short], k, allow)
        return scores, rows

    def _tuned(self, queries: NDArray[np.float32], recall: float, measured_with: str) -> Index:
        """This graph with, for each depth, the smallest beam that reaches the recall and is less
        work than exact search; exact search where there is none for the first depth."""
        queries = queries[np.any(queries != 0, axis=1)]  # every item answers a zero query as well
        true_scores, _ = self._search_all(queries, DEPTHS[-1], None)
        beams: dict[str, int] = {}
        recalls: dict[str, float] = {}
        beam = FIRST_BEAM
        for depth in DEPTHS:
            # Scores, not rows: of items with equal vectors any may be returned.
            last = true_scores[:, depth - 1, None]
            least = last - 1e-5 * np.abs(last)
            beam = max(beam, depth)
            while len(queries) and beam * STEP < len(self):
                hits = np.mean(self._walk(queries, depth, beam)[0] >= least, axis=1)
                low = hits.mean() - 1.96 * hits.std() / math.sqrt(len(hits))
                if low >= recall:
                    beams[str(depth)], recalls[str(depth)] = beam, round(float(hits.mean()), 4)
                    break
                beam *= 2
            else:
                break
        shape = {"n": len(self), "d": self.dimension}
        measured_with = f"{len(queries)} {measured_with}"
        if not beams:
            why = (
                f"no graph with less work than exact search reached a recall@{DEPTHS[0]} of "
                f"{recall} with {measured_with}"
            )
            return Index(_flat(self.vectors, None), {"type": "exact"} | shape | {"why": why})
        measured = {"promised": recall, "recall": recalls, "measured_with": measured_with}
        return Index(
            self._searcher, {"type": "hnsw"} | shape | {"links": LINKS, "beams": beams} | measured
        )

    def _walk(
        self, queries: NDArray[np.float32], k: int, beam: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What the graph alone gives; NO_ROW where it meets fewer than k items."""
        assert self._graph is not None
        answer: tuple[NDArray[np.float32], NDArray[np.int64]] = self._graph.search(
            queries, k, params=faiss.SearchParametersHNSW(efSearch=beam)
        )
        return answer

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries must be Float32[B, {self.dimension}], not {queries.shape}")
        _check_finite(queries, "query")
        return np.ascontiguousarray(queries, np.float32)


def _check_finite(vectors: NDArray[np.float32], noun: str) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(f"{noun} {int(np.argmin(finite))} holds a value that is not finite")


def _sorted(
    scores: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _flat(vectors: NDArray[np.float32], progress: Progress | None) -> Any:
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    if progress is not None:
        progress(len(vectors), len(vectors))
    return flat


def _graph(vectors: NDArray[np.float32], progress: Progress | None) -> Any:
    n, d = vectors.shape
    graph = faiss.IndexHNSWFlat(d, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = CONSTRUCTION_BEAM
    for start in range(0, n, BLOCK):
        graph.add(vectors[start : start + BLOCK])
        if progress is not None:
            progress(min(start + BLOCK, n), n)
    return graph
