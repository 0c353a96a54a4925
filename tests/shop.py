"""A live catalogue and what embeds it, in this process, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from encoders.encoder import Encoded, Encoder
from infra.redis import AsyncRedis, connect_async
from infra.roots import LazyRoots
from infra.settings import Settings
from recsys.registry import Registry, Spaces
from services.folding import Folded, fold_live
from services.item_schemas import Item
from services.live_catalogue import LiveCatalogue
from services.live_embedding import LiveEmbedder
from services.live_item import LiveItem
from services.live_items import LiveItems
from services.live_keeper import LiveKeeper
from services.search_schemas import SearchReply, SearchRequest
from services.searcher import Searcher, SearchQuery
from tests.films import add_space, films
from tests.hashing_encoder import ColourEncoder, HashingEncoder

T = TypeVar("T")


class CountingColours(ColourEncoder):
    def __init__(self) -> None:
        self.batches: list[int] = []
        """How many pictures it was given each time."""

    def encode(self, contents: Sequence[bytes]) -> Encoded:
        self.batches.append(len(contents))
        return super().encode(contents)


class Shop:
    """Used from a test: one event loop for all calls. The films are in the space `text`."""

    def __init__(self, redis_url: str, namespace: str, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.settings = Settings(redis_url=None, namespace=namespace, state_dir=folder)
        self.spaces = Spaces(self.settings.spaces_dir)
        self.models = Registry(self.settings.models_dir)
        self.encoder = HashingEncoder()
        self.colours = CountingColours()
        self.namespace = namespace
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        add_space(self.spaces.root, self.encoder, films())
        self.encoder.seen.clear()
        self.runner.run(self._open(redis_url))

    async def _open(self, redis_url: str) -> None:
        self.redis: AsyncRedis = connect_async(redis_url)
        self.items = LiveItems(self.redis, self.namespace, max_backlog=100)
        roots = LazyRoots([self.pictures])
        self.embedder = LiveEmbedder(self.items, self.spaces, self, roots)
        self.keeper = LiveKeeper(self.items, self.settings)

    def close(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        return self.colours if space == "image" else self.encoder

    def fingerprint(self, space: str, model: str) -> str:
        return self.open(space, model, "").fingerprint

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    def put(self, *items: Item) -> int:
        return self.run(self.items.put(items))

    def bodies(self) -> list[bytes]:
        """What waits to be embedded."""
        entries = self.run(self.redis.xrange(self.items.stream))
        return [fields[b"body"] for _, fields in entries]

    def embed(self) -> None:
        self.run(self.embedder.answer(self.bodies()))

    def one(self, item_id: str) -> LiveItem:
        [item] = self.run(self.items.read([item_id]))
        return item

    def live(self) -> list[str]:
        """Everything live or deleted."""
        return [each.item_id for each in self.run(self.items.all())]

    def changes(self, since: int) -> list[str]:
        return [each.item_id for each in self.run(self.items.changes(since)).items]

    def searcher(self) -> Searcher:
        live = LiveCatalogue.empty().after(self.run(self.items.all()), 0)
        return Searcher({"text": self.spaces.open_active("text")}, live)

    def found(self, words: str, k: int = 5) -> list[str]:
        encoded = {self.encoder.fingerprint: self.encoder.encode([words]).vectors[0]}
        reply = self.searcher().search(SearchQuery(SearchRequest(text=words, k=k), encoded))
        assert isinstance(reply, SearchReply), reply
        return [item.item_id for item in reply.items]

    def fold(self) -> Folded:
        return self.run(fold_live(self.items, self.settings))

    def watch(self, seconds: float, *others: LiveKeeper) -> None:
        """Look after the live items for so long."""

        async def watch() -> None:
            stop = asyncio.Event()
            keepers = (self.keeper, *others)
            watching = asyncio.gather(*(keeper.watch(stop) for keeper in keepers))
            await asyncio.sleep(seconds)
            stop.set()
            await watching

        self.run(watch())


def item(item_id: str = "new", **fields: Any) -> Item:
    return Item(item_id=item_id, **{"title": "Comet", "text": "a comet strikes", **fields})
