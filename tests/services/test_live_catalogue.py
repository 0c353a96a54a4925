"""What changes in the catalogue, laid over what is in service while it answers."""

from __future__ import annotations

import time

from recsys.data.vocabulary import Vocabulary
from services.item_schemas import Item
from services.live_catalogue import LiveCatalogue
from services.live_items import LiveItem


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
