"""Files that are there and cannot be read for now, as when a disk or a network does not answer."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def withheld(path: Path) -> Iterator[None]:
    """For the block, to open the file without waiting fails with EAGAIN: it is leased, as file
    servers do."""
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)  # tells of whoever opens it
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(file)
        signal.signal(signal.SIGIO, handler)
