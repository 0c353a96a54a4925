"""Follow a file: hear of every line that another process adds to it, as it is added."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def followed(path: Path, on_line: Callable[[str], None]) -> Iterator[None]:
    """Within the block, call `on_line`, in a thread of its own, for every whole line that is added
    to the file, which is made if it is not there; all of them have been told when it ends."""
    ended = threading.Event()
    path.touch()
    before = path.stat().st_size

    def follow() -> None:
        with path.open(encoding="utf-8") as file:
            file.seek(before)
            pending = ""
            while True:
                last = ended.is_set()
                pending += file.read()
                *lines, pending = pending.split("\n")
                for line in lines:
                    on_line(line)
                if last:
                    return
                ended.wait(0.2)

    thread = threading.Thread(target=follow, name=f"follow {path.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
