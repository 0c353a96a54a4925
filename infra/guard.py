"""Keeps a Redis server alive as long as a process uses it, and no longer.

Run as a process of its own, `python guard.py PARENT FOLDER LOCK COMMAND...`, whose standard input
is a pipe that only the parent holds open. However the parent ends, SIGKILL included, the pipe
closes and the server is told to stop; or, if others have joined it, once the last of them has
ended. A server that is killed meanwhile is started again.
It imports the standard library only: it starts in milliseconds and from any folder.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

RECORD = "server.json"
"""The file that tells others of the server. It is gone before the server is."""

JOINED = "joined"
"""The file on which everyone who joined the server holds a shared lock."""

LOG_FOLDER = "appendonlydir"
"""Where the server keeps its append-only files."""

GOES_ON = b"+"
"""What the guard says to a parent that leaves while others use the server."""

STOP_S = 20.0
"""How long a server may take to write what it has to disk before it is killed."""

LOOK_S = 0.25
"""How often the guard looks whether the server runs and is still used."""

SYNC_S = 1.0
"""How often what the server wrote is forced to disk."""

PAUSE_S = 0.5
"""How long it waits before it starts a killed server again."""


def guard(parent: int, folder: Path, command: Sequence[str], inherited: Sequence[int]) -> int:
    """Run the server until nobody uses it; returns the server's exit status.

    inherited: descriptors that the server gets, so that what they lock stays locked while it runs.
    """
    record = folder / RECORD
    server, synced = _start(command, inherited), time.monotonic()
    with (folder / JOINED).open("w") as joined:
        while not _orphaned(parent) or _used(joined.fileno()):
            if time.monotonic() > synced + SYNC_S:
                _sync(folder / LOG_FOLDER)
                synced = time.monotonic()
            status = server.poll()
            if status is None:
                continue
            if status >= 0:  # it gave up by itself, and would again: its log says why
                record.unlink(missing_ok=True)
                return status
            time.sleep(PAUSE_S)
            server = _start(command, inherited)
        record.unlink(missing_ok=True)
        server.terminate()
        try:
            return server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            return server.wait()


def _start(command: Sequence[str], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=inherited
    )


def _orphaned(parent: int) -> bool:
    """Whether the parent is gone; waits a moment for that.

    A fork of the parent may hold the pipe open after it: hence the second look, at the parent's id.
    """
    readable, _, _ = select.select([sys.stdin], [], [], LOOK_S)
    return bool(readable) or os.getppid() != parent


def _used(joined: int) -> bool:
    """Whether others use the server, without its parent; from the moment that nobody does,
    nobody can join it any more."""
    try:
        fcntl.flock(joined, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(BrokenPipeError, BlockingIOError):  # nobody reads: the parent is gone
            os.write(sys.stdout.fileno(), GOES_ON)
        time.sleep(LOOK_S)
        return True
    return False


def _sync(folder: Path) -> None:
    """Force the append-only files to disk.

    With `appendfsync everysec` the server itself would do so, but it keeps back what it has
    acknowledged while that goes on, and loses it when it is killed.
    """
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # rewritten meanwhile
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def main() -> int:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # meant for the parent: the guard follows that one
    os.set_blocking(sys.stdout.fileno(), False)
    parent, folder, lock, *command = sys.argv[1:]
    return guard(int(parent), Path(folder), command, [int(lock)])


if __name__ == "__main__":
    sys.exit(main())
