"""Live items embedded by the encoders in service."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from infra.queue import Queue
from infra.roots import Unreached
from services import live_embedding
from services.consumer import Consumer
from services.item_schemas import ItemState
from tests.films import add_pictures, picture
from tests.shop import Shop, item
from tests.withheld import withheld


def test_once_embedded_it_is_found(shop: Shop) -> None:
    shop.put(item())
    assert "new" not in shop.found("comet strikes")
    shop.embed()
    assert shop.found("comet strikes")[0] == "new"
    assert shop.one("new").states["text"] is ItemState.READY


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


def test_a_text_over_which_the_encoder_fails_costs_no_other_of_its_put_the_vector(
    shop: Shop,
) -> None:
    shop.put(item("bad", text="it will explode"), item("good"))
    shop.embed()
    assert "this text explodes" in shop.one("bad").reasons["text"]
    assert shop.one("good").states["text"] is ItemState.READY


def test_what_is_embedded_is_kept_though_an_item_after_it_fails(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(live_embedding.AT_ONCE, "text", 1)
    shop.put(item("first"))
    shop.put(item("second", text="it will explode"))
    with pytest.raises(RuntimeError, match="explodes"):
        shop.embed()
    assert shop.one("first").states["text"] is ItemState.READY


def test_pictures_are_read_and_embedded_a_few_at_a_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(live_embedding.AT_ONCE, "image", 2)
    add_pictures(shop.spaces.root, shop.colours)
    shop.colours.batches.clear()
    (shop.pictures / "blue.png").write_bytes(picture("blue"))
    shop.put(*(item(f"i{number}", image="blue.png") for number in range(5)))
    shop.embed()
    assert shop.colours.batches == [2, 2, 1]


def test_a_picture_that_cannot_be_read_for_now_is_waited_for_and_holds_nothing_up(
    shop: Shop,
) -> None:
    add_pictures(shop.spaces.root, shop.colours)
    for colour in ("red", "blue"):
        (shop.pictures / f"{colour}.png").write_bytes(picture(colour))
    shop.put(item("a", image="red.png"), item("b", image="blue.png"))
    with withheld(shop.pictures / "red.png"), pytest.raises(Unreached):
        shop.embed()
    assert shop.one("a").states == {"image": ItemState.PENDING, "text": ItemState.READY}
    assert shop.one("b").states["image"] is ItemState.READY
    shop.embed()
    assert shop.one("a").states["image"] is ItemState.READY


def test_pictures_whose_root_is_not_mounted_wait_until_it_is(shop: Shop) -> None:
    add_pictures(shop.spaces.root, shop.colours)
    away = shop.pictures.rename(shop.pictures.with_name("away"))
    (away / "red.png").write_bytes(picture("red"))
    shop.put(item(image="red.png"))
    with pytest.raises(Unreached, match="is no folder"):
        shop.embed()
    assert shop.one("new").states == {"image": ItemState.PENDING, "text": ItemState.READY}
    away.rename(shop.pictures)
    shop.embed()
    assert shop.one("new").states["image"] is ItemState.READY


def test_a_picture_that_a_job_would_read_is_read_of_a_live_item_too(shop: Shop) -> None:
    add_pictures(shop.spaces.root, shop.colours)
    Image.new("RGB", (1800, 1200)).save(shop.pictures / "poster.bmp")
    assert (shop.pictures / "poster.bmp").stat().st_size > 6e6
    shop.put(item(image="poster.bmp"))
    shop.embed()
    assert shop.one("new").states["image"] is ItemState.READY


def test_items_of_a_message_that_was_given_up_say_why_they_wait(shop: Shop) -> None:
    shop.put(item())
    [body] = shop.bodies()
    shop.run(shop.embedder.give_up(body, "the model cannot be loaded"))
    entry = shop.one("new")
    assert entry.states["text"] is ItemState.PENDING
    assert entry.reasons["text"] == "the model cannot be loaded"


def test_an_item_whose_new_content_was_given_up_is_found_by_the_old_one(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    shop.put(item(text="a pudding cools"))
    shop.run(shop.embedder.give_up(shop.bodies()[-1], "the model cannot be loaded"))
    assert shop.found("comet strikes")[0] == "new"


def test_a_space_that_is_damaged_ends_no_worker(shop: Shop) -> None:
    """Who embeds the catalogue anew, which repairs it, needs one."""
    [manifest] = shop.spaces.root.glob("text/*/manifest.json")
    manifest.write_text("junk")
    shop.put(item())
    queue = Queue(
        shop.redis,
        shop.items.stream,
        visibility_timeout_s=0.2,
        max_deliveries=2,
        max_backlog=10,
        reply_ttl_s=1,
        on_bury=shop.embedder.give_up,
    )

    async def work() -> None:
        stop = asyncio.Event()
        consumer = Consumer(
            queue, shop.embedder.answer, micro_batch=8, visibility_timeout_s=0.2, back_off_s=0.1
        )
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(consumer.run(stop))
            while not await queue.dead.newest():
                await asyncio.sleep(0.02)
            stop.set()

    shop.run(work())
    [letter] = shop.run(queue.dead.newest())
    assert "manifest.json" in letter.reason
