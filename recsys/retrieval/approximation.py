"""Approximations of an exact pass: each finds the likely best rows of a query for less work.

hnsw     a hierarchical navigable small world graph (Malkov and Yashunin, arXiv 1603.09320) on the
         inner product itself, walked with a beam of `efSearch`. Item vectors of recommenders differ
         much in length; turning inner products into distances by one more coordinate (Bachrach et
         al., 2014) was measured here and found far worse on such vectors (recall@10 of 0.1 against
         0.97 at the same beam), because all vectors but the longest end up far from every query.
         About O(efSearch · M · D) a query, 2·D + 8·M bytes an item; slow to build.
ivf_sq8  lists around the centres of a k-means, of which the `nprobe` best are gone through:
         O((nlist + nprobe · N / nlist) · D) a query, D + 8 bytes an item; fast to build.
ivf_pq   the same with 2 bits a dimension (product quantization of what is left of a vector beyond
         its list's centre, four bits for two dimensions), gone through some four times as fast
         (André et al., arXiv 1704.07355) and much less precisely: D / 4 + 8 bytes an item.

All hold codes for the vectors, and score what they find again by the vectors themselves: k results
are the best of `k_factor` · k by codes. No setting keeps a promise on all data; see `tuning`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

LINKS = 32
"""M, the links of an item in the graph; 2M on the ground layer."""

CONSTRUCTION_BEAM = 100
"""How many candidates are looked at for the links of a new item."""

SAMPLE, LEAST = 64, 39
"""Vectors that the k-means sees for each centre, and the least that FAISS holds to be enough."""

CODES = 16
"""Of each part of a product quantizer, which a k-means finds too."""

SWEEPS = 10
"""Of the k-means."""

BLOCK = 10_000
"""Items that are added between two calls of `progress`."""

ONE_BY_ONE = 11
"""FAISS' way through the lists by which a query is answered in a batch as it is alone."""

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores Float32[B, k] and rows Int64[B, k]."""

Progress = Callable[[int, int], None]
"""Called with how many items are indexed and how many there are."""


@dataclass(frozen=True)
class Setting:
    """How hard to look."""

    effort: int
    """`efSearch` of a graph, `nprobe` of lists."""

    factor: float
    """`k_factor`: how many are scored by their vectors, for each that is returned."""


class Approximation(ABC):
    """Codes to search by, beside the vectors to score again by. Threads may share it."""

    kind: ClassVar[str]
    effort: ClassVar[str]
    """FAISS' name of a setting's effort."""

    efforts: ClassVar[tuple[int, ...]]
    """Worth trying, in order."""

    codes: ClassVar[type]
    """FAISS' class of what holds the codes."""

    def __init__(self, refined: Any) -> None:
        """refined: a faiss.IndexRefine of `codes` and an IndexFlatIP."""
        self.refined = refined
        self.flat = faiss.downcast_index(refined.refine_index)
        self._codes = faiss.downcast_index(refined.base_index)
        self._params: dict[Setting, Any] = {}

    @classmethod
    def over(cls, index: Any) -> Approximation | None:
        """Around what was read from a file; None if it is nothing of this kind."""
        if not isinstance(index, faiss.IndexRefine):
            return None
        if not isinstance(faiss.downcast_index(index.base_index), cls.codes):
            return None
        return cls(index)

    @classmethod
    @abstractmethod
    def build(cls, flat: Any, seed: int, progress: Progress | None) -> Iterator[Approximation]:
        """Over the vectors of an IndexFlatIP: all that are worth trying."""

    def find(self, queries: NDArray[np.float32], k: int, setting: Setting) -> Found:
        """The likely best; NO_ROW where fewer than k are met. For k of at most N."""
        params = self._params.get(setting)
        if params is None:  # making it takes as long as a search
            params = self._params[setting] = faiss.IndexRefineSearchParameters(
                k_factor=setting.factor, base_index_params=self._parameters(setting.effort)
            )
        found: Found = self.refined.search(queries, k, params=params)
        return found

    def least_effort(self, k: int) -> int:
        """What makes sense for k results."""
        return 1

    @property
    @abstractmethod
    def name(self) -> str:
        """What tells it from the other candidates."""

    @property
    @abstractmethod
    def shape(self) -> dict[str, int]:
        """What it was built with."""

    def setting_to_json(self, setting: Setting) -> dict[str, float]:
        return {self.effort: setting.effort, "k_factor": setting.factor}

    def setting_from_json(self, told: Mapping[str, Any]) -> Setting:
        return Setting(int(told[self.effort]), float(told["k_factor"]))

    @abstractmethod
    def _parameters(self, effort: int) -> Any: ...


