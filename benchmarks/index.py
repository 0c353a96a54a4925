"""How fast the index types are at the promised recall, beside exact search, hnswlib and usearch.

    recsys bench index [--rows 1000000] [--clusters 1000] [--spread 0.5] [--lengths 0]

Made-up vectors: cluster centres are drawn from a normal distribution in 64 dimensions, an item is a
centre drawn at random plus `spread` times a normal vector, scaled to length 1, and to a log-normal
length with deviation `lengths` if that is given. Queries are drawn in the same way and are no
items; a half tunes our settings, the other half is measured. Recall@10 is against exact search.

Everything is measured on one thread, in processor time, since the machine may be shared: the
contenders in turn, three times over, of which the best counts. Peers are built with M = 32 and
efConstruction = 100, as our graph is, and searched at many beams; ours are compared with their
rate at our recall, between the two beams around it on a line through the logarithms. Exact search
in a batch is the faster of FAISS' two ways, of which one multiplies matrices.

Beside the name of each of ours stands its speed-up in the geometric mean over the numbers of
results, by which `auto` chooses; what it chooses is told by an index that is built so. Filters
allow items at random, or all items of clusters at random, so that the allowed lie apart from most
queries. Ours are built in every run; the peers' graphs are kept under the state folder, by the
vectors, the version of the library and how they are built.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environments import environment
from infra.settings import Settings
from recsys.retrieval.approximation import CONSTRUCTION_BEAM, LINKS
from recsys.retrieval.index import Index, Kind

DIM, K, QUERIES = 64, 10, 1000
ROUNDS = 3
EXACT_QUERIES = 100
PEERS = {"hnswlib": "0.8.0", "usearch": "2.26.6"}
BEAMS = (10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192)
SHARES = (0.01, 0.1, 0.5)
KINDS: tuple[Kind, ...] = ("hnsw", "ivf_sq8", "ivf_pq")

Vectors = NDArray[np.float32]


class Data:
    """Items, queries to tune with, queries to measure with, and the cluster of each item."""

    def __init__(self, rows: int, clusters: int, spread: float, lengths: float) -> None:
        random = np.random.default_rng(0)
        centres = random.standard_normal((clusters, DIM)).astype(np.float32)

        def draw(n: int) -> tuple[Vectors, NDArray[np.int64]]:
            of = random.integers(0, clusters, n)
            noise = random.standard_normal((n, DIM)).astype(np.float32)
            vectors = centres[of] + np.float32(spread) * noise
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            if lengths:
                vectors *= random.lognormal(0, lengths, (n, 1)).astype(np.float32)
            return vectors, of

        self.items, self.clusters = draw(rows)
        queries, _ = draw(2 * QUERIES)
        self.tuning, self.queries = queries[:QUERIES], queries[QUERIES:]


def rate(call: Callable[[], object], n: int) -> float:
    """Queries a second of processor time."""
    started = time.process_time()
    call()
    return n / (time.process_time() - started)


def rates(search: Callable[[Vectors], object], queries: Vectors) -> dict[str, float]:
    """One query at a time, and in a batch."""
    singles = [queries[i : i + 1] for i in range(len(queries))]
    return {
        "one": rate(lambda: [search(single) for single in singles], len(queries)),
        "batch": rate(lambda: search(queries), len(queries)),
    }


def better(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {key: max(value, second.get(key, value)) for key, value in first.items()}


def exact_rates(data: Data) -> dict[str, float]:
    flat = faiss.IndexFlatIP(DIM)
    flat.add(data.items)
    default = faiss.cvar.distance_compute_blas_threshold
    found: dict[str, float] = {}
    for threshold in (default, 1):  # of queries · D, above which matrices are multiplied
        faiss.cvar.distance_compute_blas_threshold = threshold
        batch = rate(lambda: flat.search(data.queries, K), QUERIES)
        found = better({"batch": batch}, found)
    faiss.cvar.distance_compute_blas_threshold = default
    few = data.queries[:EXACT_QUERIES]
    singles = [few[i : i + 1] for i in range(len(few))]
    return found | {"one": rate(lambda: [flat.search(one, K) for one in singles], len(few))}


def built(folder: Path, kind: Kind, data: Data, recall: float) -> Index:
    """Ours of that kind, mapped from a file in the folder, as it is served."""
    started = time.process_time()
    index = Index.build(data.items, queries=data.tuning, recall=recall, kind=kind)
    took = {"core_seconds": round(time.process_time() - started)}
    path = folder / f"{kind}.faiss"
    index.save(path)
    return Index.load(path, index.description | took)


class PeerGraph:
    """A peer's graph, in an environment of its own."""

    def __init__(self, folder: Path, state: Path, library: str) -> None:
        self._folder, self._library = folder, library
        name = f"{library}-{PEERS[library]}"
        self._path = folder / f"{name}-{LINKS}-{CONSTRUCTION_BEAM}.graph"
        self._python = environment(state, name, f"{library}=={PEERS[library]}", "numpy")

    def build(self, threads: int) -> None:
        if not self._path.exists():
            draft = self._path.with_suffix(".draft")
            given = (self._folder / "items.npy", draft, LINKS, CONSTRUCTION_BEAM, threads)
            self._run("build", *given)
            draft.rename(self._path)

    def search(self) -> list[dict[str, float]]:
        """By beam: recall, one, batch."""
        found = self._folder / f"{self._library}.json"
        given = (self._folder / "queries.npy", self._folder / "true.npy", self._path, found)
        self._run("search", *given, *BEAMS)
        told: list[dict[str, float]] = json.loads(found.read_text(encoding="utf-8"))
        return told

    def _run(self, task: str, *arguments: object) -> None:
        script = Path(__file__).with_name("graph_peers.py")
        command = [self._python, script, task, self._library, *arguments]
        subprocess.run([str(part) for part in command], check=True)


