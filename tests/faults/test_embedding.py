"""Embedding jobs while workers, Redis and submitters are killed: all is embedded, nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq
import pytest

from encoders.text_input import DEFAULT_TEXT_MODEL
from infra.redis import RedisUnavailable, connect, connect_async, reaching, redis_server
from infra.settings import Settings
from infra.storage import UNFINISHED
from recsys.data.dataset import ITEMS
from recsys.data.synthetic import synthesize
from recsys.registry import Spaces
from services.embedding import CatalogEncoders, Embedding
from services.jobs import Encoders, Job, Jobs, JobState
from services.live_items import LiveItems
from services.worker import Worker
from tests.hashing_encoder import HashingEncoders

T = TypeVar("T")
Popen = tuple[subprocess.Popen[bytes], Path]

ITEMS_IN_ALL = 5_000
CHUNK = 50
MOST_KILLS = 6
PATIENCE_S = 120.0

ENCODERS: dict[str, tuple[str, Callable[[], Encoders]]] = {
    "hashing": ("hashing-32", HashingEncoders),
    "minilm": (DEFAULT_TEXT_MODEL, CatalogEncoders),
}
"""The model and who finds it: one that costs nothing, and the one that people get."""

WORK = """
import sys, time
from functools import reduce
from importlib import import_module
from pathlib import Path
from infra.settings import Settings
from services import embedding, worker
from tests.faults.test_embedding import ENCODERS

class Telling:
    def __init__(self, encoders, pause_s):
        self.fingerprint, self._open, self._pause_s = encoders.fingerprint, encoders.open, pause_s

    def open(self, *asked):
        print("holds", flush=True)
        time.sleep(self._pause_s)
        return self._open(*asked)

def stick(*args, **kwargs):
    print("stuck", flush=True)
    time.sleep(1000)

if len(sys.argv) > 5:  # a function in which this worker is going to be stuck
    module, name = sys.argv[5].split(":")
    *owners, function = name.split(".")
    setattr(reduce(getattr, owners, import_module(module)), function, stick)
_, encoders = ENCODERS[sys.argv[3]]
embedding.CatalogEncoders = lambda device: Telling(encoders(), float(sys.argv[4]))
settings = Settings(state_dir=Path(sys.argv[1]), redis_url=None, visibility_timeout_s=1,
                    max_deliveries=100)
worker.work_until_told(settings, sys.argv[2])
"""

SUBMIT = """
import asyncio, sys
from pathlib import Path
from infra.redis import connect_async
from infra.settings import Settings
from services.jobs import Jobs
from tests.faults.test_embedding import CHUNK, ENCODERS

async def main():
    settings = Settings(state_dir=Path(sys.argv[1]), redis_url=None)
    model, encoders = ENCODERS[sys.argv[4]]
    jobs = Jobs(connect_async(sys.argv[2]), settings, encoders())
    await jobs.submit(Path(sys.argv[3]), {"text": model}, chunk=CHUNK)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue") / "films"
    synthesize(folder, n_users=20, n_items=ITEMS_IN_ALL, pictures=False)
    return folder


