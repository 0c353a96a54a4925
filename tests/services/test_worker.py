"""Worker processes: they finish what they hold when told to, and never outlive who started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

from infra.redis import connect, connect_async
from infra.settings import Settings
from recsys.data.dataset import ITEMS_SCHEMA, write_dataset
from services import embedding
from services.jobs import Job, Jobs
from services.worker import work
from tests.hashing_encoder import HashingEncoders
from tests.processes import alive

START_S, STOP_S = 120.0, 30.0

WORK = """
import os, sys, time
from pathlib import Path
from infra.settings import Settings
from services import embedding, worker
from tests.hashing_encoder import HashingEncoders

class Slow(HashingEncoders):
    def open(self, space, model, fingerprint):
        print("holds", flush=True)
        time.sleep(1)
        return super().open(space, model, fingerprint)

embedding.CatalogEncoders = lambda device: Slow()
settings = Settings(state_dir=Path(sys.argv[1]), redis_url=None, namespace=sys.argv[3])
worker.work_until_told(settings, sys.argv[2])
"""

PARENT = """
import sys, time
from pathlib import Path
from infra.settings import Settings
from services.worker import local_workers

if __name__ == "__main__":
    settings = Settings(state_dir=Path(sys.argv[1]), redis_url=None, namespace=sys.argv[3])
    with local_workers(settings, sys.argv[2], 1, Path(sys.argv[1]) / "log") as workers:
        print(workers[0].pid, flush=True)
        sys.stdin.read()
"""


def submitted(settings: Settings, url: str, folder: Path) -> Job:
    """A job of three chunks."""
    columns = {name: pa.nulls(3, ITEMS_SCHEMA.field(name).type) for name in ITEMS_SCHEMA.names}
    titles = ["one", "two", "three"]
    columns |= {"item_id": titles, "title": titles, "available": [True] * 3}
    write_dataset(folder, [], pa.table(columns, schema=ITEMS_SCHEMA), "a test")

    async def submit() -> Job:
        redis = connect_async(url)
        try:
            jobs = Jobs(redis, settings, HashingEncoders())
            return await jobs.submit(folder, {"text": "hashing-32"}, chunk=1)
        finally:
            await redis.aclose()

    return asyncio.run(submit())


def looked_at(settings: Settings, url: str, job: str) -> tuple[Job, int]:
    """The job, and how many workers there are."""

    async def look() -> tuple[Job, int]:
        redis = connect_async(url)
        try:
            jobs = Jobs(redis, settings, HashingEncoders())
            return await jobs.get(job), await jobs.ledger.workers()
        finally:
            await redis.aclose()

    return asyncio.run(look())


def test_a_worker_that_is_told_to_stop_finishes_the_chunk_that_it_holds(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    settings = Settings(state_dir=tmp_path / "state", namespace=namespace)
    job = submitted(settings, redis_url, tmp_path / "films")
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(settings.state_dir), redis_url, namespace],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        assert process.stdout.read() == "", "it took another chunk"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    job, workers = looked_at(settings, redis_url, job.id)
    assert (job.embedded, workers) == (1, 0)


def test_a_worker_embeds_what_jobs_ask_for_though_a_root_of_pictures_is_not_mounted(
    redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "CatalogEncoders", lambda device: HashingEncoders())
    settings = Settings(
        state_dir=tmp_path / "state",
        namespace=namespace,
        image_roots=(SecretStr(str(tmp_path / "not-mounted")),),
    )
    job = submitted(settings, redis_url, tmp_path / "films")

    async def work_until_done() -> None:
        stop = asyncio.Event()
        async with asyncio.timeout(START_S), asyncio.TaskGroup() as group:
            group.create_task(work(settings, redis_url, stop))
            while (await asyncio.to_thread(looked_at, settings, redis_url, job.id))[0].embedded < 3:
                await asyncio.sleep(0.05)
            stop.set()

    asyncio.run(work_until_done())


def test_a_local_worker_ends_with_its_parent_though_that_is_killed(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), redis_url, namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_until(lambda: heard_of(redis_url, namespace), START_S)
        assert alive([pid])
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not alive([pid]), STOP_S)


def heard_of(url: str, namespace: str) -> bool:
    with connect(url) as redis:
        return int(redis.zcard(f"{namespace}:workers")) == 1


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
