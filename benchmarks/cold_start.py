"""New items by their content alone: the bridge, beside what else there is when nobody touched them.

    recsys bench cold-start DATASET [--models ials sasrec] [--seeds 0 1 2] [--part validation]

One in ten of the items is drawn by the seed, and all its events are taken out of every history
before anything is trained. Then every event with such an item is a question: the history is what
the user had taken before, and the answer is looked for among the first 50, seen items masked; once
in a ranking of the full catalogue, new and other items together, and once among new items only.
Much depends on which items are drawn: several seeds are as many draws, and their questions are
taken together.

The split is by item and not by time, as is usual for new items (DropoutNet, Volkovs et al. 2017;
CLCRec, Wei et al. 2021): models learn what users took after the question too, of the other items,
all but the last two. So a model knows some of an asking user's later taste, and which of the items
before the question go with what came later, as no service would at that moment; `text-nearest` and
`popularity so far` have no such help. The figures compare bridges to one model with each other
fairly, and say how well an item without events is placed in a model that has learnt all others;
beside the two, they flatter.

Whatever there was to choose of the bridge was chosen with `--part validation`, where one in ten of
the *other* items are the new ones and the test's items are not in the data at all.

    random                      all that popularity is as long as a new item has no event
    popularity so far           by the events of an item until the moment of the question (only
                                where the data has times); no longer a cold start
    popularity of all events    by the events that were held out: nobody can know them
    text-nearest                nearest to the mean text of the user's newest items
    bridge from text and tags   as `recsys bridge fit` makes it where the items have tags (genres)
    bridge from text            as it makes it where they have none

The last columns say which share of the first 10 places new items take, and what they cost the
others: the recall of each user's held-out last event among the first 10, without and with them.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cold_items import ColdItems, CountsBefore, cold_items
from benchmarks.cold_rows import SHOWN, K, Row, asked, runs, together
from encoders.item_text import item_texts
from encoders.text import TextEncoder
from encoders.text_input import DEFAULT_TEXT_MODEL
from recsys.bridging import learn
from recsys.data.dataset import Dataset
from recsys.evaluation.metrics import interval, resampled_means, top_k
from recsys.evaluation.protocol import validate
from recsys.models.catalog import kind_of
from recsys.models.model import Alone, Model, ModelConfig
from recsys.retrieval.bridge import Fitted
from recsys.retrieval.tag_columns import common_tags, with_tags

SASREC = {"dim": 64, "blocks": 2, "max_length": 100, "dropout": 0.3}
"""A net that a processor trains in minutes."""
NEWEST = 5
"""Of these items' texts the mean is taken for `text-nearest`: the best of 1, 5, 20 and 100 on the
validation items of both data sets."""


def baselines(dataset: Dataset, cold: ColdItems, text: NDArray[np.float32]) -> Iterator[Row]:
    n_items = len(cold.new)
    rng = np.random.default_rng(0)
    yield asked(
        "random", cold, lambda some: rng.random((some.stop - some.start, n_items), np.float32)
    )
    if dataset.timestamps is not None:
        times, counts = dataset.timestamps, CountsBefore(dataset, dataset.timestamps)
        yield asked("popularity so far", cold, lambda some: counts(times[cold.events[some]]))
    everything = np.bincount(dataset.histories.items, minlength=n_items).astype(np.float32)
    yield asked(
        "popularity of all events",
        cold,
        lambda some: np.tile(everything, (some.stop - some.start, 1)),
    )

    def nearest(some: slice) -> NDArray[np.float32]:
        newest = cold.histories.slice(some.start, some.stop).last(NEWEST)
        sums = np.add.reduceat(text[newest.items], newest.offsets[:-1])
        return np.asarray(sums @ text.T, np.float32)

    yield asked("text-nearest", cold, nearest)


def bridged(
    name: str,
    cold: ColdItems,
    model: Model,
    queries: NDArray[np.float32],
    fitted: Fitted,
    content: NDArray[np.float32],
) -> Row:
    """The model's vectors, and for the new items those of the bridge."""
    vectors = np.array(model.item_vectors)
    vectors[cold.new] = fitted.bridge.map(content[cold.new])
    row = asked(name, cold, lambda some: queries[some] @ vectors.T)
    test = cold.split.test
    asking, found = model.query_vectors(test.histories), np.zeros(2)
    for some in runs(len(test.users)):
        scores, histories = asking[some] @ vectors.T, test.histories.slice(some.start, some.stop)
        scores[histories.rows(), histories.items] = -np.inf
        for which, allowed in enumerate((cold.ranked & ~cold.new, cold.ranked)):
            listed = top_k(np.where(allowed, scores, -np.inf), SHOWN).items
            found[which] += (listed == test.targets.items[some, None]).any(axis=1).sum()
    return replace(row, others=found / len(test.users))