@pytest.fixture(scope="module")
def undisturbed(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The checksum of what one worker makes that nobody kills."""

    @cache
    def undisturbed(encoder: str) -> str:
        settings = Settings(state_dir=tmp_path_factory.mktemp("undisturbed"), redis_url=None)
        model, make_encoders = ENCODERS[encoder]

        async def run(url: str) -> None:
            redis, encoders = connect_async(url), make_encoders()
            jobs = Jobs(redis, settings, encoders)
            job = await jobs.submit(catalogue, {"text": model}, chunk=CHUNK)
            live = LiveItems(redis, settings.namespace, max_backlog=settings.max_backlog)
            embedding = Embedding(jobs.ledger, live, settings, encoders)
            worker = Worker([(jobs.ledger.queue(), embedding.answer, 1)], jobs.ledger, settings)
            stop = asyncio.Event()
            working = asyncio.create_task(worker.run(stop))
            while (await jobs.get(job.id)).state != JobState.DONE:
                await asyncio.sleep(0.05)
            stop.set()
            await working
            await redis.aclose()

        with redis_server(settings) as url:
            asyncio.run(run(url))
        return checksum(settings, catalogue)

    return undisturbed


def checksum(settings: Settings, catalogue: Path) -> str:
    """Of the vectors in service by item; every item of the catalogue has one, and only one."""
    bundle = Spaces(settings.spaces_dir).open("text")
    ids = bundle.items.to_arrow().to_pylist()
    assert ids == pq.read_table(catalogue / ITEMS)["item_id"].to_pylist()
    digest = hashlib.sha256(bundle.vectors.tobytes())
    digest.update("\n".join(ids).encode())
    return digest.hexdigest()


class Team:
    """Worker processes on one state folder, and files of what each has begun."""

    def __init__(self, state: Path, url: str, count: int, encoder: str) -> None:
        pause = "0.15" if encoder == "hashing" else "0"  # so that a chunk takes about as long
        self._arguments = [sys.executable, "-c", WORK, str(state), url, encoder, pause]
        self._begun = state / "begun"
        self._begun.mkdir(parents=True)
        self._number = 0
        self.processes = [self._start() for _ in range(count)]

    def _start(self) -> Popen:
        self._number += 1
        path = self._begun / str(self._number)
        with path.open("w") as out:
            process = subprocess.Popen(self._arguments, stdout=out, stderr=subprocess.DEVNULL)
        return process, path

    def begun(self, which: int) -> int:
        """How many chunks the worker has begun to embed."""
        return len(self.processes[which][1].read_text().splitlines())

    def begun_in_all(self) -> int:
        """The same of all workers, those that were killed too."""
        return sum(len(path.read_text().splitlines()) for path in self._begun.iterdir())

    def kill(self, which: int) -> None:
        """SIGKILL one and start another in its place."""
        end(self.processes[which][0])
        self.processes[which] = self._start()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def team(state: Path, url: str, count: int, encoder: str) -> Iterator[Team]:
    started = Team(state, url, count, encoder)
    try:
        yield started
    finally:
        for process, _ in started.processes:
            end(process)


def patiently(do: Callable[[], T]) -> T:
    """What it gives once Redis is there."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return do()
        except RedisUnavailable:
            assert time.monotonic() < until
            time.sleep(0.1)


def job_of(settings: Settings, url: str) -> Job | None:
    """The only job there is; None while there is none."""

    async def look() -> Job | None:
        redis = connect_async(url)
        try:
            jobs = await Jobs(redis, settings, HashingEncoders()).newest()
            assert len(jobs) <= 1
            return jobs[0] if jobs else None
        finally:
            await redis.aclose()

    return patiently(lambda: asyncio.run(look()))


def wait_for_end(settings: Settings, url: str) -> Job:
    until = time.monotonic() + PATIENCE_S
    while (job := job_of(settings, url)) is None or job.state != JobState.DONE:
        assert time.monotonic() < until, job
        assert job is None or not job.failures
        time.sleep(0.1)
    return job


class Written:
    """The parts of the store as they were first seen: what is written again is another file."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.embeddings_dir
        self._seen: dict[str, int] = {}

    def look(self) -> int:
        """Assert that no part was written a second time; how many there are."""
        for path in self._folder.glob("*/*.arrow"):
            inode = path.stat().st_ino
            assert self._seen.setdefault(path.name, inode) == inode, path
        return len(self._seen)


def assert_nothing_is_left(url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    with connect(url) as redis:
        while redis.xlen("recsys:jobs:embed"):  # what ended the job is acknowledged after that
            assert time.monotonic() < until
            time.sleep(0.05)
        assert redis.xlen("recsys:jobs:embed:dead") == 0
        assert redis.xpending("recsys:jobs:embed", "workers")["pending"] == 0


def submit(state: Path, url: str, catalogue: Path, encoder: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", SUBMIT, str(state), url, str(catalogue), encoder]
    return subprocess.Popen(arguments)


@pytest.mark.parametrize("encoder", ["hashing", pytest.param("minilm", marks=pytest.mark.slow)])
def test_killed_workers_and_a_killed_redis_change_nothing_of_the_result(
    tmp_path: Path, catalogue: Path, undisturbed: Callable[[str], str], encoder: str
) -> None:
    rng = random.Random(0)
    settings = Settings(state_dir=tmp_path, redis_url=None)
    with redis_server(settings) as url, team(tmp_path, url, 2, encoder) as workers:
        with submit(tmp_path, url, catalogue, encoder) as submitter:
            assert submitter.wait() == 0
        kills, after, written = 0, rng.randint(3, 7), Written(settings)
        while (job := job_of(settings, url)) is not None and job.embedded < job.contents:
            time.sleep(rng.uniform(0, 0.2))
            written.look()
            victims = [which for which in range(2) if workers.begun(which) >= after]
            if not victims or kills == MOST_KILLS:
                continue
            workers.kill(rng.choice(victims))
            kills, after = kills + 1, rng.randint(3, 7)
            if kills == 2:
                with connect(url) as redis, reaching(redis):
                    os.kill(int(redis.info("server")["process_id"]), 9)
        assert kills > 2, "the job was done before it was disturbed"
        wait_for_end(settings, url)
        assert_nothing_is_left(url)
        chunks = written.look()
        assert chunks == ITEMS_IN_ALL // CHUNK
        # Only what a worker held when it was killed is begun again.
        assert chunks <= workers.begun_in_all() <= chunks + kills
    assert checksum(settings, catalogue) == undisturbed(encoder)


@pytest.mark.parametrize(
    "function",
    [
        "services.sealing:seal_content",
        "services.sealing:Spaces.activate",
        "services.sealing:JobFolder.write_report",
    ],
)
def test_a_worker_that_is_killed_amid_the_sealing_leaves_one_version_in_the_end(
    tmp_path: Path, catalogue: Path, undisturbed: Callable[[str], str], function: str
) -> None:
    settings = Settings(state_dir=tmp_path, redis_url=None)
    arguments = [sys.executable, "-c", WORK, str(tmp_path)]
    with redis_server(settings) as url:
        with submit(tmp_path, url, catalogue, "hashing") as submitter:
            assert submitter.wait() == 0
        with subprocess.Popen(
            [*arguments, url, "hashing", "0", function], stdout=subprocess.PIPE, text=True
        ) as stuck:
            assert stuck.stdout is not None
            assert "stuck\n" in stuck.stdout
            stuck.kill()
        with team(tmp_path, url, 1, "hashing") as workers:
            wait_for_end(settings, url)
            assert_nothing_is_left(url)
            assert workers.begun_in_all() == 0, "it was all embedded"
    assert Spaces(settings.spaces_dir).versions("text") == ["v0001"]
    assert checksum(settings, catalogue) == undisturbed("hashing")


def test_a_submitter_that_is_killed_again_and_again_submits_one_job_in_the_end(
    tmp_path: Path, catalogue: Path, undisturbed: Callable[[str], str]
) -> None:
    settings = Settings(state_dir=tmp_path, redis_url=None)
    with redis_server(settings) as url, team(tmp_path, url, 1, "hashing"):
        with connect(url) as redis:
            moments: list[Callable[[], bool]] = [
                lambda: any(settings.jobs_dir.glob(f"{UNFINISHED}*")),
                lambda: any(settings.jobs_dir.glob("[0-9]*")),
                lambda: bool(redis.xlen("recsys:jobs:embed")),
            ]
            for moment in moments:
                with submit(tmp_path, url, catalogue, "hashing") as submitter:
                    while not moment():
                        assert submitter.poll() is None
                    submitter.kill()
        with submit(tmp_path, url, catalogue, "hashing") as submitter:
            assert submitter.wait() == 0
        wait_for_end(settings, url)
        assert_nothing_is_left(url)
    assert checksum(settings, catalogue) == undisturbed("hashing")
