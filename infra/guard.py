"""Keeps a Redis server alive as long as the process that started it, and no longer.

Run as a process of its own, `python guard.py PARENT RECORD LOCK COMMAND...`, whose standard
input is a pipe that only the parent holds open. However the parent ends, SIGKILL included, the
pipe closes and the server is told to stop. A server that is killed meanwhile is started again.
It imports the standard library only: it starts in milliseconds and from any folder.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STOP_S = 20.0
"""How long a server may take to write what it has to disk before it is killed."""

LOOK_S = 0.25
"""How often the guard looks whether the server runs."""

PAUSE_S = 0.5
"""How long it waits before it starts a killed server again."""


def guard(parent: int, record: Path, command: Sequence[str], inherited: Sequence[int]) -> int:
    """Run the server until the parent ends; returns the server's exit status.

    record: the file that tells others of the server; removed before the server is stopped.
    inherited: descriptors that the server gets, so that what they lock stays locked while it runs.
    """
    server = _start(command, inherited)
    while not _orphaned(parent):
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
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited)


def _orphaned(parent: int) -> bool:
    """Whether the parent is gone; waits a moment for that.

    A fork of the parent may hold the pipe open after it: hence the second look, at the parent's id.
    """
    readable, _, _ = select.select([sys.stdin], [], [], LOOK_S)
    return bool(readable) or os.getppid() != parent


def main() -> int:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # meant for the parent: the guard follows that one
    parent, record, lock, *command = sys.argv[1:]
    return guard(int(parent), Path(record), command, [int(lock)])


if __name__ == "__main__":
    sys.exit(main())
