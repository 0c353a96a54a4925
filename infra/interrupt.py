"""Ctrl-C, kept what it is around libraries that answer it in their own way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt, in the block and after it.

    Ray Train answers SIGINT with its own handler, which ends the workers and then raises
    SystemExit, and which it never takes back: left there, the next Ctrl-C of this process would
    ask a controller to abort that is no more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)
