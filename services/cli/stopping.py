"""How a command that runs until it is stopped is stopped: Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block, and everything that was started in it."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Ctrl-C too: a shell switches it off for what it starts in the background.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_stop() -> None:
    """Sleep until Ctrl-C or SIGTERM."""
    try:
        signal.pause()
    except KeyboardInterrupt:
        return
