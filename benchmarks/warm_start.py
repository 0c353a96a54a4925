"""What a warm start saves: today's data learnt from nothing, and from yesterday's model.

    recsys bench warm-start DATASET [--model sasrec] [--preset long-histories] [--seed 0]

Today is the whole Dataset. Yesterday lacks each user's newest tenth, the two newest events at
least, and every event of one item in fifty, drawn by the seed. An item without an event is unknown
yesterday, and new today. The cut is each user's own, for some data sets have times that only order
a user's events. What today validates and tests with are each user's two newest events at most, so
yesterday's model has learnt none of them.

Yesterday is fitted first and not counted. Then today is fitted twice, by one configuration and
seed, each until validation has not risen for so many epochs as end `recsys train`. Seconds are of
training, measuring is not counted. The goals are the best validation NDCG@10 of the fit from
nothing, and 95 % of it. The test part is ranked once a fit, with its best epoch.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.train_ours import scores, top
from recsys.data.dataset import Dataset
from recsys.data.histories import Histories
from recsys.data.split import Holdout, Split, leave_one_out, split_dataset
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.evaluation.protocol import assess, validate
from recsys.evaluation.report import Report
from recsys.models.catalog import kind_of
from recsys.models.model import Alone, Model, ModelConfig
from recsys.models.presets import PRESETS
from recsys.training.epochs import PATIENCE
from recsys.training.start import Start

K = 10
MODELS = ("ials", "gru4rec", "sasrec")
NEWEST = 10
"""One in so many of a user's events is of today."""
NEW_ITEMS = 50
"""One in so many items is of today."""