class Graph(Approximation):
    """`hnsw`."""

    kind, effort, codes = "hnsw", "efSearch", faiss.IndexHNSWSQ
    efforts = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)

    @classmethod
    def build(cls, flat: Any, seed: int, progress: Progress | None) -> Iterator[Approximation]:
        # Walking a graph waits for memory: codes of half the size make it a quarter faster at the
        # same recall (measured), and BF16 holds vectors of any length, unlike integers.
        graph = faiss.IndexHNSWSQ(
            flat.d, faiss.ScalarQuantizer.QT_bf16, LINKS, faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = CONSTRUCTION_BEAM
        _fill(graph, flat, progress)
        yield cls(faiss.IndexRefine(graph, flat))

    @property
    def name(self) -> str:
        return self.kind

    @property
    def shape(self) -> dict[str, int]:
        return {"links": self._codes.hnsw.nb_neighbors(1)}

    def least_effort(self, k: int) -> int:
        return k  # a beam is as wide as what it is to return

    def _parameters(self, effort: int) -> Any:
        return faiss.SearchParametersHNSW(efSearch=effort)


class _Lists(Approximation):
    effort = "nprobe"
    efforts = tuple(sorted({2**i for i in range(17)} | {3 * 2**i for i in range(16)}))

    @classmethod
    def build(cls, flat: Any, seed: int, progress: Progress | None) -> Iterator[Approximation]:
        vectors = vectors_of(flat)
        for nlist in _list_numbers(flat.ntotal):
            centres = faiss.IndexFlatIP(flat.d)
            lists = cls._empty(centres, flat.d, nlist)
            lists.cp.niter, lists.cp.seed = SWEEPS, seed
            lists.cp.max_points_per_centroid = SAMPLE
            rows = np.random.default_rng(seed).permutation(flat.ntotal)[
                : SAMPLE * max(nlist, CODES)
            ]
            lists.train(vectors[np.sort(rows)])
            _fill(lists, flat, progress)
            yield cls(faiss.IndexRefine(lists, flat))

    @classmethod
    @abstractmethod
    def _empty(cls, centres: Any, d: int, nlist: int) -> Any: ...

    @property
    def name(self) -> str:
        return f"{self.kind} of {self._codes.nlist} lists"

    @property
    def shape(self) -> dict[str, int]:
        return {"nlist": self._codes.nlist}

    def _parameters(self, effort: int) -> Any:
        # With a selector, the centres are scored one by one. Without, FAISS multiplies matrices
        # for large batches, which round otherwise, and may pick other lists than for one query.
        one_by_one = faiss.SearchParameters(sel=faiss.IDSelectorAll())
        return faiss.SearchParametersIVF(nprobe=effort, quantizer_params=one_by_one)


class ByteLists(_Lists):
    """`ivf_sq8`."""

    kind, codes = "ivf_sq8", faiss.IndexIVFScalarQuantizer

    @classmethod
    def _empty(cls, centres: Any, d: int, nlist: int) -> Any:
        kind = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexIVFScalarQuantizer(centres, d, nlist, kind, faiss.METRIC_INNER_PRODUCT)


class ProductLists(_Lists):
    """`ivf_pq`."""

    kind, codes = "ivf_pq", faiss.IndexIVFPQFastScan

    def __init__(self, refined: Any) -> None:
        super().__init__(refined)
        self._codes.implem = ONE_BY_ONE  # no file keeps it

    @classmethod
    def _empty(cls, centres: Any, d: int, nlist: int) -> Any:
        parts = next(m for m in range(max(1, d // 2), 0, -1) if d % m == 0)
        lists = faiss.IndexIVFPQFastScan(centres, d, nlist, parts, 4, faiss.METRIC_INNER_PRODUCT)
        lists.by_residual = True
        return lists


APPROXIMATIONS: dict[str, type[Approximation]] = {
    each.kind: each for each in (ByteLists, ProductLists, Graph)
}


def vectors_of(flat: Any) -> NDArray[np.float32]:
    """Float32[N, D], a view of an IndexFlatIP that must not outlive it or be written to."""
    whole = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    view: NDArray[np.float32] = whole.reshape(flat.ntotal, flat.d)
    return view


def _list_numbers(n: int) -> tuple[int, ...]:
    """About √n and 4·√n, so far as there are vectors enough for that many centres."""
    root = 1 << round(math.log2(n) / 2)
    return tuple(count for count in (root, 4 * root) if LEAST * count <= n) or (root // 2,)


def _fill(index: Any, flat: Any, progress: Progress | None) -> None:
    vectors, n = vectors_of(flat), flat.ntotal
    for start in range(0, n, BLOCK):
        index.add(vectors[start : start + BLOCK])
        if progress is not None:
            progress(min(start + BLOCK, n), n)
