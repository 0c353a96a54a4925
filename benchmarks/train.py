"""How good a model is after how much training: ours and the peers', on one split, in one run.

    recsys bench train DATASET [--models ease implicit ials gru4rec sasrec rectools] [--minutes 30]

Leave one out, full-catalogue ranking, seen items masked. Each contender trains alone, with all
cores, in a process of its own, an epoch at a time; after each epoch it is ranked on the validation
part, and that time is not counted. It ends when validation has not risen for 10 epochs, or its
minutes are over. The test part is ranked once, with the best epoch of the validation part. Peers
run in environments of their own under the state folder.

EASE (Steck, arXiv 1905.03375) is the closed-form baseline, its λ chosen on the validation part.
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
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environments import environment
from benchmarks.plot import quality_against_time
from infra.settings import Settings
from recsys.data.dataset import Dataset
from recsys.data.split import Split, leave_one_out
from recsys.evaluation.protocol import assess
from recsys.evaluation.report import Report
from recsys.models.presets import PRESETS

K = 10
MODELS = ("ease", "implicit", "ials", "gru4rec", "sasrec", "rectools")
PATIENCE = 10


@dataclass(frozen=True)
class Peer:
    """A library that is measured beside ours, in an environment of its own."""

    package: str
    version: str
    beside: tuple[str, ...]
    """What else its environment holds."""

    script: str
    settings: dict[str, Any]
    surroundings: dict[str, str]
    """Environment variables that it is run with."""


PEERS = {
    "implicit": Peer(
        "implicit",
        "0.7.3",
        (),
        "implicit_sweeps.py",
        {"factors": 128, "regularization": 10.0, "alpha": 1.0, "iterations": 15},
        {"OPENBLAS_NUM_THREADS": "1"},  # it shares its rows out itself
    ),
    "rectools": Peer(
        "rectools[torch]",
        "0.19.0",
        ("torch==2.13.0", "numpy<2"),
        "rectools_sasrec.py",
        {
            "n_blocks": 2,
            "n_heads": 1,
            "n_factors": 64,
            "session_max_len": 200,
            "dropout_rate": 0.1,
            "loss": "softmax",
            "lr": 1e-3,
            "batch_size": 128,
        },
        {},
    ),
}
"""implicit: the best on the validation part of MovieLens 1M of those that `recsys bench quality`
tries at its dimension, and its own number of sweeps. RecTools: what the authors of eSASRec
(arXiv 2508.06450) reproduce .3144 R@10 on MovieLens 1M with, those of Klenitskiy & Vasilev (arXiv
2309.07602)."""


@dataclass(frozen=True)
class Epoch:
    """What one more epoch came to."""

    seconds: float
    """Of training, so far."""

    peak_mb: float
    validation: NDArray[np.int64]
    """Int64[B, k]: the best unseen items of the validation's queries."""

    test: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """A contender's curve, and its best epoch on the test part."""

    name: str
    seconds: list[float]
    ndcg: list[float]
    """On the validation part, after each epoch."""

    peak_mb: float
    test: Report

    @property
    def best(self) -> int:
        return int(np.argmax(self.ndcg))

    def seconds_to(self, ndcg: float) -> float | None:
        """Seconds of training until the validation metric was first reached."""
        reached = [s for s, value in zip(self.seconds, self.ndcg, strict=True) if value >= ndcg]
        return reached[0] if reached else None


def run(name: str, epochs: Iterator[Epoch], split: Split, n_items: int, minutes: float) -> Run:
    """Follow a contender until it no longer gets better."""
    popularity = np.bincount(split.train.items, minlength=n_items)

    def measured(found: NDArray[np.int64], part: Any, resamples: int) -> Report:
        protocol = split.protocol
        return assess(
            found, part, protocol=protocol, popularity=popularity, ks=(K,), resamples=resamples
        )

    seconds: list[float] = []
    ndcg: list[float] = []
    test, peak = None, 0.0
    for epoch in epochs:
        seconds.append(epoch.seconds)
        report = measured(epoch.validation, split.validation, 1)
        ndcg.append(report.metrics[f"ndcg@{K}"].value)
        peak = max(peak, epoch.peak_mb)
        best = int(np.argmax(ndcg))
        if best == len(ndcg) - 1:
            test = epoch.test
        print(  # noqa: T201 - a line an epoch, for whoever waits
            f"{name:<9} epoch {len(ndcg):>3}  {epoch.seconds:8.1f} s  "
            f"validation NDCG@{K} {ndcg[-1]:.4f}",
            flush=True,
        )
        if len(ndcg) - 1 - best >= PATIENCE or epoch.seconds > 60 * minutes:
            break
    assert test is not None
    return Run(name, seconds, ndcg, peak, measured(test, split.test, 1000))


