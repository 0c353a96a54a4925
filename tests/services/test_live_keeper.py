"""Live items looked after while nobody asks."""

from __future__ import annotations

import pytest

from services import live_embedding
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder
from tests.shop import Shop, item


def test_another_encoder_in_service_queues_the_live_items_again(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    shop.run(shop.redis.delete(shop.items.stream))
    shop.encoder = HashingEncoder(name="other")
    add_space(shop.spaces.root, shop.encoder, films())

    shop.watch(0.5)
    shop.embed()
    assert shop.one("new").vectors["text"].fingerprint == shop.encoder.fingerprint
    assert shop.found("comet strikes")[0] == "new"


def test_many_live_items_are_folded_once_they_are_ready(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_embedding, "FOLD_AT", 2)
    monkeypatch.setattr(live_embedding, "FOLD_PAUSE_S", 0.0)
    monkeypatch.setattr(live_embedding, "WATCH_S", 0.05)
    shop.put(item("a"), item("b"), item("waits", title=" ", text=" "))
    shop.watch(0.5)
    assert shop.spaces.versions("text") == ["v0001"]
    shop.embed()
    shop.watch(1.5)
    assert shop.spaces.versions("text") == ["v0001", "v0002"]
    assert shop.live() == ["waits"]
