"""Users who keep to a genre, a model of them, and content that tells the genre: for all bridges."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.bundle import Bundle, seal
from recsys.content_bundle import CONTENT_SCHEMA, ContentManifest, seal_content
from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset
from recsys.data.split import split_dataset
from recsys.models.catalog import kind_of
from recsys.models.model import Alone, Model
from recsys.registry import Registry
from recsys.retrieval.index import Index

N_ITEMS, N_USERS, LENGTH, GENRES = 200, 300, 12, 4


class World(NamedTuple):
    """300 users who each touched 12 items of one of four genres."""

    dataset: Dataset
    model: Bundle
    genre: NDArray[np.int64]
    """Int64[N], of each item."""

    content: NDArray[np.float32]
    """Float32[N, 8]"""


def world_in(folder: Path) -> World:
    """The data in `data`, and the model in the registry `models`, active."""
    rng = np.random.default_rng(0)
    genre = np.arange(N_ITEMS) % GENRES
    items = np.concatenate(
        [
            rng.permutation(np.flatnonzero(genre == user % GENRES))[:LENGTH]
            for user in range(N_USERS)
        ]
    )
    users = np.repeat(np.arange(N_USERS), LENGTH)
    times = pa.array(np.tile(np.arange(LENGTH), N_USERS)).cast(pa.timestamp("ms", tz="UTC"))
    events = pa.table(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "timestamp": times,
            "event": ["view"] * len(items),
            "value": pa.nulls(len(items), pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )
    write_dataset(folder / "data", [events], None, "genres")
    dataset = Dataset.load(folder / "data")
    numbers = np.array([int(item_id[1:]) for item_id in dataset.items.to_arrow().to_pylist()])
    content = np.eye(8, dtype=np.float32)[genre[numbers]]
    content += 0.1 * rng.normal(size=content.shape).astype(np.float32)
    registry = Registry(folder / "models")
    split = split_dataset(dataset, "leave_one_out")
    config = kind_of("ials").config.model_validate({"dim": 8})
    fitting = kind_of("ials").fit(config, split.train, N_ITEMS, Alone(), torch.device("cpu"))
    for epoch in range(8):
        fitting.run_epoch(epoch)
    model: Model = fitting.model()
    version = registry.add(
        "ials",
        lambda draft: seal(
            draft,
            model=model,
            catalogue=dataset.catalogue,
            popularity=np.bincount(split.train.items, minlength=N_ITEMS),
            index=Index.build(model.item_vectors),
            data_fingerprint=dataset.fingerprint,
            metrics=[],
            cost={},
        ),
    )
    registry.activate("ials", version)
    return World(dataset, registry.open_active("ials"), genre[numbers], content)


def genre_tags(world: World) -> pa.Array:
    """The tags of each item: its genre."""
    return pa.array([[f"genre {genre}"] for genre in world.genre.tolist()])


def seal_space(
    folder: Path,
    world: World,
    rows: NDArray[np.int64],
    name: str = "text",
    tags: pa.Array | None = None,
) -> ContentManifest:
    """A content bundle of these items, in this order; without `tags`, none has any."""
    catalogue = world.dataset.catalogue
    if tags is not None:
        at = catalogue.schema.get_field_index("tags")
        catalogue = catalogue.set_column(at, "tags", tags)
    items = catalogue.take(pa.array(rows)).append_column(
        "content_hash", pa.array([b"0" * 16] * len(rows), pa.binary(16))
    )
    return seal_content(
        folder,
        space=name,
        encoder="planted",
        fingerprint=f"{name}'s",
        items=items.append_column("live", pa.array([False] * len(rows))).cast(CONTENT_SCHEMA),
        index=Index.build(world.content[rows]),
        data_fingerprint=world.dataset.fingerprint,
        cost={},
    )