def trained(config: ModelConfig, cold: ColdItems, epochs: int) -> Model:
    """The epoch that validates best, of as many."""
    fitting = kind_of(config.kind).fit(
        config, cold.split.train, len(cold.new), Alone(), torch.device("cpu")
    )
    model, best = fitting.model(), -1.0
    for epoch in range(epochs):
        began = time.perf_counter()
        fitting.run_epoch(epoch)
        seconds = time.perf_counter() - began
        now = fitting.model()
        ndcg = validate(now, cold.split.validation)["ndcg@10"]
        if ndcg > best:
            model, best = now, ndcg
        print(  # noqa: T201 - a line an epoch, for whoever waits
            f"{config.kind:<7} epoch {epoch + 1:>3}  {seconds:6.1f} s  "
            f"validation NDCG@10 {ndcg:.4f}",
            flush=True,
        )
    return model


def bridges(
    model: Model, cold: ColdItems, contents: dict[str, NDArray[np.float32]]
) -> Iterator[Row]:
    """A bridge from each content, asked."""
    everything, queries = np.arange(len(cold.new)), model.query_vectors(cold.histories)
    for name, content in contents.items():
        began = time.perf_counter()
        fitted = learn(model, cold.counts, everything, content, cold.split.train)
        print(  # noqa: T201
            f"{model.config.kind} from {name}: λ {fitted.ridge:.3g}, offset {fitted.offset:.3g}, "
            f"{fitted.explained:.0%} of the variance explained, "
            f"{time.perf_counter() - began:.1f} s",
            flush=True,
        )
        label = f"{model.config.kind}, bridge from {name}"
        yield bridged(label, cold, model, queries, fitted, content)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench cold-start", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument(
        "--models", nargs="+", default=["ials", "sasrec"], choices=["ials", "sasrec"]
    )
    parser.add_argument("--part", default="test", choices=["test", "validation"])
    parser.add_argument("--epochs", type=int, default=5, help="of sasrec")
    parser.add_argument("--questions", type=int, default=20_000, help="at most so many of a seed")
    parser.add_argument("--text-model", default=DEFAULT_TEXT_MODEL)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(argv)
    dataset = Dataset.load(options.dataset)
    text = TextEncoder.open(options.text_model).encode(item_texts(dataset.catalogue).to_pylist())
    tags = dataset.catalogue["tags"]
    drawn = []
    for seed in options.seeds:
        cold = cold_items(dataset, options.part, seed, options.questions)
        rows = list(baselines(dataset, cold, text.vectors))
        columns = common_tags(tags.filter(pa.array(cold.counts > 0)))
        contents = {
            "text": text.vectors,
            "text and tags": with_tags([text.vectors], tags, columns),
        }
        for kind in options.models:
            chosen = SASREC if kind == "sasrec" else {}
            config = kind_of(kind).config.model_validate({**chosen, "seed": seed})
            epochs = options.epochs if kind == "sasrec" else config.model_dump()["max_epochs"]
            rows += bridges(trained(config, cold, epochs), cold, contents)
        drawn.append(rows)
        print(  # noqa: T201
            f"seed {seed}: {cold.new.sum()} new items among {cold.ranked.sum():,}, "
            f"{len(cold.targets):,} questions",
            flush=True,
        )
    rows = [together(of_seeds) for of_seeds in zip(*drawn, strict=True)]
    console = Console(highlight=False, width=140)
    console.print(_table(rows))
    for row in rows:
        if row.others is not None:
            console.print(_verdict(row, rows), soft_wrap=True)
    console.print(f"command   recsys bench cold-start {' '.join(sys.argv[1:])}", soft_wrap=True)
    console.print(
        f"machine   {os.cpu_count()} cores, {torch.get_num_threads()} of them used, "
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, "
        f"sentence-transformers {version('sentence-transformers')}",
        soft_wrap=True,
    )


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE, caption="95 % bootstrap intervals over users")
    table.add_column("", no_wrap=True)
    for column in (
        f"R@{K}, full catalogue",
        f"R@{K}, among new",
        f"new in first {SHOWN}",
        f"others' R@{SHOWN} without",
        "with",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        others = [] if row.others is None else [f"{value:.4f}" for value in row.others]
        recalls = (_recall(row.full, row.users), _recall(row.among_new, row.users))
        table.add_row(row.name, *recalls, f"{row.share.mean():.3f}", *others)
    return table


def _recall(hit: NDArray[np.bool_], users: NDArray[np.int64]) -> str:
    """The share of hits, and its interval where whole users are drawn."""
    hits, questions = np.bincount(users, hit), np.bincount(users)
    sums = np.stack([hits, questions], axis=1)[questions > 0].astype(np.float64)
    drawn = resampled_means(sums)
    low, high = interval(drawn[:, :1] / drawn[:, 1:])
    return f"{hit.mean():.4f} ({low[0]:.3f}-{high[0]:.3f})"


def _verdict(row: Row, rows: Sequence[Row]) -> str:
    ratios = [
        f"{row.full.mean() / other.full.mean():.2f} times {other.name} "
        f"({row.among_new.mean() / other.among_new.mean():.2f} among new)"
        for other in rows
        if other.others is None
    ]
    return f"{row.name}: {', '.join(ratios)}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
