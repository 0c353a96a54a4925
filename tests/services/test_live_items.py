"""Live items in Redis: what is put is kept and followed, over a real Redis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
import pytest

from services import live_items
from services.item_schemas import ItemState
from services.live_item import Embedding, LiveVector
from services.problems import Overloaded
from tests.shop import Shop, item

ATTRIBUTES = {"year": 2026, "cast": ["A", "B"], "sizes": [42, 42.5, "L", True], "none": []}


def test_what_is_put_is_kept_as_it_was_said(shop: Shop) -> None:
    said = item(tags=["disaster"], attributes=ATTRIBUTES, available=False)
    number = shop.put(said)
    entry = shop.one("new")
    assert (entry.item, entry.number, entry.put) == (said, number, number)
    assert entry.item is not None
    assert repr(entry.item.attributes) == repr(ATTRIBUTES)
    assert entry.states == {"text": ItemState.PENDING, "image": ItemState.PENDING}


def test_a_put_is_queued_for_the_workers_in_the_same_step(shop: Shop) -> None:
    number = shop.put(item("a"), item("b"))
    assert [orjson.loads(body) for body in shop.bodies()] == [
        {"items": {"a": number - 1, "b": number}}
    ]


def test_followers_learn_of_each_change_after_the_number_that_they_know(shop: Shop) -> None:
    first = shop.put(item("a"))
    second = shop.put(item("b"))
    assert shop.changes(0) == ["a", "b"]
    assert shop.changes(first) == ["b"]
    shop.embed()
    assert shop.changes(second) == ["a", "b"]
    shop.run(shop.items.delete("a"))
    assert shop.changes(second) == ["b", "a"]


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
