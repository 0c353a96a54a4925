"""Runs: a contender followed an epoch at a time, and what it came to in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.contender import Epoch, K
from infra.errors import RecsysError
from infra.storage import atomic_file
from recsys.data.split import Holdout, Split
from recsys.evaluation.protocol import assess
from recsys.evaluation.report import Report

PATIENCE = 10
"""Epochs without a better validation metric after which a contender ends."""


class OtherRun(RecsysError):
    """A file that holds no run, or one of another command."""


class Run(BaseModel):
    """A contender's curve, and its best epoch on the test part."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    label: str
    """Who it is, as its best epoch was set."""

    numbers: str
    """The number format that it trains in."""

    seconds: list[float]
    """Of training, until the end of each epoch."""

    ndcg: list[float]
    """On the validation part, after each epoch."""

    peak_mb: float
    cut_off: bool
    """Whether its minutes were over before it came to an end by itself: it may still rise."""

    test: Report

    @property
    def best(self) -> int:
        return int(np.argmax(self.ndcg))

    def seconds_to(self, ndcg: float) -> float | None:
        """Seconds of training until the validation metric was first reached."""
        reached = [s for s, value in zip(self.seconds, self.ndcg, strict=True) if value >= ndcg]
        return reached[0] if reached else None


def follow(name: str, epochs: Iterator[Epoch], split: Split, n_items: int, minutes: float) -> Run:
    """Follow a contender until it no longer gets better, has no more epochs, or its minutes are
    over."""
    popularity = np.bincount(split.train.items, minlength=n_items)

    def measured(found: NDArray[np.int64], part: Holdout, resamples: int) -> Report:
        protocol = split.protocol
        return assess(
            found, part, protocol=protocol, popularity=popularity, ks=(K,), resamples=resamples
        )

    seconds: list[float] = []
    ndcg: list[float] = []
    best, peak, cut_off = None, 0.0, False
    for epoch in epochs:
        report = measured(epoch.validation, split.validation, 1)
        seconds.append(epoch.seconds)
        ndcg.append(report.metrics[f"ndcg@{K}"].value)
        peak = max(peak, epoch.peak_mb)
        since = len(ndcg) - 1 - int(np.argmax(ndcg))
        if since == 0:
            best = epoch
        print(  # noqa: T201 - a line an epoch, for whoever waits
            f"{name:<9} epoch {len(ndcg):>3}  {epoch.seconds:8.1f} s  "
            f"validation NDCG@{K} {ndcg[-1]:.4f}",
            flush=True,
        )
        if since >= PATIENCE:
            break
        if epoch.seconds > 60 * minutes:
            cut_off = True
            break
    assert best is not None  # a contender without an epoch has failed
    return Run(
        name=name,
        label=best.label,
        numbers=best.numbers,
        seconds=seconds,
        ndcg=ndcg,
        peak_mb=peak,
        cut_off=cut_off,
        test=measured(best.test, split.test, 1000),
    )


class _Kept(BaseModel):
    """What the file of a run holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    command: dict[str, Any]
    """All that must be the same for the run to be this command's."""

    run: Run


def keep(run: Run, command: dict[str, Any], file: Path) -> None:
    """Write a run down, whole or not at all. command: in JSON's types."""
    with atomic_file(file, "w") as writer:
        writer.write(_Kept(command=command, run=run).model_dump_json(indent=2))


def kept(command: dict[str, Any], file: Path) -> Run | None:
    """The run of this command that the file holds, None if there is no file; raises OtherRun."""
    try:
        found = _Kept.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise OtherRun(f"{file} holds no run: {error}. Delete it") from None
    changes = [
        f"{name} was {found.command.get(name)!r} and is now {command.get(name)!r}"
        for name in sorted(found.command.keys() | command.keys())
        if found.command.get(name) != command.get(name)
    ]
    if changes:
        raise OtherRun(
            f"{file} is of another command and cannot be resumed: {'; '.join(changes)}. Give it "
            "what it was run with, or another --plot, or run all without --resume"
        )
    return found.run