@contextmanager
def contender(
    name: str, split: Split, n_items: int, state: Path, preset: str, seed: int
) -> Iterator[Any]:
    """The epochs of a contender, which trains meanwhile in a process of its own and is ended with
    the block."""
    with tempfile.TemporaryDirectory() as folder:
        given, output = Path(folder) / "in.npz", Path(folder) / "out"
        output.mkdir()
        known = split.test.histories
        np.savez(
            given,
            train_offsets=split.train.offsets,
            train_items=split.train.items,
            asked_offsets=known.offsets,
            asked_items=known.items,
            users=split.test.users,
            n_items=n_items,
            k=K,
        )
        settings = Path(folder) / "settings.json"
        surroundings = dict(os.environ)
        if peer := PEERS.get(name):
            surroundings |= peer.surroundings
            label = f"{name}-{peer.version}"
            requirements = (f"{peer.package}=={peer.version}", *peer.beside)
            python = environment(state, label, *requirements)
            script = Path(__file__).with_name(peer.script)
            settings.write_text(json.dumps({**peer.settings, "seed": seed}))
            command: list[Path | str] = [python, script, given, settings, output]
        else:
            settings.write_text(json.dumps({"preset": preset, "seed": seed}))
            command = [sys.executable, "-m", "benchmarks.train_ours", name, given, settings, output]
        log = state / f"bench-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=errors,
                stderr=errors,
                env=surroundings,
            )
            try:
                yield _epochs(process, output, log)
            finally:
                process.kill()
                process.wait()


def _epochs(process: subprocess.Popen[bytes], output: Path, log: Path) -> Iterator[Epoch]:
    number = 0
    while True:
        file = output / f"{number:04d}.npz"
        if file.exists():
            with np.load(file) as found:
                yield Epoch(
                    float(found["seconds"]),
                    float(found["peak_mb"]),
                    found["validation"],
                    found["test"],
                )
            file.unlink()
            number += 1
            continue
        if process.poll() is not None and not file.exists():
            if process.returncode != 0:
                raise RuntimeError(f"it failed: see {log}")
            return
        time.sleep(0.05)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench train", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--minutes", type=float, default=30, help="of training, each")
    parser.add_argument(
        "--preset", default="long-histories", choices=list(PRESETS["sasrec"]), help="of sasrec"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=Path("quality-against-time.svg"))
    options = parser.parse_args(argv)
    state = Settings().state_dir
    dataset = Dataset.load(options.dataset)
    split = leave_one_out(dataset.histories)
    runs = []
    for name in options.models:
        chosen = options.preset, options.seed
        with contender(name, split, len(dataset.items), state, *chosen) as epochs:
            runs.append(run(name, epochs, split, len(dataset.items), options.minutes))
    console = Console(highlight=False, width=100)
    console.print(_table(runs))
    quality_against_time(
        {each.name: (each.seconds, each.ndcg) for each in runs},
        f"validation NDCG@{K}",
        options.plot,
    )
    console.print(f"command   recsys bench train {' '.join(sys.argv[1:])}", soft_wrap=True)
    console.print(
        f"machine   {os.cpu_count()} cores, {platform.machine()}, torch {version('torch')}"
    )
    for name in options.models:
        if peer := PEERS.get(name):
            console.print(f"peer      {name} {peer.version}: {peer.settings}", soft_wrap=True)
    console.print(f"plot      {options.plot}")


def _table(runs: Sequence[Run]) -> Table:
    table = Table(box=box.SIMPLE, caption="leave one out, full ranking, seen items masked")
    columns = (
        "model", "epochs", "s an epoch", "s to best", "validation", "R@10", "NDCG@10", "95 %", "MB",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for each in runs:
        ndcg, recall = each.test.metrics[f"ndcg@{K}"], each.test.metrics[f"recall@{K}"]
        table.add_row(
            each.name,
            str(len(each.ndcg)),
            f"{each.seconds[-1] / len(each.seconds):.1f}",
            f"{each.seconds[each.best]:.0f}",
            f"{each.ndcg[each.best]:.4f}",
            f"{recall.value:.4f}",
            f"{ndcg.value:.4f}",
            f"{ndcg.low:.3f}-{ndcg.high:.3f}",
            f"{each.peak_mb:,.0f}",
        )
    by_name = {each.name: each for each in runs}
    if "rectools" in by_name and "sasrec" in by_name:
        theirs = by_name["rectools"]
        goal, spent = theirs.ndcg[theirs.best], theirs.seconds[theirs.best]
        ours = by_name["sasrec"].seconds_to(goal)
        table.caption = f"{table.caption}\nto RecTools' best validation NDCG@{K} {goal:.4f}: " + (
            f"ours {ours:.0f} s, RecTools {spent:.0f} s, ratio {ours / spent:.2f}"
            if ours is not None
            else "not reached by ours"
        )
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
