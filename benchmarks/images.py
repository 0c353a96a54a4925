"""An image encoder that is trained on the catalogue's own pictures, beside what needs no training.

    recsys bench images [SHARED]

asks whether pictures that belong together are near each other. Each picture of the test half asks
for its ten nearest among all others; what is near by

- random weights: the same ResNet untrained, over several seeds;
- pixels: principal components of the raw pixels, side and number of components chosen;
- trained: `recsys train image-encoder`'s function, on all pictures, without a label, over seeds.

The catalogue is the synthetic one, 600 posters of twelve genres, or where the folder of shared data
is named, its 400 real posters with MovieLens' genres. What is chosen by labels is chosen on the
labels of the other half alone: the components here, and the encoder's defaults once, on the real
posters. A picture is relevant that shares a genre; Jaccard is the share of genres in common of all
that the two have, averaged over the ten.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from encoders.contrastive import ContrastiveConfig
from encoders.image import ImageEncoder
from encoders.picture import decode
from encoders.picture_file import write_pictures
from encoders.resnet import new_resnet
from encoders.training import Progress, Trained, train
from recsys.data.dataset import ITEMS
from recsys.data.synthetic import synthesize
from recsys.evaluation.metrics import bootstrap, resampled_means

Vectors = NDArray[np.float32]
"""Float32[N, D], of any length."""

K = 10
SIDES, COMPONENTS = (8, 16, 32, 64), (4, 8, 16, 32, 64, 128)
RESAMPLES = 5_000
METRICS = (f"precision@{K}", f"Jaccard@{K}", "MAP")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Pictures and what they are of."""

    name: str
    files: Sequence[bytes]
    genres: NDArray[np.bool_]
    """Bool[N, G]."""

    def halves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows that choices are made on, and those that are reported."""
        order = np.random.default_rng(0).permutation(len(self.files))
        return np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])


@dataclass(frozen=True, eq=False)
class Measured:
    """A way to make vectors, and each test picture's metrics, averaged over its seeds."""

    name: str
    values: NDArray[np.float64]
    """Float64[Q, M], in the order of METRICS."""
    seconds: float
    """Core seconds that making the vectors of one seed took, training included."""


def measure(
    vectors: Vectors, genres: NDArray[np.bool_], asked: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Float64[Q, M]: METRICS of the pictures that are asked for, each among all others."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores = unit[asked] @ unit.T
    scores[np.arange(len(asked)), asked] = -np.inf
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :-1]
    has = genres.astype(np.float64)
    common = has[asked] @ has.T
    jaccard = common / (has[asked].sum(1)[:, None] + has.sum(1) - common)
    near = np.take_along_axis(jaccard, ranked, axis=1)
    relevant = near > 0
    precision = np.cumsum(relevant, axis=1) / np.arange(1, ranked.shape[1] + 1)
    average = (precision * relevant).sum(1) / np.maximum(relevant.sum(1), 1)
    return np.stack([relevant[:, :K].mean(1), near[:, :K].mean(1), average], axis=1)


def pixels(catalogue: Catalogue) -> Iterator[tuple[str, Vectors]]:
    """The principal components of raw pixels, in every number and of every side."""
    pictures = [decode(file) for file in catalogue.files]
    for side in SIDES:
        raw = np.stack([np.asarray(each.resize((side, side)), np.float32) for each in pictures])
        flat = raw.reshape(len(raw), -1) / 255
        left, values, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
        for count in COMPONENTS:
            yield f"{count} components of {side} x {side} pixels", left[:, :count] * values[:count]


def encoded(trained: Trained, files: Sequence[bytes], scratch: Path) -> Vectors:
    """What the encoder that the net is saved as makes of the files."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        trained.save(Path(folder, "encoder"), {})
        return ImageEncoder.open(str(Path(folder, "encoder"))).encode(files).vectors


def untrained(catalogue: Catalogue, config: ContrastiveConfig, size: int, scratch: Path) -> Vectors:
    torch.manual_seed(config.seed)
    net = new_resnet(size)
    return encoded(Trained(net, config, Progress(losses=[0.0]), 0, 0), catalogue.files, scratch)


def learnt(
    catalogue: Catalogue,
    config: ContrastiveConfig,
    size: int,
    scratch: Path,
    say: Callable[[str], None],
) -> Vectors:
    """Of an encoder that was trained on the catalogue."""
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory(dir=scratch) as run_dir:
        pictures, side = Path(run_dir, "pictures"), config.pixels * 3 // 2
        write_pictures(pictures, [partial(bytes, file) for file in catalogue.files], side)
        trained = train(
            config,
            new_resnet(size),
            pictures,
            side,
            run_dir=Path(run_dir),
            on_epoch=lambda told: say(f"epoch {told.epoch + 1} of {told.epochs} {told.loss:.3f}"),
        )
    return encoded(trained, catalogue.files, scratch)


def compare(
    catalogue: Catalogue,
    config: ContrastiveConfig,
    size: int,
    seeds: int,
    say: Callable[[str], None],
) -> list[Measured]:
    """The three ways on the test half."""
    choose, test = catalogue.halves()
    measured = partial(measure, genres=catalogue.genres)

    def over_seeds(name: str, make: Callable[[ContrastiveConfig], Vectors], n: int) -> Measured:
        started = time.process_time()
        found = []
        for seed in range(n):
            say(f"{catalogue.name}: {name}, seed {seed}")
            found.append(measured(make(config.model_copy(update={"seed": seed})), asked=test))
        seconds = (time.process_time() - started) / n
        return Measured(name, np.mean(found, axis=0), seconds)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        at_random = over_seeds(
            f"random ResNet-{size}", lambda seeded: untrained(catalogue, seeded, size, folder), 5
        )
        started = time.process_time()
        tried = dict(pixels(catalogue))
        chosen = max(tried, key=lambda name: _chosen_by(tried[name], catalogue, choose))
        seconds = time.process_time() - started
        components = Measured(chosen, measured(tried[chosen], asked=test), seconds)
        trained = over_seeds(
            f"ResNet-{size}, trained",
            lambda seeded: learnt(catalogue, seeded, size, folder, say),
            seeds,
        )
    return [at_random, components, trained]


def _chosen_by(vectors: Vectors, catalogue: Catalogue, rows: NDArray[np.int64]) -> float:
    """Precision@K among the rows alone."""
    return float(measure(vectors[rows], catalogue.genres[rows], np.arange(len(rows)))[:, 0].mean())


def ratio(
    ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Float64[M], the ratio of the means, and its 95 % interval Float64[2, M]: a bootstrap over the
    pictures, the same in both."""
    means = resampled_means(np.concatenate([ours, theirs], axis=1), resamples=RESAMPLES)
    resampled = means[:, : ours.shape[1]] / means[:, ours.shape[1] :]
    return ours.mean(0) / theirs.mean(0), np.quantile(resampled, [0.025, 0.975], axis=0)


