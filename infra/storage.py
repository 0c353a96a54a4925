"""Files that are there whole or not at all: written beside their place, synced, then renamed."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

UNFINISHED = ".unfinished-"
"""What the names of files and folders still being written start with. One that a crash left
behind is in nobody's way and may be deleted."""

_TURN_S = 0.2
"""Seconds between two tries for a lock that another holds."""


@contextmanager
def atomic_file(path: Path, mode: str = "wb", *, permissions: int = 0o666) -> Iterator[IO[Any]]:
    """A file that takes its name, replacing what had it, when the block ends without an error.

    permissions: the file's, less what the umask takes away; 0o600 for what holds a secret.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{UNFINISHED}{path.name}-", dir=path.parent)
    unfinished = Path(name)
    try:
        encoding = None if "b" in mode else "utf-8"
        with os.fdopen(descriptor, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.chmod(permissions & ~_UMASK)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that takes its name, with all that was written into it, when the block ends.

    Raises FileExistsError if something has the name already, before and after the block.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{path.name}-", dir=path.parent))
    try:
        yield unfinished
        _sync_tree(unfinished)
        unfinished.chmod(0o777 & ~_UMASK)
        _rename_new(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync(path.parent)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` for this process alone; raises BlockingIOError if another does.

    The system lets go of it when the process dies, however it does. The file stays.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@asynccontextmanager
async def exclusive_in_turn(path: Path) -> AsyncIterator[None]:
    """As `exclusive`, once nobody else holds it."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive(path))
                break
            except BlockingIOError:
                await asyncio.sleep(_TURN_S)
        yield


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a free name. A rename onto an empty folder would succeed on POSIX."""
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    try:
        source.rename(target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(f"{target} exists already") from error
        raise


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()
"""Read once, at import: reading sets it for a moment, for all threads."""
