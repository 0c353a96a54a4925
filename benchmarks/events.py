"""How fast events are imported, and in how much memory.

    recsys bench events [ROWS]

writes a CSV file of MovieLens' shape (20 million ratings unless told, by 140,000 users of 27,000
films) into a temporary folder and imports it with `recsys data import`'s function in a process of
its own, whose largest resident set is reported.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

CHUNK = 2_000_000

IMPORT = """
import sys
from pathlib import Path
from recsys.data.readers import import_dataset
print(import_dataset(Path(sys.argv[1]), Path(sys.argv[2])).model_dump_json())
"""


def write_events(path: Path, n_rows: int) -> None:
    """Rows of user_id, item_id, value and timestamp: each user's together, in no order of time."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [
            ("user_id", pa.int32()),
            ("item_id", pa.int32()),
            ("value", pa.float32()),
            ("timestamp", pa.int32()),
        ]
    )
    with pa.csv.CSVWriter(path, schema) as writer:
        for start in range(0, n_rows, CHUNK):
            n = min(CHUNK, n_rows - start)
            users = (np.arange(start, start + n) * 140_000 // n_rows).astype(np.int32)
            columns = {
                "user_id": users + 1,
                "item_id": (27_000 * rng.random(n) ** 3).astype(np.int32) + 1,
                "value": (rng.integers(1, 11, n) / 2).astype(np.float32),
                "timestamp": rng.integers(800_000_000, 1_500_000_000, n, dtype=np.int32),
            }
            writer.write_table(pa.table(columns, schema=schema))


def main() -> None:
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder) / "events.csv", Path(folder) / "dataset"
        write_events(source, n_rows)
        size = source.stat().st_size
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORT, str(source), str(destination)], check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    python = platform.python_version()
    report = {
        "command": f"recsys bench events {n_rows}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {python}",
        "file": f"{size / 2**20:,.0f} MiB, {n_rows:,} rows",
        "seconds": f"{seconds:.1f}",
        "rows a second": f"{n_rows / seconds:,.0f}",
        "largest resident set": f"{peak:,.0f} MiB",
    }
    for name, value in report.items():
        sys.stdout.write(f"{name + ':':<22}{value}\n")


if __name__ == "__main__":
    main()
