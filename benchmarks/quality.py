"""How well the models recommend: popularity and iALS, beside `implicit` on the same split.

    recsys bench quality DATASET

Leave one out, full-catalogue ranking, seen items masked. For `implicit` and for ours alike, each
dimension's settings are chosen from a grid by NDCG@10 on the validation part; the test part is
ranked once with what was chosen. Both get the same training part, and answer the same histories
by fold-in. `implicit` is installed into a virtual environment of its own under the state folder.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.environments import environment
from infra.settings import Settings
from recsys.data.dataset import Dataset
from recsys.data.histories import Histories
from recsys.data.split import Holdout, Split, leave_one_out
from recsys.evaluation.protocol import assess, evaluate, validate
from recsys.evaluation.report import Report, table
from recsys.models.ials import Ials, IalsConfig, IalsFit
from recsys.models.model import Alone, Model
from recsys.models.popularity import PopularityConfig, PopularityFit

K = 10
DIMS = (64, 128, 256)
IMPLICIT = "0.7.3"

IALS_GRID: dict[str, Sequence[float]] = {
    "regularization": (0.1, 0.2),
}
IMPLICIT_GRID: dict[str, Sequence[float]] = {
    "regularization": (0.1, 10.0, 30.0),
    "alpha": (1.0, 3.0, 10.0),
}

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    name: str
    settings: dict[str, float]
    validation_ndcg: float
    fit_seconds: float
    test: Report


@dataclass(frozen=True)
class Data:
    """A split, and what every measurement of it needs beside it."""

    split: Split
    popularity: NDArray[np.int64]

    @property
    def n_items(self) -> int:
        return len(self.popularity)

    def measured(self, model: Model) -> Report:
        """The model on the test part."""
        return evaluate(
            model,
            self.split.test,
            protocol=self.split.protocol,
            popularity=self.popularity,
            ks=(K,),
        )

    def assessed(self, recommended: NDArray[np.int64], holdout: Holdout) -> Report:
        """Somebody else's recommendations, measured as ours are."""
        return assess(
            recommended,
            holdout,
            protocol=self.split.protocol,
            popularity=self.popularity,
            ks=(K,),
        )


def compare(dataset: Path, state: Path, dims: Sequence[int] = DIMS) -> Iterator[Row]:
    """Every model in turn: popularity, then implicit, iALS without recency and iALS as it is, at
    each dimension."""
    loaded = Dataset.load(dataset)
    split = leave_one_out(loaded.histories)
    popularity = np.bincount(split.train.items, minlength=len(loaded.items))
    data = Data(split, popularity)
    yield _popularity(data)
    python = environment(state, f"implicit-{IMPLICIT}", f"implicit=={IMPLICIT}")
    for dim in dims:
        yield _implicit(data, python, dim)
    for dim in dims:
        yield _ials(data, f"ials, recency 0, {dim}", {"dim": dim, "recency": 0.0})
    for dim in dims:
        yield _ials(data, f"ials, {dim}", {"dim": dim})


def _popularity(data: Data) -> Row:
    fit = PopularityFit(PopularityConfig(), data.split.train, data.n_items, Alone(), CPU)
    started = time.perf_counter()
    fit.run_epoch(0)
    model = fit.model()
    seconds = time.perf_counter() - started
    ndcg = validate(model, data.split.validation, k=K)[f"ndcg@{K}"]
    return Row("popularity", {}, ndcg, seconds, data.measured(model))


def _ials(data: Data, name: str, fixed: dict[str, float]) -> Row:
    best: tuple[float, dict[str, float], float, Ials] | None = None
    for settings in _grid(IALS_GRID):
        started = time.perf_counter()
        config = IalsConfig.model_validate({**fixed, **settings})
        fit = IalsFit(config, data.split.train, data.n_items, Alone(), CPU)
        for epoch in range(fit.max_epochs):
            fit.run_epoch(epoch)
        seconds = time.perf_counter() - started
        ndcg = validate(fit.model(), data.split.validation, k=K)[f"ndcg@{K}"]
        if best is None or ndcg > best[0]:
            best = ndcg, settings, seconds, fit.model()
    assert best is not None
    ndcg, settings, seconds, model = best
    return Row(name, settings, ndcg, seconds, data.measured(model))


