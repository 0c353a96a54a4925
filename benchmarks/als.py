"""How fast iALS is trained: seconds to the loss at which implicit's solver ends.

    recsys bench als DATASET [--dims 64 128 256]

implicit's AlternatingLeastSquares with its default solver, conjugate gradients, and its default 15
iterations, from nothing, in an environment of its own; then ours on the same pairs until its loss
is no more than that. Both losses are one function of the factors, implicit's:

    Σ_S α (1 - x·y)²  +  Σ_not S (x·y)²  +  λ (|X|² + |Y|²).

With t = α / (α - 1) and x = √t w, y = √t h it is, but for a constant and the factor α t, ours with
the unobserved weight 1 / (α - 1), the ridge λ / ((α - 1) t) and ν = 0. The clock runs from the
pairs to the factors, data structures included. Each is timed RUNS times, in turn; the least counts.
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
from collections.abc import Sequence
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
from recsys.data.split import leave_one_out
from recsys.models.ials import IalsConfig, IalsFit
from recsys.models.model import Alone

IMPLICIT = "0.7.3"
ALPHA, RIDGE = 3.0, 10.0
"""Near implicit's best on MovieLens 1M's validation part, of those in `quality.py`."""

RUNS = 3
SWEEPS_MAX = 100


class Objective:
    """implicit's loss on these pairs, a pair."""

    def __init__(self, histories: Histories) -> None:
        self._rows, self._columns = histories.rows(), histories.items

    def __call__(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        """Of factors Float32[M, D] and Float32[N, D]."""
        x, y = users.astype(np.float64), items.astype(np.float64)
        scores = np.einsum("ij,ij->i", x[self._rows], y[self._columns])
        everywhere = np.trace((x.T @ x) @ (y.T @ y))
        penalty = RIDGE * ((x**2).sum() + (y**2).sum())
        observed = (ALPHA * (1 - scores) ** 2 - scores**2).sum()
        return float((everywhere + observed + penalty) / len(scores))


def theirs(
    python: Path, folder: Path, dim: int
) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
    """Seconds, and the factors that implicit ends with."""
    settings, found = folder / "settings.json", folder / "found.npz"
    settings.write_text(json.dumps({"factors": dim, "alpha": ALPHA, "regularization": RIDGE}))
    script = Path(__file__).with_name("implicit_factors.py")
    subprocess.run(
        [str(part) for part in (python, script, folder / "in.npz", settings, found)],
        check=True,
        # implicit shares its rows out itself; a threaded BLAS beneath it only slows it down.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    loaded = np.load(found)
    return float(loaded["seconds"]), loaded["users"], loaded["items"]


def ours(
    train: Histories, n_items: int, dim: int, objective: Objective, goal: float
) -> tuple[float | None, int, float]:
    """Seconds until the loss is no more than the goal, if it ever is; the sweeps; the loss."""
    t = ALPHA / (ALPHA - 1)
    config = IalsConfig(
        dim=dim,
        recency=0,
        unobserved_weight=len(train) * n_items / (ALPHA - 1) / len(train.items),
        regularization=RIDGE / ((ALPHA - 1) * t),
        regularization_exponent=0,
    )
    started = time.perf_counter()
    fit = IalsFit(config, train, n_items, Alone(), torch.device("cpu"))
    seconds = time.perf_counter() - started
    loss = float("inf")
    for sweep in range(SWEEPS_MAX):
        started = time.perf_counter()
        fit.run_epoch(sweep)
        seconds += time.perf_counter() - started
        state = fit.state()
        users, items = (state[f"{side}_vectors"].numpy() * t**0.5 for side in ("user", "item"))
        loss = objective(users, items)
        if loss <= goal:
            return seconds, sweep + 1, loss
    return None, SWEEPS_MAX, loss


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench als", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument("--dims", type=int, nargs="+", default=(64, 128, 256))
    options = parser.parse_args(argv)
    torch.set_num_threads(os.cpu_count() or 1)
    dataset = Dataset.load(options.dataset)
    train, n_items = leave_one_out(dataset.histories).train, len(dataset.items)
    objective = Objective(train)
    python = environment(Settings().state_dir, f"implicit-{IMPLICIT}", f"implicit=={IMPLICIT}")
    table = Table(box=box.SIMPLE, caption="seconds to the loss at which implicit ends")
    for column in ("d", "implicit, s", "its loss", "ours, s", "sweeps", "our loss", "ratio"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.savez(folder / "in.npz", offsets=train.offsets, items=train.items, n_items=n_items)
        for dim in options.dims:
            of_theirs, of_ours = [], []
            for _ in range(RUNS):
                seconds, users, items = theirs(python, folder, dim)
                goal = objective(users, items)
                of_theirs.append(seconds)
                reached, sweeps, loss = ours(train, n_items, dim, objective, goal)
                of_ours.append(float("inf") if reached is None else reached)
            table.add_row(
                str(dim),
                f"{min(of_theirs):.2f}",
                f"{goal:.5f}",
                f"{min(of_ours):.2f}",
                str(sweeps),
                f"{loss:.5f}",
                f"{min(of_ours) / min(of_theirs):.2f}",
            )
    console = Console(highlight=False, width=100)
    console.print(table)
    console.print(f"command   recsys bench als {' '.join(sys.argv[1:])}", soft_wrap=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {versions}, implicit {IMPLICIT}"
    console.print(f"machine   {machine}")
    console.print(f"settings  alpha {ALPHA:g}, regularization {RIDGE:g}, 15 iterations of implicit")


if __name__ == "__main__":
    main()
