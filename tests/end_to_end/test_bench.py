"""`recsys bench`: a benchmark runs from the command line and says what it measured on what."""

from __future__ import annotations

import subprocess
import sys

from services.cli.bench import BENCHMARKS

RECSYS = [sys.executable, "-m", "services.cli.main"]


def test_a_benchmark_prints_its_command_its_machine_and_its_figures() -> None:
    done = subprocess.run(
        [*RECSYS, "bench", "events", "2000"], capture_output=True, text=True, check=True
    )
    for told in ("recsys bench events 2000", "cores", "2,000 rows", "rows a second"):
        assert told in done.stdout


def test_an_unknown_benchmark_is_told_those_there_are() -> None:
    done = subprocess.run([*RECSYS, "bench", "speed"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"there are {', '.join(BENCHMARKS)}" in done.stderr
