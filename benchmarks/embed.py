"""How fast texts are embedded through the queue, and in how much memory.

    recsys bench embed [--texts 20000] [--rounds 2] [--rows 100000 1000000]

Texts: synopses of made-up films, all of them different, by MiniLM on all cores of this machine.
Each round measures, one after the other, SentenceTransformer.encode alone, in float32 and in the
number format that our encoder chooses here, and a job from its submission until its vectors are in
service, by a worker that is there already. Models are loaded and warm before a clock starts.
CPU seconds are there for machines that have other things to do: of the process that encodes, or of
all that have a part in the job.

Memory: the largest resident sets of the process that submits so many rows of Parquet, and of the
worker that embeds them until the last chunk, with an encoder that costs nothing. The sealing after
that builds the index, which holds all vectors, as whoever searches them does.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from encoders.encoder import Encoded

if TYPE_CHECKING:
    from services.jobs import Encoders

WARM_UP = 256
"""Texts that are encoded before a clock starts."""

DIM = 32
"""Of the encoder that costs nothing."""

REDIS_URL = "RECSYS_REDIS_URL"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=20_000, help="to embed; none at 0")
    parser.add_argument("--rounds", type=int, default=2, help="in which that is measured")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    options = parser.parse_args()
    console = Console()
    console.print(f"$ recsys bench embed {' '.join(sys.argv[1:])}")
    console.print(_machine())
    with tempfile.TemporaryDirectory() as folder:
        if options.texts:
            console.print(throughput(Path(folder), options.texts, options.rounds))
        if options.rows:
            console.print(memory(Path(folder), options.rows))


def throughput(folder: Path, n_texts: int, rounds: int) -> Table:
    """Texts a second, alone and through the queue."""
    data, warm = folder / "films", folder / "warm"
    texts = _films(data, n_texts)
    _films(warm, WARM_UP)
    table = Table(box=box.SIMPLE, title=f"{len(texts):,} texts, {np.mean([*map(len, texts)]):.0f} "
                  "characters on average", title_justify="left")  # fmt: skip
    for column in ("", *(f"round {i + 1}, texts/s" for i in range(rounds)), "median", "CPU s"):
        table.add_column(column, justify="right" if column else "left")
    rates: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        found = {
            "alone, float32": _alone(data, "float32"),
            "alone, in our format": _alone(data, "ours"),
            "through the queue": _queued(folder / f"state{number}", data, warm),
        }
        for name, (took, cpu) in found.items():
            rates.setdefault(name, []).append(len(texts) / took)
            seconds.setdefault(name, []).append(cpu)
    medians = {name: float(np.median(each)) for name, each in rates.items()}
    for name, each in rates.items():
        shown = [f"{rate:,.1f}" for rate in (*each, medians[name])]
        table.add_row(name, *shown, f"{np.median(seconds[name]):,.1f}")
    queued = list(rates.values())[-1]
    queued_cpu = np.median(list(seconds.values())[-1])
    for name in list(rates)[:-1]:
        ratios = [ours / theirs for ours, theirs in zip(queued, rates[name], strict=True)]
        cpu = np.median(seconds[name]) / queued_cpu
        shown = [f"{ratio:.3f}" for ratio in (*ratios, float(np.median(ratios)))]
        table.add_row(f"queue / {name}", *shown, f"{cpu:.3f}")
    return table


def _films(folder: Path, n: int) -> list[str]:
    """A Dataset of films whose texts are all different, and those texts."""
    from encoders.item_text import item_texts
    from recsys.data.dataset import ITEMS
    from recsys.data.synthetic import synthesize

    drawn = folder.with_name(f"{folder.name}-drawn")
    synthesize(drawn, n_users=1, n_items=2 * n, pictures=False, seed=n)
    items = pq.read_table(drawn / ITEMS)
    texts = item_texts(items)
    _, first = np.unique(texts.to_numpy(zero_copy_only=False), return_index=True)
    rows = pa.array(np.sort(first)[:n])
    _write_dataset(folder, items.take(rows))
    chosen: list[str] = texts.take(rows).to_pylist()
    return chosen


def _write_dataset(folder: Path, items: pa.Table) -> None:
    from recsys.data.dataset import write_dataset

    write_dataset(folder, [], items, "recsys bench embed")


def _alone(data: Path, numbers: str) -> tuple[float, float]:
    """Seconds, and CPU seconds, of encode in a process of its own."""
    code = "from benchmarks.embed import encode_alone; encode_alone()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), numbers],
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    took, cpu = json.loads(done.stdout.splitlines()[-1])
    return took, cpu


def encode_alone() -> None:
    """The process that has no queue."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    from encoders.batches import inference_dtype
    from encoders.checkpoint import find
    from encoders.item_text import item_texts
    from encoders.text_input import DEFAULT_TEXT_MODEL
    from recsys.data.dataset import ITEMS

    data, numbers = Path(sys.argv[1]), sys.argv[2]
    texts = item_texts(pq.read_table(data / ITEMS)).to_pylist()
    dtype = torch.float32 if numbers == "float32" else inference_dtype(torch.device("cpu"))
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = SentenceTransformer(
        str(find(DEFAULT_TEXT_MODEL).folder), device="cpu", model_kwargs={"dtype": dtype}
    )
    model.encode(texts[:WARM_UP])
    began, cpu = time.perf_counter(), time.process_time()
    model.encode(texts)
    print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]))  # noqa: T201


