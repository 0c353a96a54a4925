"""The index of a space: for each query vector, the k items with the largest inner product.

Exact below `exact_below` items: one pass over all vectors, O(N·D) a query. Above, whichever of the
approximations (`approximation`) keeps the promised recall fastest on the data at hand. Their
settings are tuned (`tuning`) for 10 results and separately for more, because what is hard to reach
differs by data: short vectors in a graph of inner products, for one. Where none keeps it faster
than an exact pass, the pass is made; if that is so for 10 results already, the index is exact and
its description says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import faiss
import numpy as np
from numpy.typing import NDArray

from infra.storage import atomic_file
from recsys.retrieval.approximation import (
    APPROXIMATIONS,
    Approximation,
    Found,
    Progress,
    Setting,
    vectors_of,
)
from recsys.retrieval.tuning import DEPTHS, can_show, fastest, measure_truth

Kind = Literal["auto", "exact", "hnsw", "ivf_sq8", "ivf_pq"]

RECALL, EXACT_BELOW = 0.95, 100_000
"""What is promised, and below how many vectors there is nothing to tune, unless told otherwise."""


class Asked(TypedDict):
    """What `Index.build` was asked for, and is to be asked for when the vectors have changed."""

    recall: float
    exact_below: int
    kind: Kind


NO_ROW = -1
"""The row in a result where there are fewer than k items to return; its score is -inf."""

TUNING_QUERIES = 1000

ITSELF = "vectors of the index, which find themselves"
"""What the recall is measured with where no queries are given."""

GRAPH_MOST = 5_000_000
"""Above so many items a graph is built only where it is asked for: each million of vectors takes
a core three minutes, lists less than one."""

MOSTLY = 2 / 3
"""The share of the rows below which a list of them is gone through faster than a bitmap (measured:
22 ms to 26 for half of a million rows, 0.3 to 4 for a hundredth)."""

APPROXIMABLE = 1000
"""Fewer vectors than this are too few for a k-means and not worth a graph."""


class Index:
    """N vectors of dimension D, searched by inner product. Made by `build` or `load`.

    Searching changes nothing, so threads may share an index. FAISS runs the queries of a batch on
    OMP_NUM_THREADS threads: leave it at the cores of the process, which is 1 in a Ray replica.
    """

    def __init__(
        self, flat: Any, approximation: Approximation | None, description: Mapping[str, Any]
    ) -> None:
        """flat: a faiss.IndexFlatIP, which the approximation, if there is one, is over."""
        self._flat = flat
        self._approximation = approximation
        self.description: dict[str, Any] = dict(description)
        """`type`, `n`, `d`, and what was asked for: `promised`, `exact_below`, `kind`. Of an
        approximation what it was built with and, by number of results, its `settings`, the
        measured `recall`, the `rate` (queries a second on one thread; beside it the `exact_rate`)
        and the `work` (an exact pass over so many rows takes as long).
        `tried`: how many times as fast as exact each candidate was, in the geometric mean over
        the numbers of results. Of an exact index that was to be more, `why` it is not."""
        self._settings: dict[int, Setting] = {}
        if approximation is not None:
            for depth, told in description["settings"].items():
                self._settings[int(depth)] = approximation.setting_from_json(told)

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        *,
        queries: NDArray[np.float32] | None = None,
        recall: float = RECALL,
        exact_below: int = EXACT_BELOW,
        kind: Kind = "auto",
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Index:
        """Index `vectors` Float32[N, D].

        recall: the promised recall against exact search, at 10 results and at as many more as a
        setting reaches it for (beyond, the search is exact); the lower end of the measured 95 %
        confidence interval keeps it, for which 0.95 takes 60 queries at least and 0.99 takes 300.
        queries: Float32[Q, D] to measure it with, such as the query vectors of held-out
        histories; without them, vectors of the index drawn by `seed`. Those find themselves, and
        the promise is then not one to queries that lie between items, as histories' do.
        kind: `auto` is exact below `exact_below` vectors and the fastest above; any other is
        built at every size, but for fewer than 1,000 vectors.
        progress: told anew of each structure that is built as a candidate.

        A graph is built on all threads at once, and speeds are measured, so that two builds
        differ a little.
        Raises ValueError naming a vector or query that is not finite, or a wrong shape.
        """
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors must be Float32[N, D] and not empty, not {vectors.shape}")
        vectors = _finite(vectors, "vector")
        n, d = vectors.shape
        flat = faiss.IndexFlatIP(d)
        flat.add(vectors)
        asked = {"promised": recall, "exact_below": exact_below, "kind": kind}
        exact = cls(flat, None, {"type": "exact", "n": n, "d": d} | asked)
        if kind == "exact" or (kind == "auto" and n < exact_below):
            return exact
        if queries is None:
            rows = np.random.default_rng(seed).permutation(np.flatnonzero(vectors.any(axis=1)))
            queries, measured_with = vectors[np.sort(rows[:TUNING_QUERIES])], ITSELF
        else:
            measured_with = "given queries"
        # A zero query, such as of an item that nobody touched, is answered by any item as well.
        queries = exact._checked(queries)
        queries = queries[queries.any(axis=1)]
        if not len(queries):
            return exact._because(f"no recall can be measured: all {measured_with} are zero")
        if n < APPROXIMABLE:
            return exact._because(f"there are fewer than {APPROXIMABLE:,} vectors")
        measured_with = f"{len(queries)} {measured_with}"
        if not can_show(recall, len(queries)):
            return exact._because(f"a recall of {recall} cannot be shown with {measured_with}")
        truth = measure_truth(exact._search_all, queries, n, seed)
        names = [kind] if kind != "auto" else list(APPROXIMATIONS)
        if kind == "auto" and n > GRAPH_MOST:
            names.remove("hnsw")
        built = (
            each for name in names for each in APPROXIMATIONS[name].build(flat, seed, progress)
        )
        best, tried = fastest(built, truth, recall)
        if best is None:
            return exact._because(
                f"with less work than exact search, none of {', '.join(tried)} reached a "
                f"recall@{DEPTHS[0]} of {recall} with {measured_with}"
            )
        measured = {"measured_with": measured_with, "tried": tried}
        return cls(flat, best.approximation, exact.description | best.description(truth) | measured)

    def _because(self, why: str) -> Index:
        return Index(self._flat, None, self.description | {"why": why})

    @classmethod
    def load(cls, path: Path, description: Mapping[str, Any]) -> Index:
        """The index that `save` wrote, with the description that it had.

        The file is mapped, not read, so that replicas on a machine share it: the vectors and the
        codes of all but `ivf_pq`, which are a sixteenth of the vectors; not the links of a graph.
        Never overwrite it. Raises ValueError if the file is no index, or not the one described.
        """
        try:
            searcher = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a FAISS index: {error}") from None
        kind = APPROXIMATIONS.get(description["type"])
        approximation = None if kind is None else kind.over(searcher)
        flat = searcher if description["type"] == "exact" else None
        if approximation is not None:
            flat = approximation.flat
        if not isinstance(flat, faiss.IndexFlatIP):
            raise ValueError(
                f"{path} holds a {type(searcher).__name__}, not a {description['type']!r} index"
            )
        if (searcher.ntotal, searcher.d) != (description["n"], description["d"]):
            raise ValueError(
                f"{path} holds {searcher.ntotal} vectors of dimension {searcher.d}, not "
                f"{description['n']} of dimension {description['d']}"
            )
        return cls(flat, approximation, description)

    def save(self, path: Path) -> None:
        """Write the index to one file; keep `description` beside it."""
        whole = self._flat if self._approximation is None else self._approximation.refined
        with atomic_file(path) as file:
            faiss.write_index(whole, faiss.PyCallbackIOWriter(file.write))

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._flat.d)

    @property
    def asked(self) -> Asked:
        """What it was built as, for `build` to make its like of other vectors."""
        told = self.description  # by an older release, of the promise alone
        return {
            "recall": told.get("promised", RECALL),
            "exact_below": told.get("exact_below", EXACT_BELOW),
            "kind": told.get("kind", "auto"),
        }

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Float32[N, D], a view that must not outlive the index or be written to."""
        return vectors_of(self._flat)

    def search(
        self, queries: NDArray[np.float32], k: int, allow: NDArray[np.bool_] | None = None
    ) -> Found:
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
            allowed = int(np.count_nonzero(allow))
        found = min(k, allowed) if len(queries) else 0
        answer = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if found:
            answer = self._search(queries, found, allow, self._depths(found, allowed))
        if found == k:
            return answer
        missing = (0, 0), (0, k - found)
        return (
            np.pad(answer[0], missing, constant_values=-np.inf),
            np.pad(answer[1], missing, constant_values=NO_ROW),
        )

    def _depths(self, k: int, allowed: int) -> list[int]:
        """How many results to take from the approximation, in turn while there are fewer than k
        allowed among them; only as many as are less work than scoring all the allowed.

        With the first, most queries find enough if the allowed are like the others; where they lie
        apart from a query, the deeper ones are for it.
        """
        if allowed == len(self):
            return [depth for depth in self._settings if depth >= k]
        share = allowed / len(self)
        work = self.description.get("work", {})
        return [
            depth
            for depth in self._settings
            if _surely(depth, share) >= k - 0.5 and work[str(depth)] < allowed
        ]

    def _search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allow: NDArray[np.bool_] | None,
        depths: Sequence[int],
    ) -> Found:
        """For k of at most the allowed items: from the first of the depths, and for the queries for
        which there are too few in it, from the next; at last exact."""
        if not depths:
            return self._search_all(queries, k, allow)
        scores, rows = self._search_near(queries, k, allow, depths[0])
        if rows.min() == NO_ROW:
            short = (rows == NO_ROW).any(axis=1)
            scores[short], rows[short] = self._search(queries[short], k, allow, depths[1:])
        return scores, rows

    def _search_near(
        self, queries: NDArray[np.float32], k: int, allow: NDArray[np.bool_] | None, depth: int
    ) -> Found:
        """The first k allowed of the approximation's `depth` results; NO_ROW where there are fewer.

        They are picked from those results afterwards. A selector inside would return allowed items
        that are met on the way, near the query or not, where the allowed ones lie apart from it (a
        genre, seen from another).
        """
        assert self._approximation is not None
        scores, rows = self._approximation.find(queries, depth, self._settings[depth])
        if allow is not None:
            denied = (rows == NO_ROW) | ~allow[rows]
            rows[denied], scores[denied] = NO_ROW, -np.inf
        scores, rows = _sorted(scores, rows)
        return scores[:, :k], rows[:, :k]

    def _search_all(
        self, queries: NDArray[np.float32], k: int, allow: NDArray[np.bool_] | None
    ) -> Found:
        """Exact, for k of at most the allowed items."""
        # With a selector, FAISS computes every inner product by itself; without one it multiplies
        # matrices for large batches, rounds otherwise and so may answer a batch otherwise than
        # its queries one by one.
        if allow is None:
            selector = faiss.IDSelectorAll()
        elif np.count_nonzero(allow) < MOSTLY * len(allow):
            selector = faiss.IDSelectorArray(np.flatnonzero(allow))
        else:
            selector = faiss.IDSelectorBitmap(np.packbits(allow, bitorder="little"))
        return _sorted(*self._flat.search(queries, k, params=faiss.SearchParameters(sel=selector)))

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries must be Float32[B, {self.dimension}], not {queries.shape}")
        return _finite(queries, "query")


def _surely(depth: int, share: float) -> float:
    """How many of so many results are allowed at least, if a share of all is, drawn at random: two
    deviations below the mean. Where a few rows are not allowed, that is hardly below `depth`."""
    return depth * share - 2 * math.sqrt(depth * share * (1 - share))


def _finite(vectors: NDArray[np.float32], noun: str) -> NDArray[np.float32]:
    """Them as FAISS takes them; finite as such, though they may come as doubles."""
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, np.float32)
    finite = np.isfinite(vectors)
    if not finite.all():
        first = int(np.argmin(finite.all(axis=1)))
        raise ValueError(f"{noun} {first} holds a value that is not finite in single precision")
    return vectors


def _sorted(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Found:
    if (scores[:, 1:] < scores[:, :-1]).all():  # as most are: sorting takes as long as a search
        return scores, rows
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
