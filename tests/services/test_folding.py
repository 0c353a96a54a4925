"""Folding: live items go into the main indexes, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import RecsysError
from infra.storage import exclusive
from recsys.data.dataset import ITEMS_SCHEMA, write_dataset
from recsys.retrieval.index import Asked
from services.folding import LOCK, reindex_space
from services.item_schemas import ItemState
from services.jobs import Jobs
from tests.films import add_pictures, films
from tests.planted import Planted, add_fitted
from tests.shop import Shop, item


def test_a_fold_moves_what_is_embedded_into_the_main_index(shop: Shop) -> None:
    shop.put(item(), item("space-0", title="Changed", text="a pudding cools"))
    shop.embed()
    shop.run(shop.items.delete("space-1"))
    before = [shop.found(words, 36) for words in ("comet strikes", "pudding", "rocket orbit")]
    folded = shop.fold()
    assert (folded.versions, folded.folded, folded.left) == ({"text": "v0002"}, 2, 0)
    bundle = shop.spaces.open_active("text")
    assert "new" in bundle.items
    assert "space-1" not in bundle.items
    assert shop.live() == ["space-1"]  # which the version before still knows
    after = [shop.found(words, 36) for words in ("comet strikes", "pudding", "rocket orbit")]
    assert after == before


def test_a_fold_forgets_the_deletion_of_what_nothing_knows(shop: Shop) -> None:
    for item_id in ("nobody-knows-it", "space-1"):
        shop.run(shop.items.delete(item_id))
    assert shop.fold().hidden == 1
    assert shop.live() == ["space-1"]


def test_a_fold_keeps_the_deletion_of_what_a_model_knows(shop: Shop, planted: Planted) -> None:
    add_fitted(shop.models, "popularity", planted)
    shop.run(shop.items.delete(planted.catalogue["item_id"][0].as_py()))
    assert shop.fold().hidden == 1


def test_a_deleted_item_stays_hidden_after_a_fold_and_a_rollback(shop: Shop) -> None:
    shop.run(shop.items.delete("space-1"))
    shop.fold()
    shop.fold()
    assert shop.spaces.rollback("text") == "v0001"
    assert "space-1" in shop.spaces.open_active("text").items
    assert "space-1" not in shop.found("rocket orbit", 36)


def test_an_item_deleted_after_its_job_was_submitted_stays_hidden(
    shop: Shop, tmp_path: Path
) -> None:
    catalogue = films().slice(0, 1).set_column(0, "item_id", pa.array(["late"]))
    write_dataset(tmp_path / "films", [], catalogue.cast(ITEMS_SCHEMA), "a test")

    async def submit() -> None:
        await Jobs(shop.redis, shop.settings, shop).submit(tmp_path / "films", {"text": "hashing"})

    shop.run(submit())
    shop.run(shop.items.delete("late"))
    assert shop.fold().hidden == 1


def test_a_fold_of_nothing_builds_nothing(shop: Shop) -> None:
    folded = shop.fold()
    assert folded.versions == {"text": "v0001"}
    assert shop.spaces.versions("text") == ["v0001"]


def test_a_fold_leaves_what_waits_to_be_embedded(shop: Shop) -> None:
    shop.put(item("embedded"))
    shop.embed()
    shop.put(item("waiting"))
    folded = shop.fold()
    assert (folded.folded, folded.left) == (1, 1)
    assert shop.live() == ["waiting"]


def test_a_fold_takes_nothing_out_for_an_embedding_that_was_given_up(shop: Shop) -> None:
    shop.put(item("space-1", title="Space 1", text="a pudding cools"), item())
    shop.embed()
    shop.put(item("space-1", title="Space 1", text="a comet strikes"))
    shop.run(shop.embedder.give_up(shop.bodies()[-1], "the model cannot be loaded"))
    folded = shop.fold()
    assert (folded.folded, folded.left) == (1, 1)
    assert "space-1" in shop.spaces.open_active("text").items


def test_an_item_with_bad_content_in_one_space_is_folded_into_the_other(shop: Shop) -> None:
    add_pictures(shop.spaces.root, shop.colours)
    (shop.pictures / "broken.png").write_bytes(b"no picture")
    shop.put(item(image="broken.png"))
    shop.embed()
    assert shop.one("new").states["image"] is ItemState.FAILED
    assert shop.fold().folded == 1
    assert shop.live() == []
    assert "new" in shop.spaces.open_active("text").items


def test_what_changes_during_a_fold_is_not_dropped_by_it(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    entries = shop.run(shop.items.all())
    shop.put(item(text="a pudding cools"))
    assert shop.run(shop.items.drop(entries)) == 0
    assert shop.one("new").item is not None


def test_a_fold_tells_followers_to_read_anew(shop: Shop) -> None:
    shop.put(item())
    shop.embed()
    before = shop.run(shop.items.changes(0)).generation
    shop.fold()
    assert shop.run(shop.items.changes(0)).generation != before


def test_folds_leave_the_newest_versions_and_no_more(shop: Shop) -> None:
    for number in range(6):
        shop.put(item(f"i{number}"))
        shop.embed()
        shop.fold()
    assert shop.spaces.versions("text") == ["v0004", "v0005", "v0006", "v0007"]


def test_a_fold_asks_for_the_index_that_the_space_was_built_anew_with(shop: Shop) -> None:
    asked: Asked = {"recall": 0.9, "exact_below": 30, "kind": "ivf_sq8"}
    reindex_space(shop.spaces, "text", asked)
    shop.put(item())
    shop.embed()
    shop.fold()
    folded = shop.spaces.open_active("text")
    assert (folded.version, folded.index.asked) == ("v0003", asked)


def test_a_space_that_is_built_anew_holds_what_it_held(shop: Shop) -> None:
    before = shop.spaces.open_active("text")
    version, index = reindex_space(
        shop.spaces, "text", {"recall": 0.9, "exact_below": 30, "kind": "exact"}, activate=False
    )
    assert shop.spaces.active("text") == before.version
    after = shop.spaces.open(f"text@{version}")
    assert after.manifest.index == index.description
    assert after.manifest.parent == before.version
    assert after.catalogue.equals(before.catalogue)
    np.testing.assert_array_equal(after.vectors, before.vectors)


def test_a_space_is_not_built_anew_beside_a_fold(shop: Shop) -> None:
    asked: Asked = {"recall": 0.9, "exact_below": 30, "kind": "exact"}
    with (
        exclusive(shop.spaces.root / LOCK),
        pytest.raises(RecsysError, match="another process builds the main indexes anew"),
    ):
        reindex_space(shop.spaces, "text", asked)
    assert shop.spaces.versions("text") == ["v0001"]
