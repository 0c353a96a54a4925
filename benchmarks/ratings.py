"""How well ratings are predicted: biased matrix factorisation, beside Surprise on the same folds.

    recsys bench ratings DATASET [--leave-last-out]

5-fold cross-validation over ratings. Whatever has settings to choose chooses them in each fold
anew, by RMSE on a tenth of the fold's training part, and is then fitted on all of that part; the
fold itself is only predicted. Surprise runs in an environment of its own under the state folder.
Seconds are those of one core, of the fit with the settings chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environments import environment
from infra.settings import Settings
from recsys.data.dataset import Dataset
from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.evaluation.ratings import cross_validate, leave_last_out, mean_of_all
from recsys.evaluation.report import Report
from recsys.models.biased_mf import BiasedMf, BiasedMfConfig

DIMS = (16, 32, 64)
REGULARIZATION = (1.0, 1.2, 1.4)
BIASES_REGULARIZATION = (0.2, 0.5, 1.0)

SURPRISE = "1.1.4"
SVD_GRID: list[dict[str, float]] = [
    {},
    {"n_factors": 100, "n_epochs": 40, "lr_all": 0.01, "reg_all": 0.1},
    {"n_factors": 200, "n_epochs": 100, "lr_all": 0.005, "reg_all": 0.1},
]
"""Its defaults, and what did best of a wider search on a validation part of MovieLens 100K."""


class Contender(ABC):
    """Anything that predicts ratings, and what it took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        """Of each fit."""
        self.validation: list[float] = []
        """Of each fit: the least RMSE on the validation part."""
        self.chosen: list[str] = []
        """Of each fit: the settings that had it."""

    @abstractmethod
    def predict(self, known: Ratings, asked: Histories) -> NDArray[np.float32]:
        """A `Predictor`."""


class Mean(Contender):
    """The mean of all known ratings."""

    def predict(self, known: Ratings, asked: Histories) -> NDArray[np.float32]:
        return mean_of_all(known, asked)


class Ours(Contender):
    """Biased matrix factorisation of one dimension."""

    def __init__(self, name: str, n_items: int, dim: int, regularization: Sequence[float]) -> None:
        super().__init__(name)
        self._n_items = n_items
        self._configs = [
            BiasedMfConfig(dim=dim, regularization=strength) for strength in regularization
        ]

    def predict(self, known: Ratings, asked: Histories) -> NDArray[np.float32]:
        held_out = validation_part(known)
        fitted, wanted = known.where(~held_out), known.where(held_out)
        rmse = []
        for config in self._configs:
            found = BiasedMf.fit(config, fitted, self._n_items).predict(fitted, wanted.histories)
            rmse.append(float(np.square(found - wanted.values).mean()) ** 0.5)
        best = self._configs[int(np.argmin(rmse))]
        started = time.process_time()
        model = BiasedMf.fit(best, known, self._n_items)
        self.seconds.append(time.process_time() - started)
        self.validation.append(min(rmse))
        self.chosen.append(f"regularization {best.regularization:g}")
        return model.predict(known, asked)


class Surprise(Contender):
    """One of Surprise's algorithms, in a process of its own for each fit."""

    def __init__(
        self, name: str, python: Path, algorithm: str, grid: Sequence[dict[str, float]]
    ) -> None:
        super().__init__(name)
        self._python = python
        self._algorithm = algorithm
        self._grid = list(grid)

    def predict(self, known: Ratings, asked: Histories) -> NDArray[np.float32]:
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "in.npz", Path(folder) / "out.npz"
            np.savez(
                given,
                users=known.histories.rows(),
                items=known.histories.items,
                values=known.values,
                validation=validation_part(known),
                asked_users=asked.rows(),
                asked_items=asked.items,
            )
            script = Path(__file__).with_name("surprise_svd.py")
            grid = json.dumps(self._grid)
            command = [self._python, script, given, self._algorithm, grid, found]
            subprocess.run([str(part) for part in command], check=True)
            output = np.load(found)
            best = self._grid[int(output["best"])]
            self.seconds.append(float(output["seconds"]))
            self.validation.append(float(output["rmse"]))
            self.chosen.append(
                ", ".join(f"{key} {value:g}" for key, value in best.items()) or "its defaults"
            )
            return np.asarray(output["predicted"], np.float32)


