"""Live items looked after while nobody asks."""

from __future__ import annotations

import numpy as np
import pytest

from services import live_keeper
from services.item_schemas import ItemState
from services.live_item import Embedding, LiveVector
from services.live_items import puts_of
from services.live_keeper import LiveKeeper
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
    monkeypatch.setattr(live_keeper, "FOLD_AT", 2)
    monkeypatch.setattr(live_keeper, "FOLD_PAUSE_S", 0.0)
    monkeypatch.setattr(live_keeper, "WATCH_S", 0.05)
    shop.put(item("a"), item("b"), item("waits", title=" ", text=" "))
    shop.watch(0.5)
    assert shop.spaces.versions("text") == ["v0001"]
    shop.embed()
    shop.watch(1.5)
    assert shop.spaces.versions("text") == ["v0001", "v0002"]
    assert shop.live() == ["waits"]


def test_an_item_that_one_encoder_could_not_embed_is_queued_for_the_next(shop: Shop) -> None:
    shop.put(item("bad", text="it will explode"), item())
    shop.embed()
    assert shop.one("bad").states["text"] is ItemState.FAILED
    shop.watch(0.1)
    shop.run(shop.redis.delete(shop.items.stream))
    shop.encoder = HashingEncoder(name="other")
    add_space(shop.spaces.root, shop.encoder, films())
    shop.watch(0.1)
    assert "bad" in puts_of(shop.bodies()[0])


def test_what_was_given_up_is_queued_again_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_keeper, "WATCH_S", 0.02)
    monkeypatch.setattr(live_keeper, "RETRY_S", (0.05, 0.05))
    shop.keeper = LiveKeeper(shop.items, shop.settings)
    shop.watch(0.1)
    put = shop.put(item())
    shop.run(shop.embedder.give_up(shop.bodies()[0], "the model cannot be loaded"))
    shop.run(shop.redis.delete(shop.items.stream))
    shop.watch(0.5)
    assert [puts_of(body) for body in shop.bodies()] == [{"new": put}]


def test_two_keepers_queue_the_live_items_once_for_another_encoder(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_keeper, "WATCH_S", 0.05)
    shop.put(item())
    shop.watch(0.3, LiveKeeper(shop.items, shop.settings))
    assert len(shop.bodies()) == 2  # the put's, and one for the encoder


def test_a_keeper_that_begins_queues_nothing_that_was_queued_for_the_same_encoders(
    shop: Shop,
) -> None:
    shop.watch(0.1)
    shop.put(item())
    waiting = shop.bodies()
    shop.keeper = LiveKeeper(shop.items, shop.settings)
    shop.run(shop.redis.delete(f"{shop.namespace}:items:keeper"))
    shop.watch(0.1)
    assert shop.bodies() == waiting


def test_a_keeper_that_is_gone_is_followed_by_another(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_keeper, "KEEPER_S", 0.2)
    monkeypatch.setattr(live_keeper, "WATCH_S", 0.05)
    shop.watch(0.1)
    shop.keeper = LiveKeeper(shop.items, shop.settings)
    shop.put(item())
    shop.encoder = HashingEncoder(name="other")
    add_space(shop.spaces.root, shop.encoder, films())
    shop.watch(1.0)
    assert len(shop.bodies()) == 2


def test_a_fold_that_fails_does_not_end_the_keeper(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_keeper, "FOLD_AT", 1)
    monkeypatch.setattr(live_keeper, "FOLD_PAUSE_S", 0.0)
    monkeypatch.setattr(live_keeper, "WATCH_S", 0.05)
    put = shop.put(item())
    broken = LiveVector(shop.encoder.fingerprint, bytes(16), np.eye(3, dtype=np.float32)[0])
    shop.run(shop.items.store("text", [Embedding("new", put, broken)]))
    shop.watch(0.3)
    assert "the live items cannot be looked after" in caplog.text
    shop.put(item())
    shop.embed()
    shop.watch(1.0)
    assert shop.live() == []
