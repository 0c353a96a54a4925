"""Folding: live items go into the main indexes, and nothing is lost on the way."""

from __future__ import annotations

from tests.planted import Planted, add_fitted
from tests.shop import Shop, item


def test_a_fold_moves_what_is_embedded_into_the_main_index(shop: Shop) -> None:
    shop.put(item(), item("space-0", title="Changed", text="a pudding cools"))
    shop.embed()
    shop.run(shop.items.delete("space-1"))
    before = [shop.found(words, 36) for words in ("comet strikes", "pudding", "rocket orbit")]
    folded = shop.fold()
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
    folded = shop.fold()
    assert folded.hidden == 1
    assert shop.live() == ["comedy-1"]


def test_a_fold_of_nothing_builds_nothing(shop: Shop) -> None:
    folded = shop.fold()
    assert folded.versions == {"text": "v0001"}
    assert shop.spaces.versions("text") == ["v0001"]


def test_a_fold_leaves_what_waits_to_be_embedded(shop: Shop) -> None:
    shop.put(item("embedded"))
    shop.embed()
    shop.put(item("waiting"))
    folded = shop.fold()
    assert (folded.folded, folded.left) == (1, 1)
    assert shop.live() == ["waiting"]


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
    shop.fold()
    assert shop.run(shop.items.changes(0)).generation == before + 1