def _queued(state: Path, data: Path, warm: Path) -> tuple[float, float]:
    """Seconds of a job, and the CPU seconds of all who have a part in it: the worker, who submits,
    and Redis."""
    from infra.redis import connect, redis_server
    from infra.settings import Settings
    from services.worker import local_workers

    settings = Settings(state_dir=state, redis_url=None)
    with (
        redis_server(settings) as url,
        local_workers(settings, url, 1, state / "log") as (worker,),
    ):
        asyncio.run(_job(settings, url, warm))
        assert worker.pid is not None
        with connect(url) as redis:
            server = int(redis.info("server")["process_id"])
        pids = (worker.pid, os.getpid(), server)
        cpu, began = sum(map(_cpu_seconds, pids)), time.perf_counter()
        asyncio.run(_job(settings, url, data))
        return time.perf_counter() - began, sum(map(_cpu_seconds, pids)) - cpu


async def _job(settings: Any, url: str, data: Path) -> None:
    """Submit a job and wait until it is done."""
    from encoders.text_input import DEFAULT_TEXT_MODEL
    from infra.redis import connect_async
    from services.embedding import CatalogEncoders
    from services.jobs import ENDED, Jobs, JobState

    redis = connect_async(url)
    try:
        jobs = Jobs(redis, settings, CatalogEncoders())
        job = await jobs.submit(data, {"text": DEFAULT_TEXT_MODEL})
        while job.state not in ENDED:
            await asyncio.sleep(0.05)
            job = await jobs.get(job.id)
    finally:
        await redis.aclose()
    if job.state != JobState.DONE:
        raise RuntimeError(f"the job ended as {job.state}: {job.failures}")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    code = f"from benchmarks.embed import {function}; {function}()"
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
    from recsys.data.dataset import ITEMS_SCHEMA

    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(0)
    words = pa.array([f"word{i}" for i in range(10_000)])
    drawn = words.take(pa.array(rng.integers(len(words), size=60 * n)))
    texts = pc.binary_join(pa.ListArray.from_arrays(np.arange(0, 60 * n + 1, 60), drawn), " ")
    ids = pa.array(np.arange(n)).cast(pa.string())
    nulls = {name: pa.nulls(n, ITEMS_SCHEMA.field(name).type) for name in ITEMS_SCHEMA.names}
    columns = nulls | {"item_id": ids, "title": ids, "text": texts, "available": [True] * n}
    _write_dataset(folder, pa.table(columns, schema=ITEMS_SCHEMA))
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

    def open(self, space: str, model: str) -> DigestEncoder:
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


def _machine() -> str:
    packages = ("sentence-transformers", "torch", "transformers", "pyarrow", "redis")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, load {load:.1f} before the start, "
        f"Python {sys.version.split()[0]}, {versions}"
    )


if __name__ == "__main__":
    main()
