"""How well search by words finds a film that is asked for in other words than its title.

    recsys data import $RECSYS_SHARED_DATA/ml-latest-small ./films
    recsys bench search ./films

Known-item retrieval over the whole catalogue: 242 paraphrases, each of one film; the reciprocal of
the place at which that film stands, 0 past the tenth (MRR@10), and how often it is among the first
ten (R@10). The weights of the fusions are chosen on one half of the films, and the other half is
measured once. Intervals are 95 % bootstraps over the films.
The cross-encoder is trained on the catalogue's own texts, unless one is named; none of the
paraphrases is seen by it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.paraphrases import Paraphrases
from encoders.cross_encoder import CrossEncoder
from encoders.item_text import item_texts
from encoders.text import TextEncoder
from encoders.text_input import DEFAULT_TEXT_MODEL
from encoders.train_cross_encoder import CrossEncoderTraining, train_cross_encoder
from infra.settings import Settings
from recsys.data.dataset import Dataset
from recsys.retrieval.fusion import fuse

K = 10
DEPTH = 1000
"""How far down a ranking is looked at, before it is fused with others."""
WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""What a ranking beside the text's, whose weight is 1, may weigh in a fusion."""
RESAMPLES = 10_000

Rankings = NDArray[np.int64]
"""Int64[Q, n], rows of items, best first."""


def ranked(scores: NDArray[np.float32]) -> Rankings:
    """The best of Float32[Q, N]; of equal ones the first row first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]


def reciprocal(rankings: Rankings, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Float64[Q], one over the place of the wanted item, 0 past the K-th."""
    hits = rankings[:, :K] == wanted[:, None]
    return np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)


def formats(catalogue: pa.Table) -> dict[str, list[str]]:
    """What of an item might be encoded, the way that the service does it first."""
    untold = pa.nulls(len(catalogue), pa.string())
    untagged = pa.nulls(len(catalogue), catalogue["tags"].type)
    bare = catalogue.set_column(catalogue.column_names.index("text"), "text", untold)
    title = bare.set_column(bare.column_names.index("tags"), "tags", untagged)
    return {
        "title and tags": item_texts(catalogue).to_pylist(),
        "title alone": item_texts(title).to_pylist(),
    }


def chosen_fusion(
    rankings: Mapping[str, Rankings], asked: Paraphrases
) -> tuple[Rankings, dict[str, float]]:
    """The fusion with the weights that are best on the validation half; the first one has 1."""
    tried = []
    for others in itertools.product(WEIGHTS, repeat=len(rankings) - 1):
        weights = (1.0, *others)
        _, rows = fuse(list(rankings.values()), weights, k=K)
        found = reciprocal(rows, asked.items)[asked.validation].mean()
        tried.append((float(found), rows, dict(zip(rankings, weights, strict=True))))
    _, rows, chosen = max(tried, key=lambda each: each[0])
    return rows, chosen


def re_ranked(
    text: Rankings, model: CrossEncoder, queries: Sequence[str], texts: Sequence[str], n: int
) -> Rankings:
    """The first n of each ranking in the order that the cross-encoder has them in."""
    put = np.empty((len(queries), n), np.int64)
    for query, (asked, rows) in enumerate(zip(queries, text[:, :n], strict=True)):
        scores = model.scores(asked, [texts[row] for row in rows])
        put[query] = rows[np.argsort(-scores, kind="stable")]
    return put


