"""Items that a model never learnt, recommended by it through a bridge from their contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from encoders.item_text import item_texts
from recsys.bridge_bundle import Part, seal_bridge
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.registry import Bridges, Registry, Spaces
from recsys.retrieval.bridge import fit
from services.active_models import ActiveModels
from services.filter_schemas import Filters
from services.item_schemas import Item, ItemState
from services.live_catalogue import LiveCatalogue
from services.live_item import LiveItem, LiveVector
from services.schemas import RecommendReply, RecommendRequest
from services.served_model import Query
from tests.films import add_space
from tests.hashing_encoder import HashingEncoder
from tests.planted import Planted, add_fitted

ENCODER = HashingEncoder()


def told(item_id: str) -> dict[str, object]:
    """An item that says nothing but its genre and a word of its own."""
    genre = item_id.split("-")[0]
    return {
        "item_id": item_id,
        "title": f"{genre} {genre} {genre} {item_id.replace('-', '')}",
        "text": None,
        "image": None,
        "tags": [genre],
        "attributes": "{}",
        "available": True,
    }


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Spaces:
    """All items of the models, and one more of each genre."""
    ids = [*planted.ids, "comedy-new", "drama-new", "western-new"]
    catalogue = pa.Table.from_pylist([told(item_id) for item_id in ids], schema=ITEMS_SCHEMA)
    return add_space(tmp_path_factory.mktemp("spaces"), ENCODER, catalogue)


@pytest.fixture(scope="module")
def bridges(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, spaces: Spaces, planted: Planted
) -> Bridges:
    bridges = Bridges(tmp_path_factory.mktemp("bridges"))
    add_bridge(bridges, registry, spaces, planted)
    return bridges


def add_bridge(bridges: Bridges, registry: Registry, spaces: Spaces, planted: Planted) -> None:
    model, space = registry.open_active("ials"), spaces.open_active("text")
    histories = planted.histories.take(np.arange(60))
    fitted = fit(
        np.array(space.vectors[: len(planted.ids)]),
        np.array(model.vectors),
        planted.popularity,
        model.model.query_vectors(histories),
        histories,
    )
    version = bridges.add(
        "ials",
        lambda folder: seal_bridge(
            folder,
            fitted=fitted,
            model="ials",
            model_version=model.version,
            parts=[Part(space="text", fingerprint=ENCODER.fingerprint, dim=ENCODER.dim)],
            learnt_items=len(planted.ids),
            data_fingerprint="planted",
            metrics=[],
            cost={},
        ),
    )
    bridges.activate("ials", version)


@pytest.fixture
def models(registry: Registry, spaces: Spaces, bridges: Bridges) -> ActiveModels:
    return ActiveModels(registry, "ials", spaces, bridges)


def put(item_id: str, **fields: object) -> LiveItem:
    described = {**told(item_id), "attributes": {}, **fields}
    item = Item.model_validate(described)
    table = pa.Table.from_pylist([told(item_id)], schema=ITEMS_SCHEMA)
    words = item_texts(table).to_pylist()
    vector = LiveVector(ENCODER.fingerprint, bytes(16), ENCODER.encode(words).vectors[0])
    return LiveItem(item_id, 1, 1, item, {"text": vector}, {"text": ItemState.READY}, {})


def gone(item_id: str) -> LiveItem:
    return LiveItem(item_id, 2, 0, None, {}, {}, {})


def answer(models: ActiveModels, **fields: object) -> RecommendReply:
    asked: dict[str, object] = {"history": ["comedy-0", "comedy-1", "comedy-2"], "k": 60}
    request = RecommendRequest.model_validate(asked | fields)
    [reply] = models.recommender.recommend([Query(request, request.history or ())])
    assert isinstance(reply, RecommendReply), reply
    return reply


def bridged(reply: RecommendReply) -> list[str]:
    return [item.item_id for item in reply.items if item.bridged]


def test_a_new_item_is_recommended_to_those_who_like_its_kind(models: ActiveModels) -> None:
    items = answer(models).items
    places = {item.item_id: place for place, item in enumerate(items)}
    assert places["comedy-new"] < 30
    assert "drama-new" not in places or places["comedy-new"] < places["drama-new"]
    assert [item.score for item in items] == sorted((i.score for i in items), reverse=True)
    assert {item.space for item in items} == {"ials"}


def test_a_live_item_is_recommended_once_it_has_a_vector(models: ActiveModels) -> None:
    assert "comedy-live" not in bridged(answer(models))
    models.lay(LiveCatalogue.empty().after([put("comedy-live")], 1))
    assert "comedy-live" in bridged(answer(models))


def test_a_new_item_obeys_the_request(models: ActiveModels) -> None:
    new = ["comedy-new"]
    assert bridged(answer(models, deny=new)) == [i for i in bridged(answer(models)) if i not in new]
    assert [item.item_id for item in answer(models, allow=new).items] == new
    assert bridged(answer(models, filters=Filters(tags=["western"]))) == ["western-new"]
    assert "comedy-new" not in bridged(answer(models, history=["comedy-0", "comedy-new"]))


def test_a_new_item_that_is_deleted_or_not_available_is_not_recommended(
    models: ActiveModels,
) -> None:
    models.lay(LiveCatalogue.empty().after([gone("comedy-new")], 1))
    assert "comedy-new" not in bridged(answer(models))
    models.lay(LiveCatalogue.empty().after([put("comedy-new", available=False)], 1))
    assert "comedy-new" not in bridged(answer(models))


def test_an_item_stands_once_where_it_is_new_and_live(models: ActiveModels) -> None:
    models.lay(LiveCatalogue.empty().after([put("comedy-new", title="Anew")], 1))
    found = [item for item in answer(models).items if item.item_id == "comedy-new"]
    assert [item.title for item in found] == ["Anew"]


def test_as_many_items_may_be_asked_for_as_there_are(models: ActiveModels) -> None:
    everything = answer(models, k=93).items
    assert len({item.item_id for item in everything}) == len(everything) >= 80


def test_a_bridge_to_another_version_of_the_model_is_not_used(
    tmp_path: Path,
    planted: Planted,
    registry: Registry,
    spaces: Spaces,
    bridges: Bridges,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Registry(tmp_path / "models")
    add_fitted(other, "ials", planted)
    add_fitted(other, "ials", planted)
    models = ActiveModels(other, "ials", spaces, bridges)
    assert bridged(answer(models)) == []
    assert "recsys bridge fit ials" in caplog.text


def test_a_bridge_that_becomes_active_is_used_from_then_on(
    tmp_path: Path, planted: Planted, registry: Registry, spaces: Spaces
) -> None:
    bridges = Bridges(tmp_path / "bridges")
    models = ActiveModels(registry, "ials", spaces, bridges)
    assert bridged(answer(models)) == []
    add_bridge(bridges, registry, spaces, planted)
    assert models.refresh()
    assert "comedy-new" in bridged(answer(models))