def validation_part(known: Ratings) -> NDArray[np.bool_]:
    """Bool[nnz]: a tenth of the ratings that a fit may learn from."""
    return np.equal(known.folds(10, seed=1), 0)


def contenders(n_items: int, state: Path) -> Iterator[Contender]:
    yield Mean("mean of all")
    yield Ours("biases alone", n_items, 0, BIASES_REGULARIZATION)
    for dim in DIMS:
        yield Ours(f"biased MF, {dim}", n_items, dim, REGULARIZATION)
    # It was built for the first version of numpy's binary interface.
    requirements = (f"scikit-surprise=={SURPRISE}", "numpy<2")
    python = environment(state, f"surprise-{SURPRISE}", *requirements)
    yield Surprise("Surprise SVD, as it comes", python, "SVD", [{}])
    yield Surprise("Surprise SVD, chosen", python, "SVD", SVD_GRID)
    yield Surprise("Surprise SVD++, as it comes", python, "SVDpp", [{}])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench ratings", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument(
        "--leave-last-out", action="store_true", help="predict each user's last rating instead"
    )
    arguments = parser.parse_args(argv)
    console = Console(highlight=False, width=100)
    dataset = Dataset.load(arguments.dataset)
    ratings = Ratings.of_dataset(dataset)
    protocol = leave_last_out if arguments.leave_last_out else cross_validate
    started = time.perf_counter()
    measured = []
    for contender in contenders(len(dataset.items), Settings().state_dir):
        measured.append((contender, protocol(contender.predict, ratings)))
        chosen = "; ".join(dict.fromkeys(contender.chosen)) or "-"
        console.print(f"{contender.name:<28} {chosen}", soft_wrap=True)
    console.print(_table(measured))
    for line in _verdict(measured):
        console.print(line, soft_wrap=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    surroundings = {
        "command": f"recsys bench ratings {' '.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"{torch.get_num_threads()} of them used",
        "versions": f"Python {platform.python_version()}, {packages}, scikit-surprise {SURPRISE}",
        "seconds": f"{time.perf_counter() - started:.0f}",
    }
    for name, value in surroundings.items():
        console.print(f"{name:<10} {value}", soft_wrap=True)


def _table(measured: Sequence[tuple[Contender, Report]]) -> Table:
    protocol = measured[0][1].protocol
    caption = f"{protocol['split']}; {protocol['ratings']:,} ratings by {protocol['users']:,} users"
    shown = Table(caption=f"{caption}; {protocol['interval']}", box=box.SIMPLE)
    shown.caption_justify = "left"
    for heading in ("", "RMSE", "", "MAE", "", "fit, core s"):
        shown.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for contender, report in measured:
        cells = [contender.name]
        for estimate in report.metrics.values():
            cells += [f"{estimate.value:.4f}", f"{estimate.low:.3f}-{estimate.high:.3f}"]
        shown.add_row(*cells, f"{np.mean(contender.seconds):.2f}" if contender.seconds else "-")
    return shown


def _verdict(measured: Sequence[tuple[Contender, Report]]) -> Iterator[str]:
    """Our choice on the validation parts, beside the *best held-out value* of Surprise's."""
    ours, report = min(
        ((contender, report) for contender, report in measured if isinstance(contender, Ours)),
        key=lambda pair: float(np.mean(pair[0].validation)),
    )
    theirs, best = min(
        ((contender, report) for contender, report in measured if isinstance(contender, Surprise)),
        key=lambda pair: pair[1].metrics["rmse"].value,
    )
    yield f"{ours.name} beside {theirs.name}"
    for name, estimate in report.metrics.items():
        other = best.metrics[name].value
        yield f"{name:<8} {estimate.value:.4f}, {other:.4f}: {estimate.value / other:.3f} times"
    seconds, others = np.mean(ours.seconds), np.mean(theirs.seconds)
    yield f"core s   {seconds:.2f}, {others:.2f}: {seconds / others:.2f} times"


if __name__ == "__main__":
    main()
