"""How training scales: the same global batch on 1, 2, 4 .. workers of one core each.

    recsys bench scaling DATASET [--epochs 3] [--preset long-histories]

Trains SASRec with `recsys train`'s function through Ray Train, without dropout, which each worker
would draw by itself, so that all must have one loss. A worker has one core and one thread, so that
W of them have W times the hardware of one. Seconds are the median epoch's after the first,
validation, which is shared out too, included. efficiency = T₁ / (W · T_W).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from recsys.data.dataset import read_info
from recsys.models.presets import PRESETS
from recsys.models.sasrec import SasrecConfig
from recsys.training.fit import FitResult, fit
from recsys.training.local_ray import connected


def trained(workers: int, config: SasrecConfig, dataset: Path, epochs: int) -> FitResult:
    """A fit by so many workers, in a Ray of as many cores."""
    with tempfile.TemporaryDirectory() as folder, connected(cores=workers):
        run = Path(folder) / "run"
        return fit(config, dataset, run_dir=run, workers=workers, gpu=False, epochs=epochs)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench scaling", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--preset", default="long-histories", choices=list(PRESETS["sasrec"]))
    options = parser.parse_args(argv)
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first, which warms up, is not counted")
    config = SasrecConfig.model_validate({**PRESETS["sasrec"][options.preset], "dropout": 0.0})
    cores = os.cpu_count() or 1
    counts = [2**power for power in range(cores.bit_length()) if 2**power <= cores]
    fits = {}
    for workers in counts:
        fits[workers] = trained(workers, config, options.dataset, options.epochs)
        losses = " ".join(f"{report.loss:.4f}" for report in fits[workers].history)
        print(f"{workers} workers: losses {losses}", flush=True)  # noqa: T201
    console = Console(highlight=False, width=100)
    console.print(_table(fits))
    parameters = sum(tensor.size for tensor in fits[1].model.tensors().values())
    info = read_info(options.dataset)
    console.print(
        f"data      {info.users:,} users, {info.items:,} items, {info.events:,} events; "
        f"{config.batch_events:,} events a step, {4 * parameters / 1e6:.1f} MB of gradients summed"
    )
    console.print(f"command   recsys bench scaling {' '.join(sys.argv[1:])}", soft_wrap=True)
    console.print(
        f"machine   {cores} cores, {platform.machine()}, torch {version('torch')}, gloo; "
        f"Ray {version('ray')}"
    )


def _table(fits: dict[int, FitResult]) -> Table:
    table = Table(box=box.SIMPLE)
    for column in ("workers", "s an epoch", "speed-up", "efficiency", "largest difference of loss"):
        table.add_column(column, justify="right")
    seconds = {
        workers: statistics.median(report.seconds for report in each.history[1:])
        for workers, each in fits.items()
    }
    for workers, each in fits.items():
        speed_up = seconds[1] / seconds[workers]
        apart = max(
            abs(one.loss - other.loss)
            for one, other in zip(fits[1].history, each.history, strict=True)
        )
        table.add_row(
            str(workers),
            f"{seconds[workers]:.1f}",
            f"{speed_up:.2f}",
            f"{speed_up / workers:.2f}",
            f"{apart:.1e}",
        )
    return table


if __name__ == "__main__":
    main()