def yesterday(today: Histories, items: Vocabulary, seed: int) -> tuple[Histories, Vocabulary]:
    """What was known yesterday: the same users' histories, and the items that had an event."""
    with_events = np.unique(today.items)
    new = np.random.default_rng(seed).choice(
        with_events, -(-len(with_events) // NEW_ITEMS), replace=False
    )
    lengths = today.lengths
    newest = np.maximum(-(-lengths // NEWEST), 2)
    to_the_end = np.repeat(today.offsets[1:], lengths) - np.arange(len(today.items))
    kept = (to_the_end > np.repeat(newest, lengths)) & ~np.isin(today.items, new)
    known, rows = np.unique(today.items[kept], return_inverse=True)
    lengths = np.bincount(today.rows()[kept], minlength=len(today))
    return Histories.from_lengths(lengths, rows), Vocabulary(items.to_arrow().take(pa.array(known)))


@dataclass(frozen=True)
class Course:
    """How a fit went."""

    ndcg: list[float]
    """NDCG@10 on the validation part after so many epochs, from none on."""

    seconds: list[float]
    """Of training, after so many epochs."""

    best: int
    """How many epochs it took; one at least, as `recsys train` measures after an epoch."""

    model: Model
    """After as many."""

    def epochs_to(self, ndcg: float) -> int | None:
        """Epochs, one at least, until validation first reached it."""
        reached = [epochs for epochs, value in enumerate(self.ndcg) if epochs and value >= ndcg]
        return reached[0] if reached else None


def trained(
    name: str, config: ModelConfig, split: Split, items: Vocabulary, start: Start | None = None
) -> Course:
    """Fit until validation no longer rises, from nothing or from a fitted model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fitting = kind_of(config.kind).fit(config, split.train, len(items), Alone(), device)
    if start is not None:
        start.give(fitting, items)
    model = fitting.model()
    ndcg, seconds, best = [validate(model, split.validation)[f"ndcg@{K}"]], [0.0], 0
    for epoch in range(1, fitting.max_epochs + 1):
        began = time.perf_counter()
        fitting.run_epoch(epoch - 1)
        now = fitting.model()
        seconds.append(seconds[-1] + time.perf_counter() - began)
        ndcg.append(validate(now, split.validation)[f"ndcg@{K}"])
        if epoch == 1 or ndcg[-1] > ndcg[best]:
            best, model = epoch, now
        print(  # noqa: T201 - a line an epoch, for whoever waits
            f"{name:<14} epoch {epoch:>3}  {seconds[-1]:8.1f} s  "
            f"validation NDCG@{K} {ndcg[-1]:.4f}",
            flush=True,
        )
        if epoch - best >= PATIENCE:
            break
    return Course(ndcg, seconds, best, model)


def measured(model: Model, split: Split, known: NDArray[np.bool_]) -> tuple[Report, Report | None]:
    """The test part ranked once: all of it, and where the target is a new item, if it ever is.

    known: Bool[N], whether yesterday had the item.
    """
    test, found = split.test, top(partial(scores, model), split.test.histories, K)
    new = np.flatnonzero(~known[test.targets.items])  # a target each
    of_new = Holdout(test.users[new], test.histories.take(new), test.targets.take(new))
    popularity = np.bincount(split.train.items, minlength=len(known))
    assessed = partial(assess, protocol=split.protocol, popularity=popularity, ks=(K,))
    return assessed(found, test), assessed(found[new], of_new) if len(new) else None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench warm-start", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument("--model", default="sasrec", choices=MODELS)
    parser.add_argument(
        "--preset", default="long-histories", choices=list(PRESETS["sasrec"]), help="of sasrec"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    preset = PRESETS[options.model][options.preset] if options.model in PRESETS else {}
    config = kind_of(options.model).config.model_validate({**preset, "seed": options.seed})
    dataset = Dataset.load(options.dataset)
    items, split = dataset.items, split_dataset(dataset, "leave_one_out")
    before, items_before = yesterday(dataset.histories, items, options.seed)
    fitted = trained("yesterday", config, leave_one_out(before), items_before)
    start = Start("yesterday", items_before, fitted.model.tensors())
    courses = (
        trained("from nothing", config, split, items),
        trained("from yesterday", config, split, items, start),
    )
    known = items_before.rows(items.to_arrow()) != UNKNOWN
    reports = [measured(course.model, split, known) for course in courses]
    console = Console(highlight=False, width=100)
    console.print(_table(courses, reports))
    console.print(
        f"today     {len(dataset.histories.items):,} events, {len(items):,} items\n"
        f"yesterday {len(before.items):,} events, {len(items_before):,} items"
    )
    console.print(f"command   recsys bench warm-start {' '.join(sys.argv[1:])}", soft_wrap=True)
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    console.print(
        f"machine   {os.cpu_count()} cores, {torch.get_num_threads()} of them used, {gpu}"
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}"
    )


def _table(courses: Sequence[Course], reports: Sequence[tuple[Report, Report | None]]) -> Table:
    table = Table(box=box.SIMPLE, caption="leave one out, full ranking, seen items masked")
    for column in ("", "from nothing", "from yesterday", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(f"validation NDCG@{K} before training", *(f"{c.ndcg[0]:.4f}" for c in courses))
    table.add_row(
        f"best validation NDCG@{K}", *(f"{c.ndcg[c.best]:.4f} (epoch {c.best})" for c in courses)
    )
    best = courses[0].ndcg[courses[0].best]
    for goal, called in ((best, "the best from nothing"), (0.95 * best, "95 % of it")):
        epochs = [course.epochs_to(goal) for course in courses]
        seconds = [c.seconds[e] if e else None for c, e in zip(courses, epochs, strict=True)]
        table.add_row(
            f"epochs to {called}, {goal:.4f}", *(str(e) if e else "not reached" for e in epochs)
        )
        nothing, warm = seconds
        table.add_row(
            "seconds of training to it",
            *(f"{s:.2f}" if s else "" for s in seconds),
            f"{warm / nothing:.2f}" if nothing and warm else "",
        )
    for name in (f"recall@{K}", f"ndcg@{K}"):
        table.add_row(f"test {name}", *(_estimate(report, name) for report, _ in reports))
    of_new = [report for _, report in reports if report is not None]
    targets = of_new[0].protocol["users"] if of_new else 0
    table.add_row(
        f"test ndcg@{K} of the {targets} new targets",
        *(_estimate(report, f"ndcg@{K}") for report in of_new),
    )
    return table


def _estimate(report: Report, name: str) -> str:
    found = report.metrics[name]
    return f"{found.value:.4f} ({found.low:.3f}-{found.high:.3f})"


if __name__ == "__main__":
    main()
