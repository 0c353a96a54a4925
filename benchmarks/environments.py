"""Virtual environments of the peers, each its own, so that none decides what another runs on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from infra.errors import RecsysError


class NoEnvironment(RecsysError):
    """A peer's environment could not be made."""


def environment(state: Path, name: str, *requirements: str) -> Path:
    """The Python of an environment that holds the requirements, made at the first call.

    Raises NoEnvironment, which names the log of the attempt.
    """
    folder = state / "environments" / name
    python = folder / "bin" / "python"
    made, log = folder / ".installed", folder.with_name(f"{name}.log")
    if made.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    with log.open("w") as said:
        for command in ((sys.executable, "-m", "venv", "--clear", folder), (*pip, *requirements)):
            told = [str(part) for part in command]
            ended = subprocess.run(told, stdout=said, stderr=said, check=False)
            if ended.returncode != 0:
                raise NoEnvironment(f"its environment cannot be made: {last_line(log)} ({log})")
    made.touch()
    return python


def last_line(log: Path) -> str:
    """The last line that is not empty, which of a traceback is the error."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
