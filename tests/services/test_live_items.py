"""Live items: put, embedded, followed, folded into the main index, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest

from infra.errors import RecsysError
from infra.redis import AsyncRedis, connect_async
from infra.roots import Roots
from infra.storage import exclusive
from recsys.registry import Registry, Spaces
from recsys.retrieval.index import Asked
from services import live_embedding, live_items
from services.content_space import QueryVector
from services.folding import LOCK, fold_live, reindex_space
from services.item_schemas import Item, ItemState
from services.live_catalogue import LiveCatalogue
from services.live_embedding import LiveEmbedder
from services.live_items import Embedding, LiveItem, LiveItems, LiveVector
from services.problems import Overloaded
from services.searcher import Searcher, SearchQuery
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder
from tests.planted import Planted, add_fitted

T = TypeVar("T")


class Shop:
    """A live catalogue and what embeds it, used from a test: one event loop for all calls."""

    def __init__(self, redis_url: str, namespace: str, spaces: Spaces) -> None:
        self.runner = asyncio.Runner()
        self.spaces = spaces
        self.models = Registry(spaces.root.parent / "models")
        self.encoder = HashingEncoder()
        self.namespace = namespace
        self.runner.run(self._open(redis_url, namespace))

    async def _open(self, redis_url: str, namespace: str) -> None:
        self.redis: AsyncRedis = connect_async(redis_url)
        self.items = LiveItems(self.redis, namespace, max_backlog=100)
        self.embedder = LiveEmbedder(self.items, self.spaces, self.models, self, Roots([]))

    def open(self, space: str, model: str) -> HashingEncoder:
        return self.encoder

    def fingerprint(self, space: str, model: str) -> str:
        return self.encoder.fingerprint

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

    def changes(self, since: int) -> list[str]:
        return [each.item_id for each in self.run(self.items.changes(since)).items]

    def searcher(self) -> Searcher:
        live = LiveCatalogue.empty().after(self.run(self.items.all()), 0)
        return Searcher({"text": self.spaces.open_active("text")}, live)

    def found(self, words: str, k: int = 5) -> list[str]:
        from services.search_schemas import SearchReply, SearchRequest

        vector = self.encoder.encode([words]).vectors[0]
        encoded = {"text": QueryVector(self.encoder.fingerprint, vector)}
        reply = self.searcher().search(SearchQuery(SearchRequest(text=words, k=k), encoded))
        assert isinstance(reply, SearchReply), reply
        return [item.item_id for item in reply.items]


@pytest.fixture
def shop(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(redis_url, namespace, add_space(tmp_path / "spaces", HashingEncoder(), films()))
    yield shop
    shop.run(shop.redis.aclose())
    shop.runner.close()


def item(item_id: str = "new", **fields: Any) -> Item:
    return Item(item_id=item_id, **{"title": "Comet", "text": "a comet strikes", **fields})


def test_what_is_put_is_kept_as_it_was_said(shop: Shop) -> None:
    said = item(tags=["disaster"], attributes={"year": 2026, "cast": ["A", "B"]}, available=False)
    number = shop.put(said)
    entry = shop.one("new")
    assert (entry.item, entry.number, entry.put) == (said, number, number)
    assert entry.states == {"text": ItemState.PENDING, "image": ItemState.PENDING}


def test_a_put_is_queued_for_the_workers_in_the_same_step(shop: Shop) -> None:
    number = shop.put(item("a"), item("b"))
    assert [orjson.loads(body) for body in shop.bodies()] == [
        {"items": {"a": number - 1, "b": number}}
    ]


def test_once_embedded_it_is_found(shop: Shop) -> None:
    shop.put(item())
    assert "new" not in shop.found("comet strikes")
    shop.embed()
    assert shop.found("comet strikes")[0] == "new"
    assert shop.one("new").states["text"] is ItemState.READY


def test_followers_learn_of_each_change_after_the_number_that_they_know(shop: Shop) -> None:
    first = shop.put(item("a"))
    second = shop.put(item("b"))
    assert shop.changes(0) == ["a", "b"]
    assert shop.changes(first) == ["b"]
    shop.embed()
    assert shop.changes(second) == ["a", "b"]
    shop.run(shop.items.delete("a"))
    assert shop.changes(second) == ["b", "a"]


def test_the_same_content_is_not_embedded_again(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    shop.put(item(attributes={"price": 3}, available=False))
    shop.embed()
    assert len(shop.encoder.seen) == 1
    entry = shop.one("new")
    assert entry.states["text"] is ItemState.READY
    assert entry.item is not None
    assert entry.item.attributes == {"price": 3}


def test_a_vector_of_content_that_was_replaced_meanwhile_is_not_written(shop: Shop) -> None:
    old = shop.put(item())
    shop.put(item(text="a pudding cools"))
    vector = LiveVector("hashed-64-", bytes(16), np.ones(64, np.float32))
    assert shop.run(shop.items.store("text", [Embedding("new", old, vector)])) == 0
    assert not shop.one("new").vectors


def test_a_vector_of_an_item_that_was_deleted_meanwhile_is_not_written(shop: Shop) -> None:
    put = shop.put(item())
    shop.run(shop.items.delete("new"))
    vector = LiveVector("hashed-64-", bytes(16), np.ones(64, np.float32))
    assert shop.run(shop.items.store("text", [Embedding("new", put, vector)])) == 0
    assert shop.one("new").item is None


def test_a_message_that_is_done_twice_changes_nothing_more(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    number = shop.run(shop.items.number())
    shop.embed()
    assert len(shop.encoder.seen) == 1
    assert shop.run(shop.items.number()) == number


def test_what_cannot_be_embedded_says_why(shop: Shop) -> None:
    shop.put(item(title=" ", text=" "))
    shop.embed()
    entry = shop.one("new")
    assert entry.states["text"] is ItemState.FAILED
    assert "empty" in entry.reasons["text"]


def test_items_of_a_message_that_was_given_up_say_why(shop: Shop) -> None:
    shop.put(item())
    [body] = shop.bodies()
    shop.run(shop.embedder.give_up(body, "the model cannot be loaded"))
    entry = shop.one("new")
    assert entry.states["text"] is ItemState.FAILED
    assert entry.reasons["text"] == "the model cannot be loaded"


def test_past_the_most_live_items_a_put_is_refused_with_what_to_do(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_items, "MAX_LIVE", 2)
    shop.put(item("a"), item("b"))
    shop.put(item("a", title="Anew"))
    with pytest.raises(Overloaded, match="recsys items fold"):
        shop.put(item("c"))
    assert not shop.run(shop.items.read(["c"]))


def test_past_the_backlog_a_put_is_refused_whole(shop: Shop) -> None:
    for number in range(100):
        shop.put(item(f"i{number}"))
    with pytest.raises(Overloaded, match="recsys worker"):
        shop.put(item("one-more"))
    assert not shop.run(shop.items.read(["one-more"]))


def test_another_encoder_in_service_queues_the_live_items_again(shop: Shop, tmp_path: Path) -> None:
    shop.put(item())
    shop.embed()
    shop.run(shop.redis.delete(shop.items.stream))
    shop.encoder = HashingEncoder(name="other")
    add_space(shop.spaces.root, shop.encoder, films())

    async def watch_once() -> None:
        stop = asyncio.Event()
        watching = asyncio.create_task(shop.embedder.watch(stop))
        await asyncio.sleep(0.5)
        stop.set()
        await watching

    shop.run(watch_once())
    shop.embed()
    assert shop.one("new").vectors["text"].fingerprint == shop.encoder.fingerprint
    assert shop.found("comet strikes")[0] == "new"


def test_a_fold_moves_what_is_embedded_into_the_main_index(shop: Shop) -> None:
    shop.put(item(), item("space-0", title="Changed", text="a pudding cools"))
    shop.embed()
    shop.run(shop.items.delete("space-1"))
    before = [shop.found(words, 36) for words in ("comet strikes", "pudding", "rocket orbit")]
    folded = shop.run(fold_live(shop.items, shop.spaces, shop.models))
    assert (folded.versions, folded.folded, folded.left) == ({"text": "v0002"}, 2, 0)
    bundle = shop.spaces.open_active("text")
    assert "new" in bundle.items
    assert "space-1" not in bundle.items
    assert shop.run(shop.items.all()) == []  # and nothing knows the deleted item any more
    after = [shop.found(words, 36) for words in ("comet strikes", "pudding", "rocket orbit")]
    assert after == before


def test_a_fold_keeps_the_deletion_of_what_a_model_still_knows(
    shop: Shop, planted: Planted
) -> None:
    add_fitted(shop.models, "popularity", planted)
    for item_id in ("space-1", "comedy-1"):
        shop.run(shop.items.delete(item_id))
    folded = shop.run(fold_live(shop.items, shop.spaces, shop.models))
    assert folded.hidden == 1
    assert [each.item_id for each in shop.run(shop.items.all())] == ["comedy-1"]


def test_a_fold_of_nothing_builds_nothing(shop: Shop) -> None:
    folded = shop.run(fold_live(shop.items, shop.spaces, shop.models))
    assert folded.versions == {"text": "v0001"}
    assert shop.spaces.versions("text") == ["v0001"]


def test_many_live_items_are_folded_once_they_are_ready(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_embedding, "FOLD_AT", 2)
    monkeypatch.setattr(live_embedding, "FOLD_PAUSE_S", 0.0)
    monkeypatch.setattr(live_embedding, "WATCH_S", 0.05)
    shop.put(item("a"), item("b"), item("waits", title=" ", text=" "))

    async def watch(seconds: float) -> None:
        stop = asyncio.Event()
        watching = asyncio.create_task(shop.embedder.watch(stop))
        await asyncio.sleep(seconds)
        stop.set()
        await watching

    shop.run(watch(0.5))
    assert shop.spaces.versions("text") == ["v0001"]
    shop.embed()
    shop.run(watch(1.5))
    assert shop.spaces.versions("text") == ["v0001", "v0002"]
    assert [each.item_id for each in shop.run(shop.items.all())] == ["waits"]


def test_a_fold_asks_for_the_index_that_the_space_was_built_anew_with(shop: Shop) -> None:
    asked: Asked = {"recall": 0.9, "exact_below": 30, "kind": "ivf_sq8"}
    reindex_space(shop.spaces, "text", asked)
    shop.put(item())
    shop.embed()
    shop.run(fold_live(shop.items, shop.spaces, shop.models))
    folded = shop.spaces.open_active("text")
    assert (folded.version, folded.index.asked) == ("v0003", asked)


def test_a_space_that_is_built_anew_holds_what_it_held(shop: Shop) -> None:
    before = shop.spaces.open_active("text")
    version, index = reindex_space(
        shop.spaces, "text", {"recall": 0.9, "exact_below": 30, "kind": "exact"}, activate=False
    )
    assert shop.spaces.active("text") == before.version
    after = shop.spaces.open(f"text@{version}")
    assert after.manifest.index == index.description
    assert after.manifest.parent == before.version
    assert after.catalogue.equals(before.catalogue)
    np.testing.assert_array_equal(after.vectors, before.vectors)


def test_a_space_is_not_built_anew_beside_a_fold(shop: Shop) -> None:
    asked: Asked = {"recall": 0.9, "exact_below": 30, "kind": "exact"}
    with (
        exclusive(shop.spaces.root / LOCK),
        pytest.raises(RecsysError, match="another process builds the main indexes anew"),
    ):
        reindex_space(shop.spaces, "text", asked)
    assert shop.spaces.versions("text") == ["v0001"]


def test_a_fold_leaves_what_waits_to_be_embedded(shop: Shop) -> None:
    shop.put(item("embedded"))
    shop.embed()
    shop.put(item("waiting"))
    folded = shop.run(fold_live(shop.items, shop.spaces, shop.models))
    assert (folded.folded, folded.left) == (1, 1)
    assert [each.item_id for each in shop.run(shop.items.all())] == ["waiting"]


def test_what_changes_during_a_fold_is_not_dropped_by_it(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    entries = shop.run(shop.items.all())
    shop.put(item(text="a pudding cools"))
    assert shop.run(shop.items.drop(entries)) == 0
    assert shop.one("new").item is not None


def test_a_fold_tells_followers_to_read_anew(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    before = shop.run(shop.items.changes(0)).generation
    shop.run(fold_live(shop.items, shop.spaces, shop.models))
    assert shop.run(shop.items.changes(0)).generation == before + 1


def test_every_key_is_of_the_namespace(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    shop.run(shop.items.delete("space-1"))
    keys: Sequence[bytes] = shop.run(shop.redis.keys(f"{shop.namespace}:*"))
    assert {key.decode().removeprefix(f"{shop.namespace}:") for key in keys} == {
        "jobs:items",
        "items",
        "items:changes",
        "items:deleted",
        "items:number",
        "items:states:text",
        "items:vectors:text",
    }
