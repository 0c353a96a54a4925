"""What every test may ask for."""

from __future__ import annotations

import os
import signal
import uuid

# The tests' matrices are small: one thread is faster than several, and leaves room for workers.
# It is read when the libraries below are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from infra.redis import connect_async, redis_server
from infra.settings import Settings
from recsys.data.dataset import EVENTS_SCHEMA, write_dataset
from recsys.registry import Registry
from services.cluster import cluster
from tests.desk import Desk, Play, Story
from tests.planted import Planted, fill, plant
from tests.shop import Shop

# A shell switches Ctrl-C off for what it starts in the background, and processes hand that on:
# the tests that press it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A law holds on a busy machine too: how long an example takes says nothing about it.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

PROJECT = Path(__file__).parents[1]

N_ITEMS, N_USERS, LENGTH = 40, 200, 16


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: `RECSYS_SHARED_DATA`, or ../shared/data beside the project.

    Its terms forbid to carry the data along. Who has none is told what was not tested; who says
    where it is, as continuous integration does, gets a failure if it is not there.
    """
    named = os.environ.get("RECSYS_SHARED_DATA")
    folder = Path(named) if named else PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        missing = (
            f"the real data sets are not in {folder}: set RECSYS_SHARED_DATA to the folder that "
            "holds ml-100k/, ml-1m/ and ml-latest-small/"
        )
        if named:
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return folder


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 users who walk around a ring of 40 items, each from a place of their own."""
    rng = np.random.default_rng(0)
    starts = np.repeat(rng.integers(N_ITEMS, size=N_USERS), LENGTH)
    items = (starts + np.tile(np.arange(LENGTH), N_USERS)) % N_ITEMS
    n = N_USERS * LENGTH
    events = pa.table(
        {
            "user_id": [f"u{user}" for user in np.repeat(np.arange(N_USERS), LENGTH)],
            "item_id": [f"i{item}" for item in items],
            "timestamp": pa.array(np.tile(np.arange(LENGTH), N_USERS)).cast(
                pa.timestamp("ms", tz="UTC")
            ),
            "event": ["view"] * n,
            "value": pa.array(np.ones(n, np.float32)),
        },
        schema=EVENTS_SCHEMA,
    )
    folder = tmp_path_factory.mktemp("data") / "ring"
    write_dataset(folder, [events], None, "a ring")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    with cluster():
        yield


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One private Redis server for all tests; each has a namespace of its own."""
    state = tmp_path_factory.mktemp("redis")
    with redis_server(Settings(redis_url=None, state_dir=state)) as url:
        yield url


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def planted() -> Planted:
    return plant()


@pytest.fixture(scope="session")
def registry(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Every kind of model, active under its kind's name. Not to be changed."""
    return fill(Registry(tmp_path_factory.mktemp("models")), planted)


@pytest.fixture
def play(redis_url: str, namespace: str, tmp_path: Path) -> Play:
    """Runs a story at a desk of embedding jobs."""

    def play(story: Story) -> None:
        async def run() -> None:
            redis = connect_async(redis_url)
            try:
                await asyncio.wait_for(story(Desk(redis, namespace, tmp_path)), 120)
            finally:
                await redis.aclose()

        asyncio.run(run())

    return play


@pytest.fixture
def shop(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(redis_url, namespace, tmp_path)
    yield shop
    shop.close()
