"""Live items while their workers are killed: each ends up embedded, once, and found."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.redis import connect_async, redis_server
from infra.settings import Settings
from services.item_schemas import Item, ItemState
from services.live_catalogue import LiveCatalogue
from services.live_item import LiveItem
from services.live_items import LiveItems
from services.search_schemas import SearchReply, SearchRequest
from services.searcher import Searcher, SearchQuery
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder

PUTS, ITEMS_A_PUT, AT_ONCE = 12, 10, 5
KILLS = 2
PATIENCE_S = 60.0

WORK = """
import sys, time
from pathlib import Path
from infra.settings import Settings
from services import embedding, live_embedding, worker
from tests.faults.test_live_items import AT_ONCE
from tests.hashing_encoder import HashingEncoder

class Telling(HashingEncoder):
    def encode(self, contents):
        print(*(text.split()[-1] for text in contents), sep="\\n", flush=True)
        time.sleep(0.1)
        return super().encode(contents)

class Encoders:
    encoder = Telling()
    def open(self, space, model, fingerprint):
        return self.encoder

embedding.CatalogEncoders = lambda device: Encoders()
live_embedding.AT_ONCE["text"] = AT_ONCE
settings = Settings(state_dir=Path(sys.argv[1]), redis_url=None, visibility_timeout_s=1,
                    max_deliveries=100)
worker.work_until_told(settings, sys.argv[2])
"""


class OneWorker:
    """A worker process, another in its place when it is killed, and what they began to embed."""

    def __init__(self, state: Path, url: str) -> None:
        self._arguments = [sys.executable, "-c", WORK, str(state), url]
        self._began = state / "began"
        self._before = 0
        self._start()

    def _start(self) -> None:
        with self._began.open("a") as out:
            self._process = subprocess.Popen(self._arguments, stdout=out)

    def began(self) -> list[str]:
        """The last word of each text that was given to an encoder, as often as it was."""
        return self._began.read_text().split()

    def busy(self) -> bool:
        """Whether the worker has begun something that it may not have stored yet."""
        return len(self.began()) > self._before

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        self.end()
        self._before = len(self.began())
        self._start()


@contextmanager
def one_worker(state: Path, url: str) -> Iterator[OneWorker]:
    worker = OneWorker(state, url)
    try:
        yield worker
    finally:
        worker.end()


async def put(items: LiveItems) -> None:
    for number in range(PUTS):
        words = (f"word{number * ITEMS_A_PUT + each}" for each in range(ITEMS_A_PUT))
        await items.put([Item(item_id=word, title="Comet", text=word) for word in words])


async def embedded(items: LiveItems) -> list[LiveItem]:
    """Everything live, once all of it is embedded and acknowledged."""
    until = time.monotonic() + PATIENCE_S
    while True:
        entries = await items.all()
        if all(each.states["text"] is ItemState.READY for each in entries):
            return entries
        assert time.monotonic() < until, Counter(each.states["text"] for each in entries)
        await asyncio.sleep(0.1)


def test_a_worker_that_is_killed_again_and_again_embeds_every_item_and_keeps_what_it_stored(
    tmp_path: Path,
) -> None:
    settings = Settings(state_dir=tmp_path, redis_url=None)
    spaces = add_space(settings.spaces_dir, HashingEncoder(), films())

    async def story(url: str, worker: OneWorker) -> list[LiveItem]:
        redis = connect_async(url)
        try:
            items = LiveItems(redis, settings.namespace, max_backlog=100)
            await put(items)
            for _ in range(KILLS):
                while not worker.busy():
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.25)  # a step or two are stored, and one is under way
                worker.kill()
            entries = await embedded(items)
            while await redis.xlen(items.stream):
                await asyncio.sleep(0.05)
            assert await redis.xlen(f"{items.stream}:dead") == 0
            return entries
        finally:
            await redis.aclose()

    with redis_server(settings) as url, one_worker(tmp_path, url) as worker:
        entries = asyncio.run(story(url, worker))
        began = Counter(worker.began())

    words = {f"word{number}" for number in range(PUTS * ITEMS_A_PUT)}
    assert sorted(each.item_id for each in entries) == sorted(words)
    assert set(began) == words
    again = sum(began.values()) - len(words)
    assert again <= KILLS * AT_ONCE, "what was stored was embedded again"
    live = LiveCatalogue.empty().after(entries, entries[-1].number)
    searcher = Searcher({"text": spaces.open_active("text")}, live)
    assert [nearest(searcher, word) for word in sorted(words)] == sorted(words)


def nearest(searcher: Searcher, word: str) -> str:
    """The item that is found by a word."""
    encoder = HashingEncoder()
    encoded = {encoder.fingerprint: encoder.encode([word]).vectors[0]}
    reply = searcher.search(SearchQuery(SearchRequest(text=word, k=1), encoded))
    assert isinstance(reply, SearchReply)
    return reply.items[0].item_id
