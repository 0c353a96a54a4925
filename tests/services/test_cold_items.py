"""Items that a model never learnt, recommended by it through a bridge from their contents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from encoders.item_text import item_texts
from recsys.bridge_bundle import Part, seal_bridge
from recsys.bridging import learn
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.registry import Bridges, Registry, Spaces
from recsys.retrieval.tag_columns import with_tags
from services.active_models import ActiveModels
from services.cold_items import ColdItems
from services.filter_schemas import Filters
from services.item_schemas import Item, ItemState
from services.live_catalogue import LiveCatalogue
from services.live_item import LiveItem, LiveVector
from services.problems import Invalid
from services.schemas import Recommendation, RecommendReply, RecommendRequest
from services.served_model import Query
from tests.films import add_space
from tests.hashing_encoder import HashingEncoder
from tests.planted import GENRES, Planted, add_fitted

ENCODER = HashingEncoder()


def told(item_id: str) -> dict[str, object]:
    """An item that says nothing but its genre and a word of its own; one of no model has a year."""
    genre = item_id.split("-")[0]
    return {
        "item_id": item_id,
        "title": f"{genre} {genre} {genre} {item_id.replace('-', '')}",
        "text": None,
        "image": None,
        "tags": [genre],
        "attributes": '{"year": 2026}' if item_id.endswith("-new") else "{}",
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
    learnt, tags = np.arange(len(planted.ids)), space.catalogue["tags"].slice(0, len(planted.ids))
    content = with_tags([space.vectors[learnt]], tags, GENRES)
    fitted = learn(model.model, planted.popularity, learnt, content, planted.histories)
    version = bridges.add(
        "ials",
        lambda folder: seal_bridge(
            folder,
            fitted=fitted,
            model="ials",
            model_version=model.version,
            parts=[Part(space="text", fingerprint=ENCODER.fingerprint, dim=ENCODER.dim)],
            tags=GENRES,
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


def waiting(item_id: str, **fields: object) -> LiveItem:
    """One that was put, and is not embedded yet."""
    return replace(put(item_id, **fields), vectors={}, states={"text": ItemState.PENDING})


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


def test_a_new_item_lies_where_its_text_and_its_tags_put_it(
    registry: Registry, spaces: Spaces, bridges: Bridges, planted: Planted
) -> None:
    space, bridge = spaces.open_active("text"), bridges.open_active("ials")
    cold = ColdItems(registry.open_active("ials"), bridge, {"text": space})
    [new] = cold.under(LiveCatalogue.empty(), np.ones(len(planted.ids), np.bool_))
    ids = ["comedy-29", "drama-29", "western-29", "comedy-new", "drama-new", "western-new"]
    assert new.shelf.ids.to_pylist() == ids
    borne = np.tile(np.eye(3, dtype=np.float32), (2, 1))
    content = np.hstack([space.vectors[space.items.rows(ids)], borne])
    np.testing.assert_array_equal(new.shelf.index.vectors, bridge.bridge.map(content))


def score(models: ActiveModels, live: LiveItem) -> float:
    """Of a live item, to one who likes comedies."""
    models.lay(LiveCatalogue.empty().after([live], 1))
    return found(models, live.item_id, k=94).score


def found(models: ActiveModels, item_id: str, **asked: object) -> Recommendation:
    """An item in an answer, where it stands once."""
    [item] = [item for item in answer(models, **asked).items if item.item_id == item_id]
    return item


def test_a_live_item_that_is_put_again_with_other_tags_lies_elsewhere(models: ActiveModels) -> None:
    as_comedy, as_drama = (
        score(models, put("comedy-live", tags=tags)) for tags in (["comedy"], ["drama"])
    )
    assert as_comedy > as_drama + 0.01


def test_a_tag_that_the_bridge_did_not_learn_is_ignored(models: ActiveModels) -> None:
    known = score(models, put("comedy-live", tags=["comedy"]))
    assert score(models, put("comedy-live", tags=["comedy", "unheard"])) == known


def test_a_new_item_obeys_the_request(models: ActiveModels) -> None:
    new = ["comedy-new"]
    assert bridged(answer(models, deny=new)) == [i for i in bridged(answer(models)) if i not in new]
    assert [item.item_id for item in answer(models, allow=new).items] == new
    westerns = bridged(answer(models, filters=Filters(tags=["western"])))
    assert sorted(westerns) == ["western-29", "western-new"]
    assert "comedy-new" not in bridged(answer(models, history=["comedy-0", "comedy-new"]))


def test_an_attribute_that_only_some_new_items_have_is_filtered_by(models: ActiveModels) -> None:
    models.lay(LiveCatalogue.empty().after([put("comedy-live")], 1))
    year = Filters.model_validate({"attributes": {"year": 2026}})
    filtered = [item.item_id for item in answer(models, filters=year).items]
    assert sorted(filtered) == ["comedy-new", "drama-new", "western-new"]


def test_a_batch_is_answered_as_its_queries_one_by_one(models: ActiveModels) -> None:
    models.lay(LiveCatalogue.empty().after([put("comedy-live"), put("drama-live")], 1))
    told: list[dict[str, object]] = [
        {"history": ["comedy-0", "comedy-1"]},
        {"history": ["drama-0", "comedy-new"], "k": 3},
        {"history": ["drama-0", "comedy-new"], "k": 30, "exclude_seen": False},
        {"history": ["drama-1", "comedy-live"], "k": 94, "deny": ["drama-new"]},
        {"history": ["western-0"], "filters": {"tags": ["comedy"]}},
        {"history": ["western-0"], "k": 2, "allow": ["drama-live", "comedy-new", "comedy-0"]},
        {"history": ["western-0", "western-29"], "k": 20},
        {"history": ["comedy-0"], "allow": ["western-29"]},
        {"history": [], "allow": ["western-29"]},
        {"history": ["nothing"]},
    ]
    requests = [RecommendRequest.model_validate(each) for each in told]
    queries = [Query(request, request.history or ()) for request in requests]
    n_bridged = 0
    for query, reply in zip(queries, models.recommender.recommend(queries), strict=True):
        [alone] = models.recommender.recommend([query])
        assert isinstance(reply, RecommendReply) and isinstance(alone, RecommendReply)
        assert [i.item_id for i in reply.items] == [i.item_id for i in alone.items]
        np.testing.assert_allclose(
            [i.score for i in reply.items], [i.score for i in alone.items], rtol=1e-4, atol=1e-5
        )
        n_bridged += len(bridged(reply))
    assert n_bridged > 3


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


def test_until_it_is_embedded_a_new_item_put_anew_is_recommended_as_before(
    models: ActiveModels,
) -> None:
    models.lay(LiveCatalogue.empty().after([waiting("comedy-new", title="Anew", tags=["sale"])], 1))
    [item] = answer(models, filters=Filters(tags=["sale"])).items
    assert (item.item_id, item.title, item.bridged) == ("comedy-new", "Anew", True)
    models.lay(LiveCatalogue.empty().after([waiting("comedy-new", available=False)], 1))
    assert "comedy-new" not in bridged(answer(models))


def test_as_many_items_may_be_asked_for_as_there_are(models: ActiveModels) -> None:
    everything = answer(models, k=93).items
    assert (
        len({item.item_id for item in everything}) == len(everything) == 89
    )  # 3 seen, 1 not there
    with pytest.raises(Invalid, match="from 1 to 93, the number of items"):
        models.recommender.similar("comedy-0", k=94)


LIKES_WESTERNS: dict[str, object] = {"history": [f"western-{n}" for n in range(6)], "k": 80}


def test_what_the_model_had_in_its_catalogue_but_nobody_touched_is_recommended_as_new(
    models: ActiveModels, planted: Planted
) -> None:
    assert found(models, planted.untouched, **LIKES_WESTERNS).bridged
    places = [item.item_id for item in answer(models, **LIKES_WESTERNS).items]
    assert places.index(planted.untouched) < 30


def test_without_a_bridge_an_untouched_item_is_the_model_s(
    registry: Registry, spaces: Spaces, planted: Planted
) -> None:
    untold = found(ActiveModels(registry, "ials", spaces), planted.untouched, **LIKES_WESTERNS)
    assert not untold.bridged


def test_an_untouched_item_obeys_the_request(models: ActiveModels, planted: Planted) -> None:
    item_id = planted.untouched
    [item] = answer(models, allow=[item_id]).items
    assert (item.item_id, item.bridged) == (item_id, True)
    for without in (
        {"deny": [item_id]},
        {"history": ["western-0", item_id]},
        {"filters": Filters(tags=["comedy"])},
    ):
        ids = [item.item_id for item in answer(models, **{"k": 80, **without}).items]
        assert item_id not in ids


def test_an_untouched_item_is_among_the_popular_where_the_model_has_no_answer(
    models: ActiveModels, planted: Planted
) -> None:
    [item] = answer(models, history=[], allow=[planted.untouched]).items
    assert (item.space, item.score, item.bridged) == ("popularity", 0, False)


def test_an_untouched_item_that_is_put_anew_is_what_is_said_of_it_now(
    models: ActiveModels, planted: Planted
) -> None:
    item_id = planted.untouched
    for state in (put, waiting):
        models.lay(LiveCatalogue.empty().after([state(item_id, title="Anew")], 1))
        item = found(models, item_id, **LIKES_WESTERNS)
        assert (item.title, item.bridged) == ("Anew", True)
        models.lay(LiveCatalogue.empty().after([state(item_id, available=False)], 1))
        assert item_id not in [item.item_id for item in answer(models, **LIKES_WESTERNS).items]
    models.lay(LiveCatalogue.empty().after([gone(item_id)], 1))
    assert item_id not in [item.item_id for item in answer(models, **LIKES_WESTERNS).items]


def test_an_untouched_item_that_the_model_s_catalogue_withholds_is_not_recommended(
    registry: Registry, spaces: Spaces, bridges: Bridges, planted: Planted
) -> None:
    bridge, space = bridges.open_active("ials"), spaces.open_active("text")
    cold = ColdItems(registry.open_active("ials"), bridge, {"text": space})
    may = np.array([item_id != planted.untouched for item_id in planted.ids])
    [main] = cold.under(LiveCatalogue.empty(), may)
    withheld = main.shelf.ids.filter(pa.array(~main.available)).to_pylist()
    assert withheld == [planted.untouched]


def test_items_similar_to_an_untouched_one_are_those_of_like_content(
    models: ActiveModels, planted: Planted
) -> None:
    reply = models.recommender.similar(planted.untouched, k=10)
    assert reply.fallback is not None and "never learnt" in reply.fallback.detail
    assert {item.item_id.split("-")[0] for item in reply.items} == {"western"}
    assert planted.untouched not in [item.item_id for item in reply.items]
    assert "ials" in models.recommender.item(planted.untouched).models


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
