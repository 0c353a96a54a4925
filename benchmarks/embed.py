"""How fast texts are embedded through the queue, and in how much memory.

    recsys bench embed [--texts 20000] [--rounds 2] [--rows 100000 1000000]

Texts: synopses of made-up films, all of them different, by MiniLM on all cores of this machine.
Each round measures, one after the other, SentenceTransformer.encode alone, in float32 and in the
number format that our encoder chooses here, and a job from its submission until its vectors are in
service, by a worker that is there already. Models are loaded and warm before a clock starts.
CPU seconds are there for machines that have other things to do: of the process that encodes, or of
all that have a part in the job.

Memory is measured by `embed_memory`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.embed_memory import memory

WARM_UP = 256
"""Texts that are encoded before a clock starts."""


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
    from recsys.data.dataset import ITEMS, write_dataset
    from recsys.data.synthetic import synthesize

    drawn = folder.with_name(f"{folder.name}-drawn")
    synthesize(drawn, n_users=1, n_items=2 * n, pictures=False, seed=n)
    items = pq.read_table(drawn / ITEMS)
    texts = item_texts(items)
    _, first = np.unique(texts.to_numpy(zero_copy_only=False), return_index=True)
    rows = pa.array(np.sort(first)[:n])
    write_dataset(folder, [], items.take(rows), "recsys bench embed")
    chosen: list[str] = texts.take(rows).to_pylist()
    return chosen


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
