"""Virtual environments of the peers, each its own, so that none decides what another runs on."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path


def environment(state: Path, name: str, *requirements: str) -> Path:
    """The Python of an environment that holds the requirements, made at the first call."""
    folder = state / "environments" / name
    python = folder / "bin" / "python"
    made = folder / ".installed"
    if not made.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        made.touch()
    return python
