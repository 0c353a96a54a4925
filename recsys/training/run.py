"""The folder of a training run: what it is a run of, its checkpoints, its epochs' reports.

run.json       what is fitted to what; a resumed run must be the same
epochs.jsonl   every epoch's report, as it ends
ray/           Ray Train's checkpoints
in-process/    the checkpoints of a run without workers
start/         the fitted model that it began from, if any
refit/         the run that learns the validation part too, once this one has chosen its epochs
refused.txt    why the workers cannot train on this data
lock           held by the process whose run it is
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import RecsysError
from infra.storage import UNFINISHED, atomic_file, exclusive
from recsys.training.checkpoint import EpochReport

IDENTITY, REPORTS, REFUSED, LOCK = "run.json", "epochs.jsonl", "refused.txt", "lock"
RAY, IN_PROCESS, START, REFIT = "ray", "in-process", "start", "refit"
_OURS = {IDENTITY, REPORTS, REFUSED, LOCK, RAY, IN_PROCESS, START, REFIT}


class BadRun(RecsysError):
    """A folder that is not that of this run."""


class Identity(BaseModel):
    """What a run is a run of."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    kind: str
    """The model's kind."""

    config: dict[str, Any]
    """Its hyper-parameters."""

    data: str
    """The fingerprint of the Dataset."""

    protocol: str
    """How the Dataset is split."""

    in_process: bool
    """Whether it trains without workers, which keeps its checkpoints in another place."""

    start: str | None = None
    """The name of the fitted model that it began from; None for a run from nothing."""

    learn_validation: bool = False
    """Whether it learns the validation part too, and chooses nothing by it."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep the folder for this process's run; raises BadRun if another's is under way in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / LOCK))
        except BlockingIOError:
            raise BadRun(
                f"another run is under way in {folder}: wait for it, or give this one another name"
            ) from None
        yield


def prepare(folder: Path, identity: Identity, *, resume: bool) -> None:
    """Make a folder that is `held` ready: empty, or with `resume` as the same run left it.

    Raises BadRun, and deletes nothing, if anything but a run is in the folder, or if the run to
    resume is of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK)
    strangers = [name for name in names if name not in _OURS and not name.startswith(UNFINISHED)]
    if strangers:
        raise BadRun(
            f"{folder} holds {strangers[0]!r}, which no training run has written: give the run a "
            "folder of its own"
        )
    if resume and names:
        _check_same(_identity(folder), identity, folder)
        (folder / REFUSED).unlink(missing_ok=True)
        with atomic_file(folder / REPORTS) as file:  # without what a kill cut off
            file.write("".join(_reports(folder)).encode())
        return
    for name in names:
        entry = folder / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    with atomic_file(folder / IDENTITY) as file:
        file.write(identity.model_dump_json().encode())


def refuse(folder: Path, reason: str) -> None:
    """Leave word to the process that started the workers."""
    with atomic_file(folder / REFUSED) as file:
        file.write(reason.encode())


def refusal(folder: Path) -> str | None:
    """The word that a worker left."""
    try:
        return (folder / REFUSED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def seconds_spent(folder: Path) -> float:
    """The seconds of all epochs that ended in this run so far."""
    return sum(EpochReport.model_validate_json(line).seconds for line in _reports(folder))


def _reports(folder: Path) -> list[str]:
    """The lines that are whole."""
    try:
        text = (folder / REPORTS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _identity(folder: Path) -> Identity:
    try:
        return Identity.model_validate_json((folder / IDENTITY).read_bytes())
    except (FileNotFoundError, ValidationError):
        raise BadRun(
            f"{folder / IDENTITY} cannot be read, so there is no telling what the run was of: "
            "train without --resume"
        ) from None


def _check_same(before: Identity, now: Identity, folder: Path) -> None:
    changes = [
        f"{name} was {was!r} and is now {would!r}"
        for name, was, would in _compared(before, now)
        if was != would
    ]
    if changes:
        raise BadRun(
            f"the run in {folder} cannot be resumed as another: {'; '.join(changes)}. Give it what "
            "it was started with, or train without --resume"
        )


def _compared(before: Identity, now: Identity) -> list[tuple[str, Any, Any]]:
    fields = [name for name in Identity.model_fields if name != "config"]
    parts = [(name, getattr(before, name), getattr(now, name)) for name in fields]
    keys = before.config.keys() | now.config.keys()
    return parts + [(key, before.config.get(key), now.config.get(key)) for key in sorted(keys)]
