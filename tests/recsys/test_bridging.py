"""A model and the content of its items become a bridge that says how it does."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.bridging import Bridged, bridge
from recsys.bundle import Bundle, seal
from recsys.content_bundle import CONTENT_SCHEMA, ContentBundle, seal_content
from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset
from recsys.data.split import split_dataset
from recsys.models.catalog import kind_of
from recsys.models.model import Alone, Model
from recsys.registry import Bridges, Registry
from recsys.retrieval.bridge import NoBridge
from recsys.retrieval.index import Index

N_ITEMS, N_USERS, LENGTH, GENRES = 200, 300, 12, 4


class World(NamedTuple):
    """Users who keep to a genre, a model of them, and content that tells the genre."""

    dataset: Dataset
    model: Bundle
    content: NDArray[np.float32]
    """Float32[N, 8]"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
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
    registry.add(
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
    return World(dataset, registry.open("ials@v0001"), content)


def space(folder: Path, world: World, rows: NDArray[np.int64], name: str = "text") -> ContentBundle:
    """A content bundle of these items, in this order."""
    catalogue = world.dataset.catalogue.take(pa.array(rows))
    items = catalogue.append_column(
        "content_hash", pa.array([b"0" * 16] * len(rows), pa.binary(16))
    )
    seal_content(
        folder / name,
        space=name,
        encoder="planted",
        fingerprint=f"{name}'s",
        items=items.append_column("live", pa.array([False] * len(rows))).cast(CONTENT_SCHEMA),
        index=Index.build(world.content[rows]),
        data_fingerprint=world.dataset.fingerprint,
        cost={},
    )
    return ContentBundle.open(folder / name)


@pytest.fixture(scope="module")
def shuffled() -> NDArray[np.int64]:
    return np.random.default_rng(1).permutation(N_ITEMS)


@pytest.fixture(scope="module")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> Bridges:
    return Bridges(tmp_path_factory.mktemp("bridges"))


@pytest.fixture(scope="module")
def made(
    world: World,
    shuffled: NDArray[np.int64],
    bridges: Bridges,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bridged:
    text = space(tmp_path_factory.mktemp("spaces"), world, shuffled)
    return bridge(bridges, world.model, [text], world.dataset)


def test_an_item_as_if_new_is_found_by_its_content(made: Bridged) -> None:
    # Of 200 items 50 are of the genre; guessing among all would find one in four of them.
    left_out, learnt = made.left_out.metrics["recall@50"], made.learnt.metrics["recall@50"]
    assert learnt.value > 0.9
    assert left_out.value > 0.8


def test_what_is_sealed_serves_the_model_and_the_encoder_it_was_made_of(
    world: World, bridges: Bridges, made: Bridged
) -> None:
    bundle = bridges.open(f"ials@{made.version}")
    assert (bundle.manifest.model, bundle.manifest.model_version) == ("ials", "v0001")
    assert bundle.fingerprints == {"text": "text's"}
    assert bundle.manifest.metrics == [made.left_out]
    nearest = (bundle.map(world.content) @ world.model.vectors.T).argmax(axis=1)
    genre = world.content.argmax(axis=1)
    assert (genre[nearest] == genre).mean() > 0.95


def test_spaces_are_joined_in_order_over_the_items_that_have_both(
    world: World, bridges: Bridges, tmp_path: Path
) -> None:
    text = space(tmp_path, world, np.arange(150))
    image = space(tmp_path, world, np.arange(50, N_ITEMS)[::-1].copy(), "image")
    made = bridge(bridges, world.model, [text, image], world.dataset)
    manifest = bridges.manifest("ials", made.version)
    assert [(part.space, part.dim) for part in manifest.parts] == [("text", 8), ("image", 8)]
    assert manifest.learnt_items == 100
    assert made.left_out.metrics["recall@50"].value > 0.8


def test_other_data_than_the_model_learnt_is_refused(
    world: World, bridges: Bridges, ring: Path, tmp_path: Path
) -> None:
    text = space(tmp_path, world, np.arange(N_ITEMS))
    with pytest.raises(RecsysError, match="is not the data that ials v0001 was fitted to"):
        bridge(bridges, world.model, [text], Dataset.load(ring))


def test_content_of_too_few_items_is_told(world: World, bridges: Bridges, tmp_path: Path) -> None:
    text = space(tmp_path, world, np.arange(1))
    with pytest.raises(NoBridge, match="embed the items that the model was trained on"):
        bridge(bridges, world.model, [text], world.dataset)
