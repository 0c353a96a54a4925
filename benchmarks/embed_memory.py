"""In how much memory texts are embedded through the queue, by the number of rows.

The largest resident sets of the process that submits so many rows of Parquet, and of the worker
that embeds them until the last chunk, with an encoder that costs nothing. The sealing after that
builds the index, which holds all vectors, as whoever searches them does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.table import Table

from encoders.encoder import Encoded

if TYPE_CHECKING:
    from services.jobs import Encoders

DIM = 32
"""Of the encoder that costs nothing."""

REDIS_URL = "RECSYS_REDIS_URL"


def memory(folder: Path, rows: Sequence[int]) -> Table:
    """The largest resident sets of a submitter and a worker, by the number of rows."""
    table = Table(box=box.SIMPLE)
    for column in ("rows", "file", "submitter", "worker", "rows/s submitted", "rows/s embedded"):
        table.add_column(column, justify="right")
    for row in _measured(folder, rows):
        table.add_row(*row)
    return table


def _measured(folder: Path, rows: Sequence[int]) -> Iterator[list[str]]:
    from infra.redis import redis_server
    from infra.settings import Settings

    for n in rows:
        state, data = folder / f"memory{n}", folder / f"rows{n}"
        _process("write_rows", str(data), str(n))
        size = (data / "items.parquet").stat().st_size
        with redis_server(Settings(state_dir=state, redis_url=None)) as url:
            submitter, submitting_s = _process("submit_rows", str(state), str(data), url=url)
            worker, working_s = _process("embed_rows", str(state), url=url)
        yield [
            *(f"{n:,}", f"{size / 2**20:,.0f} MiB"),
            *(f"{submitter / 2**20:,.0f} MiB", f"{worker / 2**20:,.0f} MiB"),
            *(f"{n / submitting_s:,.0f}", f"{n / working_s:,.0f}"),
        ]


def _process(function: str, *arguments: str, url: str = "") -> tuple[int, float]:
    """Run a function of this module in a process of its own; its largest resident set in bytes,
    and the seconds that it says it took."""
    code = f"from benchmarks.embed_memory import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, REDIS_URL: url},
    )  # fmt: skip
    peak, took = json.loads(done.stdout.splitlines()[-1])
    return peak, took


def _report(took: float) -> None:
    # Not ru_maxrss, which begins at what the parent had when it was forked.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = 1024 * int(status["VmHWM"].split()[0])
    print(json.dumps([peak, took]), flush=True)  # noqa: T201 - the parent reads it


def write_rows() -> None:
    """A Dataset of so many rows with a text of 60 words each, in one row group, as imports make."""
    from recsys.data.dataset import ITEMS_SCHEMA, write_dataset

    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(0)
    words = pa.array([f"word{i}" for i in range(10_000)])
    drawn = words.take(pa.array(rng.integers(len(words), size=60 * n)))
    texts = pc.binary_join(pa.ListArray.from_arrays(np.arange(0, 60 * n + 1, 60), drawn), " ")
    ids = pa.array(np.arange(n)).cast(pa.string())
    nulls = {name: pa.nulls(n, ITEMS_SCHEMA.field(name).type) for name in ITEMS_SCHEMA.names}
    columns = nulls | {"item_id": ids, "title": ids, "text": texts, "available": [True] * n}
    write_dataset(folder, [], pa.table(columns, schema=ITEMS_SCHEMA), "recsys bench embed")
    _report(0)


class DigestEncoder:
    """An `Encoder[str]` that costs nothing: the bytes of a text's digest are its vector."""

    space, name, dim, fingerprint = "text", "digest", DIM, "digest"

    def encode(self, contents: Sequence[str]) -> Encoded:
        digests = b"".join(hashlib.sha256(text.encode()).digest() for text in contents)
        vectors = np.frombuffer(digests, np.uint8).reshape(-1, DIM).astype(np.float32) - 127.5
        return Encoded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class DigestEncoders:
    """Finds it."""

    def open(self, space: str, model: str, fingerprint: str) -> DigestEncoder:
        return DigestEncoder()

    def fingerprint(self, space: str, model: str) -> str:
        return DigestEncoder.fingerprint


def submit_rows() -> None:
    """The process that submits."""
    from infra.redis import connect_async
    from infra.settings import load_settings
    from services.jobs import Jobs

    encoders: Encoders = DigestEncoders()
    state, data = Path(sys.argv[1]), Path(sys.argv[2])

    async def submit() -> None:
        redis = connect_async(os.environ[REDIS_URL])
        await Jobs(redis, load_settings(state_dir=state), encoders).submit(data, {"text": "digest"})
        await redis.aclose()

    began = time.perf_counter()
    asyncio.run(submit())
    _report(time.perf_counter() - began)


def embed_rows() -> None:
    """The process that embeds, until it is asked to seal."""
    from infra.redis import connect_async
    from infra.settings import load_settings
    from services.embedding import Embedding
    from services.job_ledger import Ledger, Task
    from services.live_items import LiveItems
    from services.worker import Worker

    settings = load_settings(state_dir=Path(sys.argv[1]))
    began = time.perf_counter()

    async def work() -> None:
        redis, stop = connect_async(os.environ[REDIS_URL]), asyncio.Event()
        ledger = Ledger(redis, settings)
        live = LiveItems(redis, settings.namespace, max_backlog=settings.max_backlog)
        embedding = Embedding(ledger, live, settings, DigestEncoders())

        async def answer(bodies: Sequence[bytes]) -> list[None]:
            if any(Task.load(body).chunk is None for body in bodies):
                stop.set()
                return [None] * len(bodies)
            return await embedding.answer(bodies)

        await Worker([(ledger.queue(), answer, 1)], ledger, settings).run(stop)
        await redis.aclose()

    asyncio.run(work())
    _report(time.perf_counter() - began)
