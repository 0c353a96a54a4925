"""What `index.py` runs in the virtual environments of hnswlib and usearch: build, or search.

    python graph_peers.py build LIBRARY VECTORS.npy INDEX LINKS BEAM THREADS
    python graph_peers.py search LIBRARY QUERIES.npy TRUE_ROWS.npy INDEX FOUND.json BEAMS…

`build` writes INDEX. `search` writes for each beam the recall and the queries a second of processor
time, one query at a time and in a batch, on one thread. It imports nothing of this project, which
is not installed where it runs.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Peer(Protocol):
    """A graph of M = `links`, built with efConstruction = `beam`, searched by inner product."""

    def build(self, vectors: Vectors, links: int, beam: int, threads: int) -> None: ...

    def save(self, path: str) -> None: ...

    def load(self, path: str) -> None: ...

    def set_beam(self, beam: int) -> None: ...

    def search(self, queries: Vectors, k: int) -> NDArray[Any]:
        """Rows [B, k], on one thread."""


class Hnswlib:
    def __init__(self, dim: int) -> None:
        hnswlib = import_module("hnswlib")

        self.index = hnswlib.Index("ip", dim)

    def build(self, vectors: Vectors, links: int, beam: int, threads: int) -> None:
        self.index.init_index(len(vectors), M=links, ef_construction=beam, random_seed=0)
        self.index.add_items(vectors, num_threads=threads)

    def save(self, path: str) -> None:
        self.index.save_index(path)

    def load(self, path: str) -> None:
        self.index.load_index(path)

    def set_beam(self, beam: int) -> None:
        self.index.set_ef(beam)

    def search(self, queries: Vectors, k: int) -> NDArray[Any]:
        rows: NDArray[Any] = self.index.knn_query(queries, k, num_threads=1)[0]
        return rows


class Usearch:
    def __init__(self, dim: int) -> None:
        self.dim, self.kind = dim, import_module("usearch.index").Index

    def build(self, vectors: Vectors, links: int, beam: int, threads: int) -> None:
        settings = {"metric": "ip", "dtype": "f32", "connectivity": links, "expansion_add": beam}
        self.index = self.kind(ndim=self.dim, **settings)
        self.index.add(np.arange(len(vectors)), vectors, threads=threads)

    def save(self, path: str) -> None:
        self.index.save(path)

    def load(self, path: str) -> None:
        self.index = self.kind.restore(path)

    def set_beam(self, beam: int) -> None:
        self.index.expansion_search = beam

    def search(self, queries: Vectors, k: int) -> NDArray[Any]:
        rows: NDArray[Any] = self.index.search(queries, k, threads=1).keys
        return rows.reshape(len(queries), k)


LIBRARIES: dict[str, Callable[[int], Peer]] = {"hnswlib": Hnswlib, "usearch": Usearch}


def rate(call: Callable[[], object], n: int) -> float:
    started = time.process_time()
    call()
    return n / (time.process_time() - started)


def one_by_one(peer: Peer, queries: list[Vectors], k: int) -> None:
    for query in queries:
        peer.search(query, k)


def main() -> None:
    task, library, *rest = sys.argv[1:]
    if task == "build":
        vectors_path, path, *settings = rest
        vectors = np.load(vectors_path)
        peer = LIBRARIES[library](vectors.shape[1])
        peer.build(vectors, *map(int, settings))
        peer.save(path)
        return
    queries_path, true_path, path, found_path, *beams = rest
    queries, true = np.load(queries_path), np.load(true_path)
    k = true.shape[1]
    peer = LIBRARIES[library](queries.shape[1])
    peer.load(path)
    singles = [queries[i : i + 1] for i in range(len(queries))]
    found = []
    for beam in map(int, beams):
        peer.set_beam(beam)
        rows = peer.search(queries, k)
        hits = [len(np.intersect1d(ours, best)) for ours, best in zip(rows, true, strict=True)]
        found.append(
            {
                "recall": float(np.mean(hits)) / k,
                "batch": rate(partial(peer.search, queries, k), len(queries)),
                "one": rate(partial(one_by_one, peer, singles, k), len(queries)),
            }
        )
    with open(found_path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(found, file)


if __name__ == "__main__":
    main()
