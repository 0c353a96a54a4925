"""A worker: a process that reads several queues at once until it is told to stop.

It may be killed at any moment: what it held goes to another. Told to stop, by SIGTERM or Ctrl-C,
it finishes what it holds first.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from infra.queue import UNBOUNDED, Queue
from infra.redis import RedisUnavailable, connect_async
from infra.roots import LazyRoots
from infra.settings import Settings
from recsys.registry import Spaces
from services.consumer import Answer, Consumer
from services.job_ledger import Ledger
from services.live_items import LiveItems

logger = logging.getLogger(__name__)

BACK_OFF_S = 1.0
"""Seconds until what failed is tried again; twice as many each time."""

BEAT_S = 4.0
"""Seconds between two signs of life."""

LIVE_AT_ONCE = 8
"""The most messages about live items that are answered together."""

STOP_S = 60.0
"""How long a local worker may take to finish what it holds before it is killed."""


class Worker:
    """Answers the messages of several queues."""

    def __init__(
        self, duties: Sequence[tuple[Queue, Answer, int]], ledger: Ledger, settings: Settings
    ) -> None:
        """duties: queues, who answers their messages, and how many messages at a time."""
        self._ledger = ledger
        self._consumers = [
            Consumer(
                queue,
                answer,
                micro_batch=count,
                visibility_timeout_s=settings.visibility_timeout_s,
                back_off_s=BACK_OFF_S,
            )
            for queue, answer, count in duties
        ]
        self.name = self._consumers[0].name

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and what was read by then is done."""
        async with self._heard_of(), asyncio.TaskGroup() as group:
            for consumer in self._consumers:
                group.create_task(consumer.run(stop))

    @asynccontextmanager
    async def _heard_of(self) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                try:
                    await self._ledger.attend(self.name)
                except RedisUnavailable as error:
                    logger.warning("%s", error)
                await asyncio.sleep(BEAT_S)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            try:
                await self._ledger.leave(self.name)
            except RedisUnavailable as error:
                logger.warning("%s", error)


async def work(
    settings: Settings, redis_url: str, stop: asyncio.Event, *, device: str | None = None
) -> None:
    """Do what workers do until `stop` is set: embed what jobs ask for, and live items, which one
    of them keeps."""
    from services.embedding import CatalogEncoders, Embedding
    from services.live_embedding import LiveEmbedder
    from services.live_keeper import LiveKeeper

    redis = connect_async(redis_url)
    try:
        ledger = Ledger(redis, settings)
        encoders = CatalogEncoders(device)
        items = LiveItems(redis, settings.namespace, max_backlog=settings.max_backlog)
        embedding = Embedding(ledger, items, settings, encoders)
        spaces = Spaces(settings.spaces_dir)
        roots = LazyRoots([each.get_secret_value() for each in settings.image_roots])
        live = LiveEmbedder(items, spaces, encoders, roots)
        queue = Queue(
            redis,
            items.stream,
            visibility_timeout_s=settings.visibility_timeout_s,
            max_deliveries=settings.max_deliveries,
            max_backlog=UNBOUNDED,
            reply_ttl_s=settings.reply_ttl_s,
            on_bury=live.give_up,
        )
        duties = [(ledger.queue(), embedding.answer, 1), (queue, live.answer, LIVE_AT_ONCE)]
        async with asyncio.TaskGroup() as group:
            group.create_task(Worker(duties, ledger, settings).run(stop))
            group.create_task(LiveKeeper(items, settings).watch(stop))
    finally:
        await redis.aclose()


def work_until_told(settings: Settings, redis_url: str, device: str | None = None) -> None:
    """`work`, until SIGTERM or Ctrl-C."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(settings, redis_url, stop, device=device)

    asyncio.run(main())


@contextmanager
def local_workers(
    settings: Settings, redis_url: str, count: int, log: Path, device: str | None = None
) -> Iterator[list[SpawnProcess]]:
    """So many workers in processes of their own, sharing the cores, that end with the block, or
    with this process however it ends. They write what they have to say to `log`."""
    threads = max(1, (os.cpu_count() or 1) // count)
    context = multiprocessing.get_context("spawn")
    log.parent.mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=_local_worker, args=(settings, redis_url, threads, log, device))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(STOP_S)
            process.kill()
            process.join()


def _local_worker(
    settings: Settings, redis_url: str, threads: int, log: Path, device: str | None
) -> None:
    os.setsid()  # Ctrl-C is meant for the parent, which tells this process in its turn
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.basicConfig(filename=log, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    work_until_told(settings, redis_url, device)
