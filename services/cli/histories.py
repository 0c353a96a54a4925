"""A Dataset's histories, put into Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.cli.console import bar

if TYPE_CHECKING:
    from infra.settings import Settings
    from recsys.data.dataset import Dataset


def load_histories(dataset: Dataset, redis_url: str, settings: Settings) -> int:
    """Put every user's history into Redis, and return how many users there are."""
    from infra.redis import connect_async
    from services.history import HistoryStore

    users = dataset.users.to_arrow().to_pylist()
    batch = 1_000

    async def load() -> None:
        redis = connect_async(redis_url)
        try:
            store = HistoryStore(
                redis,
                settings.namespace,
                max_items=settings.history_max_items,
                ttl_s=settings.history_ttl_s,
            )
            with bar("Loading histories into Redis") as progress:
                for start in range(0, len(users), batch):
                    stop = min(start + batch, len(users))
                    await store.seed(users[start:stop], *_histories(dataset, start, stop))
                    progress(stop, len(users))
        finally:
            await redis.aclose()

    asyncio.run(load())
    return len(users)


def _histories(
    dataset: Dataset, start: int, stop: int
) -> tuple[list[list[str]], list[list[int]] | None]:
    """The item ids and times of the users start..stop."""
    offsets = dataset.histories.offsets[start : stop + 1]
    ids = dataset.items.ids(dataset.histories.items[offsets[0] : offsets[-1]])
    cuts = list(zip(offsets[:-1] - offsets[0], offsets[1:] - offsets[0], strict=True))
    items = [ids[a:b] for a, b in cuts]
    if dataset.timestamps is None:
        return items, None
    times = dataset.timestamps[offsets[0] : offsets[-1]].tolist()
    return items, [times[a:b] for a, b in cuts]
