"""A bazaar of many interests, of which every user has four: to search, harder than its items are.

An item's vector lies near those of its interest. A history's query lies between four interests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.bundle import seal
from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset
from recsys.models.ials import Ials, IalsConfig
from recsys.registry import Registry
from recsys.retrieval.index import Index

USERS, LENGTH = 600, 24
INTERESTS, ITEMS, DIM = 60, 50, 64


def bazaar(folder: Path) -> Dataset:
    """Write the events: some 3,000 items, `i0` and so on, 50 of an interest."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), LENGTH)
    four = np.stack([rng.choice(INTERESTS, 4, replace=False) for _ in range(USERS)])
    interests = four[users, rng.integers(4, size=len(users))]
    items = interests * ITEMS + rng.integers(ITEMS, size=len(users))
    events = pa.table(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "timestamp": pa.array(np.arange(len(users))).cast(pa.timestamp("ms", tz="UTC")),
            "event": ["view"] * len(users),
            "value": pa.array(np.ones(len(users), np.float32)),
        },
        schema=EVENTS_SCHEMA,
    )
    write_dataset(folder, [events], None, "a bazaar")
    return Dataset.load(folder)


def stock(registry: Registry, dataset: Dataset) -> None:
    """Add and activate the model `ials`, which knows the interests."""
    rng = np.random.default_rng(1)
    numbers = np.array([int(item[1:]) for item in dataset.catalogue["item_id"].to_pylist()])
    vectors = rng.standard_normal((INTERESTS, DIM))[numbers // ITEMS]
    vectors = (vectors + 0.5 * rng.standard_normal(vectors.shape)).astype(np.float32)
    model = Ials(IalsConfig(dim=DIM, recency=0), vectors, np.float32(0.01))
    version = registry.add(
        "ials",
        lambda folder: seal(
            folder,
            model=model,
            catalogue=dataset.catalogue,
            popularity=np.bincount(dataset.histories.items, minlength=len(vectors)),
            index=Index.build(vectors),
            data_fingerprint=dataset.fingerprint,
            metrics=[],
            cost={},
        ),
    )
    registry.activate("ials", version)
