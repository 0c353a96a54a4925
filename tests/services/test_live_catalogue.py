"""What changes in the catalogue, laid over what is in service while it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from infra.redis import connect_async
from recsys.data.vocabulary import Vocabulary
from recsys.registry import Registry
from services.active_models import ActiveModels
from services.item_schemas import Item
from services.live_catalogue import LiveCatalogue
from services.live_follower import LiveFollower
from services.live_item import LiveItem
from services.live_items import LiveItems


def put(item_id: str) -> LiveItem:
    return LiveItem(item_id, 1, 1, Item(item_id=item_id, title=item_id), {}, {}, {})


def test_few_changes_are_laid_over_a_large_catalogue_without_going_through_it() -> None:
    large = Vocabulary([f"i{n}" for n in range(1_000_000)])
    live = LiveCatalogue.empty().after([put("i7"), put("new")], 2)
    assert live.over(large).rows.tolist() == [7]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        live.over(large)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.01


class Large(ActiveModels):
    """Models over which it takes long to lay what is live."""

    laying_s: Sequence[float] = ()
    """Of one time after the other."""

    def lay(self, live: LiveCatalogue) -> None:
        now, *self.laying_s = self.laying_s
        time.sleep(now)
        super().lay(live)


@pytest.fixture
def models(registry: Registry) -> Large:
    return Large(registry, "popularity")


def test_a_replica_answers_while_changes_are_laid(
    models: Large, redis_url: str, namespace: str
) -> None:
    models.laying_s = [0.5]

    async def story() -> None:
        redis = connect_async(redis_url)
        items = LiveItems(redis, namespace, max_backlog=10)
        number = await items.put([Item(item_id="new", title="New")])
        catching_up = asyncio.create_task(LiveFollower(items, models).catch_up(number))
        turns = 0
        while not catching_up.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10
        assert models.recommender.searcher.live.number == number
        await redis.aclose()

    asyncio.run(story())


def test_who_gives_up_while_changes_are_laid_leaves_no_older_ones_in_force(
    models: Large, redis_url: str, namespace: str
) -> None:
    models.laying_s = [0.5, 0.0]

    async def story() -> None:
        redis = connect_async(redis_url)
        items = LiveItems(redis, namespace, max_backlog=10)
        follower = LiveFollower(items, models)
        older = await items.put([Item(item_id="old", title="Old")])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(follower.catch_up(older), 0.2)
        newer = await items.put([Item(item_id="new", title="New")])
        await follower.catch_up(newer)
        await asyncio.sleep(0.6)
        assert models.recommender.searcher.live.number == newer
        await redis.aclose()

    asyncio.run(story())