def synthetic(folder: Path) -> Catalogue:
    synthesize(folder, n_users=50, n_items=600, seed=0)
    items = pq.read_table(folder / ITEMS, columns=["image", "tags"])
    files = [(folder / image).read_bytes() for image in items["image"].to_pylist()]
    tags = [frozenset(each) for each in items["tags"].to_pylist()]
    return Catalogue("synthetic, 600 posters", files, _flags(tags))


def posters(shared: Path) -> Catalogue:
    """The real ones, of the films that MovieLens knows."""
    with (shared / "ml-latest-small" / "movies.csv").open(encoding="utf-8") as file:
        genres = {
            row["movieId"]: frozenset(row["genres"].split("|")) for row in csv.DictReader(file)
        }
    paths = sorted(
        (path for path in (shared / "posters").glob("*.jpg") if path.stem in genres),
        key=lambda path: int(path.stem),
    )
    files = [path.read_bytes() for path in paths]
    return Catalogue(
        f"{len(files)} film posters", files, _flags([genres[path.stem] for path in paths])
    )


def _flags(sets: Sequence[frozenset[str]]) -> NDArray[np.bool_]:
    names = sorted(frozenset[str]().union(*sets))
    return np.array([[name in each for name in names] for each in sets])


def table(catalogue: Catalogue, rows: Sequence[Measured]) -> Table:
    """A row each with intervals, and the ratios of the last to each of the others."""
    asked = len(rows[0].values)
    shown = Table(title=f"{catalogue.name}: {asked} ask, all others answer", box=box.SIMPLE)
    for column in ("", *METRICS, "core s"):
        shown.add_column(column, justify="right" if column else "left")
    for row in rows:
        low, high = bootstrap(row.values, resamples=RESAMPLES)
        cells = [
            f"{value:.4f}\n{lower:.3f}-{upper:.3f}"
            for value, lower, upper in zip(row.values.mean(0), low, high, strict=True)
        ]
        shown.add_row(row.name, *cells, f"{row.seconds:,.0f}")
    for row in rows[:-1]:
        value, (low, high) = ratio(rows[-1].values, row.values)
        cells = [f"{v:.3f}\n{a:.3f}-{b:.3f}" for v, a, b in zip(value, low, high, strict=True)]
        shown.add_row(f"trained / {row.name}", *cells, "")
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="recsys bench images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "shared", type=Path, nargs="?", help="a folder with posters/ and ml-latest-small/"
    )
    parser.add_argument("--size", type=int, default=18, choices=(18, 34, 50, 101))
    parser.add_argument("--epochs", type=int, default=ContrastiveConfig().epochs)
    parser.add_argument("--seeds", type=int, default=3, help="encoders that are trained")
    options = parser.parse_args(argv)
    console = Console(highlight=False, width=110)
    said = Console(stderr=True, highlight=False)
    config = ContrastiveConfig(epochs=options.epochs)
    with tempfile.TemporaryDirectory() as folder, said.status("starting") as status:
        shared = options.shared
        catalogue = synthetic(Path(folder) / "films") if shared is None else posters(shared)
        rows = compare(catalogue, config, options.size, options.seeds, status.update)
    console.print(table(catalogue, rows))
    for name, what in _about(options, config).items():
        console.print(f"{name:<10}{what}")


def _about(options: argparse.Namespace, config: ContrastiveConfig) -> Mapping[str, str]:
    asked = ["recsys bench images", *sys.argv[1:]]
    names = ("torch", "transformers", "pillow", "numpy")
    return {
        "command": " ".join(asked),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} "
        "threads",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names),
        "trained": f"{options.seeds} seeds, each {config.epochs} epochs of {config.pixels} pixels; "
        "random over 5 seeds",
        "intervals": "95 % bootstraps over the pictures that ask; ratios over the same resamples",
    }


if __name__ == "__main__":
    main()