def interval(values: NDArray[np.float64], films: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean; all queries of a film are drawn together."""
    _, film = np.unique(films, return_inverse=True)
    sums, counts = np.bincount(film, values), np.bincount(film)
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="recsys bench search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, help="MovieLens' ml-latest-small, imported")
    parser.add_argument("--text-model", default=DEFAULT_TEXT_MODEL, help="a name or a folder")
    parser.add_argument("--cross-encoder", help="a name or a folder, instead of one made here")
    parser.add_argument("--candidates", type=int, default=50, help="how many are re-ranked")
    arguments = parser.parse_args(argv)
    console = Console(highlight=False, width=110)
    started = time.perf_counter()
    dataset = Dataset.load(arguments.dataset)
    asked = Paraphrases.of(dataset)
    encoder = TextEncoder.open(arguments.text_model)
    queries = encoder.encode(asked.queries).vectors
    console.print("validation MRR@10 and R@10 by what of an item is encoded")
    read = formats(dataset.catalogue)
    found = {
        name: ranked(queries @ encoder.encode(texts).vectors.T) for name, texts in read.items()
    }
    for name, rankings in found.items():
        gains = reciprocal(rankings, asked.items)[asked.validation]
        console.print(f"  {gains.mean():.3f}  {(gains > 0).mean():.3f}  {name}")
    texts, text = next(iter(read.values())), next(iter(found.values()))
    where = arguments.cross_encoder or _trained(dataset, texts, encoder, console)
    cross = re_ranked(
        text, CrossEncoder.open(str(where)), asked.queries, texts, arguments.candidates
    )
    counts = np.bincount(dataset.histories.items, minlength=len(texts)).astype(np.float32)
    popular = np.repeat(ranked(counts[None]), len(text), axis=0)
    fusions: dict[str, dict[str, Rankings]] = {
        "text and cross-encoder": {"text": text, "cross-encoder": cross},
        "text and popularity": {"text": text, "popularity": popular},
        "all three": {
            "text": text,
            "popularity": popular,
            "cross-encoder": cross,
        },
    }
    rows: dict[str, Rankings] = {
        "popularity": popular,
        "text": text,
        "text, re-ranked": cross,
    }
    for name, members in fusions.items():
        rows[name], weights = chosen_fusion(members, asked)
        gained = reciprocal(rows[name], asked.items)[asked.validation].mean()
        said = ", ".join(f"{member} {weight:g}" for member, weight in weights.items())
        console.print(f"chosen by validation MRR@10 {gained:.3f}: {said}", soft_wrap=True)
    console.print(_table(rows, asked))
    surroundings = {
        "command": f"recsys bench search {' '.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} used",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "sentence-transformers")),
        "models": f"{encoder.name}, {where}",
        "seconds": f"{time.perf_counter() - started:.0f}",
    }
    for name, value in surroundings.items():
        console.print(f"{name:<10} {value}", soft_wrap=True)


def _trained(
    dataset: Dataset, texts: Sequence[str], encoder: TextEncoder, console: Console
) -> Path:
    """The cross-encoder of these texts, trained at the first call."""
    name = f"cross-encoder-{dataset.fingerprint[:8]}-{encoder.fingerprint[:8]}"
    folder = Settings().state_dir / "benchmarks" / name
    if not folder.exists():
        config = CrossEncoderTraining()
        losses: list[float] = []

        def tell(step: int, loss: float) -> None:
            losses.append(loss)
            if step % 50 == 0:
                mean = np.mean(losses[-50:])
                console.print(f"cross-encoder, step {step} of {config.steps}: loss {mean:.2f}")

        train_cross_encoder(folder, texts, encoder, config, tell=tell)
    return folder


def _table(rows: Mapping[str, Rankings], asked: Paraphrases) -> Table:
    test = ~asked.validation
    kinds = sorted(set(asked.kinds.tolist()))
    films = len(np.unique(asked.items[test]))
    caption = f"{test.sum()} queries of {films} films, the test half; right: MRR@10 by kind"
    shown = Table(caption=caption, box=box.SIMPLE)
    for heading in ("", "MRR@10", "95 %", "R@10", "95 %", *kinds):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, rankings in rows.items():
        gains = reciprocal(rankings, asked.items)
        cells = []
        for values in (gains, (gains > 0).astype(np.float64)):
            low, high = interval(values[test], asked.items[test])
            cells += [f"{values[test].mean():.3f}", f"{low:.2f}-{high:.2f}"]
        of_kind = [f"{gains[test & (asked.kinds == kind)].mean():.3f}" for kind in kinds]
        shown.add_row(name, *cells, *of_kind)
    return shown


if __name__ == "__main__":
    main()
