"""How well search by words finds a film that is asked for in other words than its title.

    recsys data import $RECSYS_SHARED_DATA/ml-latest-small ./films
    recsys bench search ./films

Known-item retrieval over the whole catalogue: 242 paraphrases, each of one film; the reciprocal of
the place at which that film stands, 0 past the tenth (MRR@10), and how often it is among the first
ten (R@10). What is searched is a content space of the catalogue, by the code that answers
`/v1/search`: by text, by text and then re-ranked, and by the fusion of text and popularity, which
is re-ranked too. How much popularity counts is chosen on one half of the films, and the other half
is measured once. Intervals are 95 % bootstraps over the films.
The cross-encoder is trained on the catalogue's own texts, unless one is named; none of the
paraphrases is seen by it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.paraphrases import Paraphrases
from benchmarks.text_space import seal_texts
from encoders.cross_encoder import CrossEncoder
from encoders.item_text import item_texts
from encoders.text import TextEncoder
from encoders.text_input import DEFAULT_TEXT_MODEL
from encoders.train_cross_encoder import CrossEncoderTraining, train_cross_encoder
from infra.settings import Settings
from recsys.content_bundle import ContentBundle
from recsys.data.dataset import ITEMS_SCHEMA, Dataset
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from services.catalogue_service import RERANKED, Answer, answer, reranked
from services.live_catalogue import LiveCatalogue
from services.popularity import Popularity
from services.search_schemas import SearchRequest
from services.searcher import Searcher, SearchQuery

K = 10
WEIGHTS = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""What popularity may weigh beside the text, whose weight is 1."""
RESAMPLES = 10_000

Rankings = NDArray[np.int64]
"""Int64[Q, K], rows of items, best first; UNKNOWN past the last."""


class Service:
    """A searcher over one content space of a catalogue, with what it takes to ask it."""

    def __init__(self, dataset: Dataset, encoder: TextEncoder, folder: Path) -> None:
        catalogue = dataset.catalogue
        self.texts: list[str] = item_texts(catalogue).to_pylist()
        seal_texts(folder / "text", catalogue.select(ITEMS_SCHEMA.names), self.texts, encoder)
        counts = np.bincount(dataset.histories.items, minlength=len(catalogue))
        self._items = Vocabulary(catalogue["item_id"])
        self._encoder = encoder
        self._searcher = Searcher(
            {"text": ContentBundle.open(folder / "text")},
            LiveCatalogue.empty(),
            Popularity(self._items, counts),
        )

    def rankings(
        self, queries: Sequence[str], popularity: float, cross: CrossEncoder | None = None
    ) -> Rankings:
        """What is found by each of the queries, re-ranked where there is a cross-encoder."""
        vectors = self._encoder.encode(queries).vectors
        found = np.full((len(queries), K), UNKNOWN, np.int64)
        for row, (text, vector) in enumerate(zip(queries, vectors, strict=True)):
            request = SearchRequest(text=text, k=K, popularity=popularity)
            encoded = {self._encoder.fingerprint: vector}
            query = SearchQuery(request, encoded, depth=0 if cross is None else RERANKED)
            told = answer(self._searcher, query)
            if not isinstance(told, Answer):
                raise RuntimeError(f"the search {text!r} is not answered: {told}")
            reply = told.reply
            if cross is not None:
                reply = reranked(reply, cross.scores(text, told.texts).tolist(), K)
            rows = self._items.rows([item.item_id for item in reply.items])
            found[row, : len(rows)] = rows
        return found


def reciprocal(rankings: Rankings, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Float64[Q], one over the place of the wanted item, 0 past the K-th."""
    hits = rankings[:, :K] == wanted[:, None]
    return np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)


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
    arguments = parser.parse_args(argv)
    console = Console(highlight=False, width=110)
    started = time.perf_counter()
    dataset = Dataset.load(arguments.dataset)
    asked = Paraphrases.of(dataset)
    encoder = TextEncoder.open(arguments.text_model)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(dataset, encoder, Path(folder))
        where = arguments.cross_encoder or _trained(dataset, service.texts, encoder, console)
        cross = CrossEncoder.open(str(where))
        console.print("validation MRR@10 and R@10 by how much popularity counts beside the text")
        fused: dict[float, Rankings] = {}
        gained: dict[float, float] = {}
        for weight in WEIGHTS:
            fused[weight] = service.rankings(asked.queries, weight)
            gains = reciprocal(fused[weight], asked.items)[asked.validation]
            gained[weight] = float(gains.mean())
            console.print(f"  {weight:<4g} {gains.mean():.3f}  {(gains > 0).mean():.3f}")
        chosen = max(WEIGHTS, key=gained.__getitem__)
        counts = np.bincount(dataset.histories.items, minlength=len(service.texts))
        rows: dict[str, Rankings] = {
            "popularity": np.tile(np.argsort(-counts, kind="stable")[:K], (len(asked.items), 1)),
            "text": service.rankings(asked.queries, 0),
            "text, re-ranked": service.rankings(asked.queries, 0, cross),
            f"text and popularity {chosen:g}": fused[chosen],
            "the same, re-ranked": service.rankings(asked.queries, chosen, cross),
        }
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