def at_recall(sweep: Sequence[dict[str, float]], recall: float, way: str) -> float:
    """The rate of a sweep at a recall; NaN where it does not reach around it."""
    recalls = [point["recall"] for point in sweep]
    logs = np.log([point[way] for point in sweep])
    return float(np.exp(np.interp(recall, recalls, logs, left=np.nan, right=np.nan)))


@dataclass(frozen=True, eq=False)
class Filter:
    """What a filter allows, and what is found through it."""

    name: str
    allow: NDArray[np.bool_]
    scores: Vectors
    """Float32[QUERIES, K], of an exact search."""

    rate: float
    """Of exact searches, one query at a time."""


def filters(exact: Index, data: Data) -> list[Filter]:
    random = np.random.default_rng(1)
    masks = {f"{share:.0%} of the items": random.random(len(exact)) < share for share in SHARES}
    n_clusters = int(data.clusters.max()) + 1
    for share in SHARES:
        masks[f"{share:.0%} of the clusters"] = data.clusters < share * n_clusters
    found = []
    for name, allow in masks.items():
        scores, _ = exact.search(data.queries, K, allow)
        one = rates(partial(exact.search, k=K, allow=allow), data.queries[:20])["one"]
        found.append(Filter(name, allow, scores, one))
    return found


def filtered(index: Index, through: Filter, data: Data) -> tuple[float, float]:
    """Recall over all queries, and the rate, one query at a time."""
    ours = rates(partial(index.search, k=K, allow=through.allow), data.queries[:EXACT_QUERIES])
    return recall(index, data.queries, through.scores, through.allow), ours["one"]


