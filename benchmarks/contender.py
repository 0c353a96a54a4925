"""Contenders: each trains alone in a process of its own, and gives an epoch at a time.

Peers run in environments of their own under the state folder. `rectools_sasrec.py` says what goes
in and what comes out; `implicit_sweeps.py` and, for all that is ours, `train_ours.py` do the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import train_ours
from benchmarks.environments import environment, last_line
from benchmarks.peers import PEERS
from infra.errors import RecsysError
from recsys.data.split import Split

K = 10
MODELS = ("ease", "implicit", "ials", "gru4rec", "sasrec", "rectools")


class ContenderFailed(RecsysError):
    """A contender's process died before its last epoch."""


@dataclass(frozen=True)
class Epoch:
    """What one more epoch came to."""

    label: str
    """Who it is, with what it is set to that matters most."""

    numbers: str
    """The number format that it trains in."""

    seconds: float
    """Of training, so far."""

    peak_mb: float
    validation: NDArray[np.int64]
    """Int64[B, k]: the best unseen items of the validation's queries."""

    test: NDArray[np.int64]


def settings_of(name: str, preset: str, seed: int) -> dict[str, Any]:
    """What a contender is told, in JSON's types."""
    if name in PEERS:
        return {**PEERS[name].settings[preset], "seed": seed}
    return train_ours.settings_of(name, preset, seed)


@contextmanager
def contender(
    name: str, settings: Mapping[str, Any], split: Split, n_items: int, state: Path
) -> Iterator[Iterator[Epoch]]:
    """The epochs of a contender, which trains meanwhile in a process of its own and is ended with
    the block.

    Raises NoEnvironment; the epochs raise ContenderFailed if the process dies.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, told, output = (Path(folder) / part for part in ("in.npz", "settings.json", "out"))
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
        told.write_text(json.dumps(settings), encoding="utf-8")
        surroundings = dict(os.environ)
        command: list[Path | str] = [sys.executable, "-m", "benchmarks.train_ours", name]
        if peer := PEERS.get(name):
            surroundings |= peer.surroundings
            python = environment(state, f"{name}-{peer.version}", *peer.requirements)
            command = [python, Path(__file__).with_name(peer.script)]
        log = state / f"bench-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as said:
            process = subprocess.Popen(
                [str(part) for part in (*command, given, told, output)],
                stdout=said,
                stderr=said,
                env=surroundings,
            )
            try:
                yield epochs_of(process, output, log)
            finally:
                process.kill()
                process.wait()


def epochs_of(process: subprocess.Popen[bytes], output: Path, log: Path) -> Iterator[Epoch]:
    """What the process writes into `output`, as it comes; raises ContenderFailed if it dies."""
    for number in count():
        file = output / f"{number:04d}.npz"
        while not file.exists():
            # In this order: what is written before the process is over is there after it.
            over = process.poll() is not None
            if (output / "ended").exists() and not file.exists():
                return
            if over and not file.exists():
                # The status alone does not tell: Lightning makes 0 of a SIGTERM.
                status = process.returncode
                how = f"status {status}" if status >= 0 else signal.Signals(-status).name
                raise ContenderFailed(f"its process died with {how}: {last_line(log)} ({log})")
            time.sleep(0.05)
        with np.load(file) as found:
            yield Epoch(
                str(found["label"]),
                str(found["numbers"]),
                float(found["seconds"]),
                float(found["peak_mb"]),
                found["validation"],
                found["test"],
            )
        file.unlink()
