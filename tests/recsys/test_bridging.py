"""A model and the content of its items become a bridge that says how it does."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys import bridging
from recsys.bridging import Bridged, bridge, measured
from recsys.content_bundle import ContentBundle
from recsys.data.dataset import Dataset
from recsys.data.histories import Histories
from recsys.data.split import Holdout
from recsys.registry import Bridges
from recsys.retrieval.bridge import NoBridge
from tests.genres import N_ITEMS, World, genre_tags, seal_space, world_in


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(tmp_path_factory.mktemp("world"))


def space(
    folder: Path,
    world: World,
    rows: NDArray[np.int64],
    name: str = "text",
    tags: pa.Array | None = None,
) -> ContentBundle:
    seal_space(folder / name, world, rows, name, tags)
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
    mapped = bundle.map([world.content], world.dataset.catalogue["tags"])
    nearest = (mapped @ world.model.vectors.T).argmax(axis=1)
    assert (world.genre[nearest] == world.genre).mean() > 0.95


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


@pytest.fixture(scope="module")
def noise(world: World) -> World:
    """The same where vectors tell nothing."""
    content = np.random.default_rng(2).normal(size=world.content.shape).astype(np.float32)
    return world._replace(content=content)


def test_what_only_tags_tell_is_bridged(
    noise: World, shuffled: NDArray[np.int64], bridges: Bridges, tmp_path: Path
) -> None:
    told = space(tmp_path / "told", noise, shuffled, tags=genre_tags(noise))
    untold = space(tmp_path / "untold", noise, shuffled)
    with_tags, without = (
        bridges.manifest("ials", bridge(bridges, noise.model, [each], noise.dataset).version)
        for each in (told, untold)
    )
    assert with_tags.explained > 0.7
    assert without.explained < 0.1


def test_a_bridge_says_which_tags_it_is_from(
    noise: World, bridges: Bridges, tmp_path: Path
) -> None:
    told = space(tmp_path, noise, np.arange(N_ITEMS), tags=genre_tags(noise))
    made = bridge(bridges, noise.model, [told], noise.dataset)
    manifest = bridges.manifest("ials", made.version)
    assert sorted(manifest.tags) == ["genre 0", "genre 1", "genre 2", "genre 3"]
    assert manifest.content == "text + 4 tags"


def test_a_tag_that_no_learnt_item_bears_is_none_of_a_bridge(
    noise: World, bridges: Bridges, tmp_path: Path
) -> None:
    touched = np.array(noise.model.popularity)
    touched[7] = 0
    tags = genre_tags(noise).to_pylist()
    tags[7] = ["unheard"]
    told = space(tmp_path, noise, np.arange(N_ITEMS), tags=pa.array(tags))
    made = bridge(bridges, replace(noise.model, popularity=touched), [told], noise.dataset)
    assert "unheard" not in bridges.manifest("ials", made.version).tags


def test_new_items_that_lack_a_content_are_counted(
    world: World, bridges: Bridges, tmp_path: Path
) -> None:
    touched = np.array(world.model.popularity)
    assert touched.all()
    touched[[3, 7]] = 0
    text = space(tmp_path, world, np.arange(N_ITEMS - 50))
    image = space(tmp_path, world, np.arange(5, N_ITEMS), "image")
    model = replace(world.model, popularity=touched)
    assert bridge(bridges, model, [text], world.dataset).without_content == 0
    assert bridge(bridges, model, [text, image], world.dataset).without_content == 1


@pytest.fixture(scope="module")
def busy() -> Holdout:
    """300 users with 150 targets each, as a temporal split may leave them."""
    mixed = [np.random.default_rng(user).permutation(N_ITEMS) for user in range(300)]
    return Holdout(
        users=np.arange(300),
        histories=Histories.of([items[:5] for items in mixed]),
        targets=Histories.of([items[5:155] for items in mixed]),
    )


def test_users_of_many_targets_are_measured_in_bounded_memory(
    world: World, busy: Holdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridging, "_SCORES_AT_ONCE", 2**16)
    tracemalloc.start()
    measured(world.model, world.model.vectors, busy, "temporal")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * 150 * N_ITEMS * 4 / 2  # half of all scores


def test_how_many_targets_are_measured_at_once_changes_nothing(
    world: World, busy: Holdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(world.model, world.model.vectors, busy, "temporal")
    monkeypatch.setattr(bridging, "_SCORES_AT_ONCE", 7 * N_ITEMS)
    assert measured(world.model, world.model.vectors, busy, "temporal") == whole


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
