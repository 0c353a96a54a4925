"""A desk at which embedding jobs are submitted and worked on, over a real Redis, with encoders that
cost nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.encoder import Encoder
from infra.redis import AsyncRedis
from infra.settings import Settings
from recsys.content_bundle import ContentBundle
from recsys.data.dataset import ITEMS_SCHEMA, write_dataset
from recsys.registry import Spaces
from services.embedding import Embedding
from services.jobs import ENDED, Job, Jobs
from services.live_items import LiveItems
from services.worker import Worker
from tests.hashing_encoder import HashingEncoders

TEXT = {"text": "hashing-32"}


def films(folder: Path, titles: Sequence[str], images: Sequence[str | None] | None = None) -> Path:
    """A Dataset of films f0, f1, …; their texts are their titles."""
    n = len(titles)
    columns = {
        "item_id": [f"f{i}" for i in range(n)],
        "title": list(titles),
        "text": [None] * n,
        "image": [None] * n if images is None else list(images),
        "tags": [None] * n,
        "attributes": [None] * n,
        "available": [True] * n,
    }
    write_dataset(folder, [], pa.table(columns, schema=ITEMS_SCHEMA), "a test")
    return folder


class Desk:
    """Jobs in a namespace and a state folder of their own."""

    def __init__(self, redis: AsyncRedis, namespace: str, folder: Path) -> None:
        self.redis = redis
        self.namespace = namespace
        self.folder = folder
        self.settings = Settings(
            state_dir=folder / "state",
            namespace=namespace,
            visibility_timeout_s=1,
            max_deliveries=2,
            max_backlog=4,
        )
        self.encoders = HashingEncoders()
        self.jobs = Jobs(redis, self.settings, self.encoders)
        self.live = LiveItems(redis, namespace, max_backlog=4)
        self.stream = self.jobs.ledger.stream

    @asynccontextmanager
    async def worker(self, encoders: HashingEncoders | None = None) -> AsyncIterator[None]:
        """Runs for the block."""
        ledger, stop = self.jobs.ledger, asyncio.Event()
        embedding = Embedding(ledger, self.live, self.settings, encoders or self.encoders)
        worker = Worker([(ledger.queue(), embedding.answer, 1)], ledger, self.settings)
        running = asyncio.create_task(worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def ended(self, job: Job) -> Job:
        until = time.monotonic() + 30
        while (job := await self.jobs.get(job.id)).state not in ENDED:
            assert time.monotonic() < until, job
            await asyncio.sleep(0.02)
        return job

    async def done(self, data: Path, models: dict[str, str] = TEXT, chunk: int = 3) -> Job:
        """A job that is submitted and worked on until it has ended."""
        async with self.worker():
            return await self.ended(await self.jobs.submit(data, models, chunk=chunk))

    async def emptied(self) -> None:
        """Wait until nothing waits in the stream."""
        while await self.redis.xlen(self.stream):
            await asyncio.sleep(0.02)

    def bundle(self, space: str = "text") -> ContentBundle:
        return Spaces(self.settings.spaces_dir).open(space)

    def vectors(self, space: str = "text") -> NDArray[np.float32]:
        """Float32[N, D], in service; a copy."""
        bundle = self.bundle(space)
        return bundle.vectors.copy()

    def ids(self, space: str = "text") -> list[str]:
        ids: list[str] = self.bundle(space).items.to_arrow().to_pylist()
        return ids


def titles(n: int) -> list[str]:
    """Distinct, and of many lengths, so that chunks are in another order than the catalogue."""
    return [f"film {'x' * (i * 7 % 11)} {i}" for i in range(n)]


class OtherEncoders(HashingEncoders):
    """Of a worker whose files are not the submitter's."""

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        return super().open(space, "hashing-16", fingerprint)


Story = Callable[[Desk], Awaitable[None]]
Play = Callable[[Story], None]
"""Runs a story at a desk."""
