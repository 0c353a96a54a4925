"""What runs on this machine, as the tests that kill things need to know it."""

from __future__ import annotations

import os
from pathlib import Path


def processes_whose_command_holds(text: str) -> list[int]:
    """The ids of this process's descendants with the text in their command line."""
    return [pid for pid in descendants(os.getpid()) if text in _command(pid)]


def descendants(of: int) -> list[int]:
    """The ids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(_parent(int(entry.name)), []).append(int(entry.name))
    found: list[int] = []
    level = [of]
    while level:
        level = [child for pid in level for child in children.get(pid, [])]
        found += level
    return found


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(status.rpartition(")")[2].split()[1])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