def _implicit(data: Data, python: Path, dim: int) -> Row:
    grid = [{"factors": dim, **settings} for settings in _grid(IMPLICIT_GRID)]
    validation, test = data.split.validation, data.split.test
    on_validation, seconds = _run_implicit(data, python, grid, validation.histories)
    ndcg = [data.assessed(found, validation).metrics[f"ndcg@{K}"].value for found in on_validation]
    best = int(np.argmax(ndcg))
    (on_test,), _ = _run_implicit(data, python, [grid[best]], test.histories)
    settings = {key: value for key, value in grid[best].items() if key != "factors"}
    report = data.assessed(on_test, test)
    return Row(f"implicit {IMPLICIT}, {dim}", settings, ndcg[best], float(seconds[best]), report)


def _run_implicit(
    data: Data, python: Path, settings: Sequence[dict[str, float]], asked: Histories
) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """The recommendations of each of the settings, and how long each fit took."""
    with tempfile.TemporaryDirectory() as folder:
        given, grid, found = (Path(folder) / name for name in ("in.npz", "grid.json", "out.npz"))
        np.savez(
            given,
            train_offsets=data.split.train.offsets,
            train_items=data.split.train.items,
            asked_offsets=asked.offsets,
            asked_items=asked.items,
            n_items=data.n_items,
            k=K,
        )
        grid.write_text(json.dumps(list(settings)), encoding="utf-8")
        script = Path(__file__).with_name("implicit_als.py")
        # implicit shares its rows out itself; a threaded BLAS beneath it only slows it down.
        surroundings = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run(
            [str(part) for part in (python, script, given, grid, found)],
            check=True,
            env=surroundings,
        )
        loaded = np.load(found)
        ranked = [loaded[f"top_{n}"].astype(np.int64) for n in range(len(settings))]
        return ranked, loaded["seconds"]


def _grid(values: dict[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    for chosen in product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench quality", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    arguments = parser.parse_args(argv)
    console = Console(highlight=False, width=100)
    rows = []
    started = time.perf_counter()
    for row in compare(arguments.dataset, Settings().state_dir, arguments.dims):
        rows.append(row)
        chosen = ", ".join(f"{key} {value:g}" for key, value in row.settings.items()) or "-"
        console.print(
            f"{row.name:<21} validation NDCG@{K} {row.validation_ndcg:.4f}, "
            f"fit {row.fit_seconds:.1f} s, {chosen}",
            soft_wrap=True,
        )
    console.print(table({row.name: row.test for row in rows}, title="Test"))
    for line in _verdict(rows):
        console.print(line, soft_wrap=True)
    for name, value in _surroundings(arguments, time.perf_counter() - started).items():
        console.print(f"{name:<10} {value}", soft_wrap=True)


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
    """What our choice on validation comes to beside the *best test value* of all of implicit's."""
    theirs = [row.test for row in rows if row.name.startswith("implicit")]
    for family in ("ials, recency 0", "ials"):
        ours = [row for row in rows if row.name.rpartition(",")[0] == family]
        chosen = max(ours, key=lambda row: row.validation_ndcg)
        for metric in (f"recall@{K}", f"ndcg@{K}"):
            best = max(report.metrics[metric].value for report in theirs)
            value = chosen.test.metrics[metric].value
            yield (
                f"{metric:<10} {chosen.name} {value:.4f}, implicit's best {best:.4f}: "
                f"{value / best:.2f} times"
            )


def _surroundings(arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What someone who repeats it needs to know."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    return {
        "command": f"recsys bench quality {' '.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": f"Python {platform.python_version()}, {packages}, implicit {IMPLICIT}",
        "seconds": f"{seconds:.0f}",
    }


if __name__ == "__main__":
    main()
