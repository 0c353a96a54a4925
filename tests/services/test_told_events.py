"""Told events come back as training data: all of them, in order, each once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.redis import connect, connect_async
from recsys.data.dataset import Dataset, write_dataset
from services import told_events
from services.event_schemas import Event
from services.history import HistoryStore
from services.told_events import ToldEvents

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def tell(redis_url: str, namespace: str, items: list[str]) -> None:
    async def main() -> None:
        redis = connect_async(redis_url)
        try:
            store = HistoryStore(redis, namespace, max_items=5, ttl_s=100)
            for minute, item in enumerate(items):
                at = NOON + timedelta(minutes=minute)
                await store.append([Event(user_id="ann", item_id=item, timestamp=at, value=0.5)])
        finally:
            await redis.aclose()

    asyncio.run(main())


def test_what_was_told_becomes_a_dataset(
    redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told_events, "BATCH", 2)
    items = ["tea", "jam", "rye", "tea", "oat"]
    tell(redis_url, namespace, items)
    with connect(redis_url) as redis:
        write_dataset(tmp_path / "told", ToldEvents(redis, namespace), None, "a test")
    dataset = Dataset.load(tmp_path / "told")
    assert dataset.items.ids(dataset.histories[0]) == items
    assert dataset.timestamps is not None
    assert dataset.timestamps[0] == NOON.timestamp() * 1000
    assert dataset.values.tolist() == [0.5] * 5


def test_what_was_read_is_not_read_again_from_its_place_on(redis_url: str, namespace: str) -> None:
    tell(redis_url, namespace, ["tea", "jam"])
    with connect(redis_url) as redis:
        first = ToldEvents(redis, namespace)
        assert sum(map(len, first)) == 2
        tell(redis_url, namespace, ["rye"])
        [rest] = ToldEvents(redis, namespace, first.last)
        assert rest["item_id"].to_pylist() == ["rye"]


def test_of_nothing_told_nothing_is_read(redis_url: str, namespace: str) -> None:
    with connect(redis_url) as redis:
        assert list(ToldEvents(redis, namespace)) == []
