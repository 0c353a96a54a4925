"""How good a model is after how much training: ours and the peers', on one split, in one run.

    recsys bench train DATASET [--models ease implicit ials gru4rec sasrec rectools] [--minutes 30]
                       [--preset long-histories] [--seed 0] [--plot FILE] [--resume]

Leave one out, full-catalogue ranking, seen items masked. Each contender trains alone, with all
cores, in a process of its own, an epoch at a time; after each epoch it is ranked on the validation
part, and that time is not counted. It ends when validation has not risen for 10 epochs or no epoch
is left, and is cut off when its minutes are over. The test part is measured once, with the best
epoch of the validation part.

The goal is the best validation NDCG@10 of all peers, EASE included. The table shows each
contender's seconds to it, and their ratio to those of the peer that set it. EASE (Steck, arXiv
1905.03375) is the closed-form baseline; each λ is an epoch, so it is chosen on the validation part
too. `peers.py` says what the other peers are set to; the preset is theirs as well as SASRec's.

A contender that fails is named, and the others go on. What has finished is written beside the plot
at once, PLOT.NAME.json each; --resume takes it from there if it is of the same command.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.contender import MODELS, ContenderFailed, K, contender, settings_of
from benchmarks.environments import NoEnvironment
from benchmarks.peers import PEERS
from benchmarks.plot import quality_against_time
from benchmarks.runs import PATIENCE, Run, follow, keep, kept
from benchmarks.runs_table import table
from infra.errors import RecsysError
from infra.settings import Settings
from recsys.data.dataset import Dataset
from recsys.data.split import leave_one_out
from recsys.models.presets import PRESETS


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recsys bench train", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a Dataset folder, of `recsys data import`")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--minutes", type=float, default=30, help="of training, each")
    parser.add_argument(
        "--preset",
        default="long-histories",
        choices=list(PRESETS["sasrec"]),
        help="of sasrec and the peers",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=Path("quality-against-time.svg"))
    parser.add_argument(
        "--resume", action="store_true", help="keep what this command has finished, run the rest"
    )
    options = parser.parse_args(argv)
    dataset = Dataset.load(options.dataset)
    names = list(dict.fromkeys(options.models))
    finished, failed = _runs(names, dataset, options)
    console = Console(highlight=False, width=100)
    console.print(table(finished, failed))
    for name, reason in failed.items():
        console.print(f"failed    {name}: {reason}", soft_wrap=True, markup=False)
    console.print(f"command   recsys bench train {' '.join(sys.argv[1:])}", soft_wrap=True)
    console.print(f"machine   {_machine()}")
    for name in names:
        if peer := PEERS.get(name):
            settings = settings_of(name, options.preset, options.seed)
            console.print(f"peer      {name} {peer.version}: {settings}", soft_wrap=True)
    if not finished:
        raise RecsysError("no contender finished: see above why each failed")
    curves = {each.label: (each.seconds, each.ndcg) for each in finished}
    quality_against_time(curves, f"validation NDCG@{K}", options.plot)
    console.print(f"plot      {options.plot}")


def _runs(
    names: Sequence[str], dataset: Dataset, options: argparse.Namespace
) -> tuple[list[Run], dict[str, str]]:
    """Run the contenders one after the other; returns what finished, and why others failed."""
    split, n_items = leave_one_out(dataset.histories), len(dataset.items)
    state = Settings().state_dir
    commands = {name: _command(name, dataset.fingerprint, options) for name in names}
    files = {name: options.plot.with_suffix(f".{name}.json") for name in names}
    if not options.resume:  # what an earlier command left is not of this one
        for file in files.values():
            file.unlink(missing_ok=True)
    before = {name: kept(commands[name], files[name]) for name in names}
    finished: list[Run] = []
    failed: dict[str, str] = {}
    for name in names:
        if run := before.get(name):
            finished.append(run)
            print(f"{name:<9} finished before: {files[name]}", flush=True)  # noqa: T201
            continue
        settings = settings_of(name, options.preset, options.seed)
        try:
            with contender(name, settings, split, n_items, state) as epochs:
                run = follow(name, epochs, split, n_items, options.minutes)
        except (NoEnvironment, ContenderFailed) as error:
            failed[name] = str(error)
            print(f"{name:<9} failed: {error}", flush=True)  # noqa: T201
            continue
        keep(run, commands[name], files[name])
        finished.append(run)
    return finished, failed


def _command(name: str, fingerprint: str, options: argparse.Namespace) -> dict[str, Any]:
    """All that must be equal for a run to be one of this command, in JSON's types."""
    return {
        **settings_of(name, options.preset, options.seed),
        "data": fingerprint,
        "preset": options.preset,
        "seed": options.seed,
        "minutes": options.minutes,
        "patience": PATIENCE,
        "machine": _machine(),
        "sources": _sources(),
        "environment": list(PEERS[name].requirements) if name in PEERS else [],
    }


def _sources() -> str:
    """A digest of the code that is measured, and measures."""
    root = Path(__file__).parents[1]
    files = sorted(
        file for folder in ("recsys", "benchmarks") for file in root.glob(f"{folder}/**/*.py")
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _machine() -> str:
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores, {gpu}{platform.machine()}, torch {version('torch')}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