def recall(
    index: Index, queries: Vectors, scores: Vectors, allow: NDArray[np.bool_] | None = None
) -> float:
    """scores: Float32[Q, K], those of the true best."""
    least = scores[:, -1:] - 1e-5 * np.abs(scores[:, -1:])
    return float(np.mean(index.search(queries, K, allow)[0] >= least))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench index", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--lengths", type=float, default=0.0)
    parser.add_argument("--recall", type=float, default=0.95, help="to promise")
    options = parser.parse_args(argv)
    state, threads = Settings().state_dir, os.cpu_count() or 1
    told = (options.rows, options.clusters, options.spread, options.lengths)
    console = Console(highlight=False, width=110)
    data = Data(*told)
    folder = state / "bench-index" / hashlib.sha256(data.items.data).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    exact = Index.build(data.items, kind="exact")
    true_scores, true_rows = exact.search(data.queries, K)
    np.save(folder / "items.npy", data.items)
    np.save(folder / "queries.npy", data.queries)
    np.save(folder / "true.npy", true_rows)
    faiss.omp_set_num_threads(threads)
    ours: dict[Kind, Index] = {}
    for kind in KINDS:
        with console.status(f"building {kind}"):
            ours[kind] = built(folder, kind, data, options.recall)
    with console.status("building what auto chooses"):
        chosen = built(folder, "auto", data, options.recall)
    peers = {library: PeerGraph(folder, state, library) for library in PEERS}
    for library, peer in peers.items():
        with console.status(f"building {library}"):
            peer.build(threads)
    faiss.omp_set_num_threads(1)
    exact_best: dict[str, float] = {}
    best: dict[Kind, dict[str, float]] = {kind: {} for kind in ours}
    sweeps: dict[str, list[dict[str, float]]] = {}
    for number in range(ROUNDS):
        with console.status(f"measuring, round {number + 1} of {ROUNDS}"):
            exact_best = better(exact_rates(data), exact_best)
            for kind, index in ours.items():
                best[kind] = better(rates(partial(index.search, k=K), data.queries), best[kind])
            for library, peer in peers.items():
                sweep = peer.search()
                before = sweeps.get(library, sweep)
                sweeps[library] = [better(a, b) for a, b in zip(sweep, before, strict=True)]
    recalls = {kind: recall(index, data.queries, true_scores) for kind, index in ours.items()}
    for way, title in (("one", "one query at a time"), ("batch", f"a batch of {QUERIES}")):
        table = _table(title, "", "recall", "queries/s", "to exact", *(f"to {p}" for p in sweeps))
        table.add_row("exact", "1", f"{exact_best[way]:,.0f}", "1")
        for kind, index in ours.items():
            beside = [at_recall(sweep, recalls[kind], way) for sweep in sweeps.values()]
            table.add_row(
                f"{kind} {_speed_up(index)}",
                f"{recalls[kind]:.4f}",
                f"{best[kind][way]:,.0f}",
                f"{best[kind][way] / exact_best[way]:.0f}",
                *(f"{best[kind][way] / theirs:.2f}" for theirs in beside),
            )
        console.print(table)
    table = _table("the peers", "", "efSearch", "recall", "one at a time /s", "in a batch /s")
    for library, sweep in sweeps.items():
        for beam, point in zip(BEAMS, sweep, strict=True):
            shown = f"{point['recall']:.4f}", f"{point['one']:,.0f}", f"{point['batch']:,.0f}"
            table.add_row(library, str(beam), *shown)
    console.print(table)
    table = _table("filtered, one at a time", "", "allowed", "recall", "queries/s", "exact/s")
    with console.status("searching through filters"):
        through = filters(exact, data)
    for kind, index in ours.items():
        for each in through:
            kept, mine = filtered(index, each, data)
            table.add_row(kind, each.name, f"{kept:.4f}", f"{mine:,.0f}", f"{each.rate:,.0f}")
    console.print(table)
    for kind, index in ours.items():
        console.print(f"{kind:9} {index.description}", soft_wrap=True)
    choice = f"chooses {chosen.description['type']}: {chosen.description}"
    console.print(f"{'auto':9} {choice}", soft_wrap=True)
    console.print(f"command   recsys bench index {' '.join(sys.argv[1:])}", soft_wrap=True)
    versions = [f"{name} {version(name)}" for name in ("faiss-cpu", "numpy")]
    versions += [f"{name} {number}" for name, number in PEERS.items()]
    blas = os.environ.get("OPENBLAS_CORETYPE", "chosen by OpenBLAS")
    versions.append(f"BLAS kernel {blas}")
    console.print(f"machine   {threads} cores, {platform.machine()}, {', '.join(versions)}")


def _speed_up(index: Index) -> str:
    """By which `auto` chooses."""
    tried = index.description.get("tried")
    return f"({max(tried.values()):.0f})" if tried else "(exact)"


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    main()
