"""Query vectors in, items found: by words, by examples, through filters, over several spaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.vocabulary import Vocabulary
from recsys.registry import Spaces
from services.content_space import SpaceEncoder
from services.filter_schemas import Filters
from services.item_schemas import Item, ItemState
from services.live_catalogue import LiveCatalogue
from services.live_item import LiveItem, LiveVector
from services.popularity import Popularity
from services.problems import Invalid, ServiceError, UnknownItem, UnknownSpace
from services.search_schemas import SearchReply, SearchRequest
from services.searcher import Searcher, SearchQuery, Unencoded
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder

ENCODER = HashingEncoder()


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> Spaces:
    return add_space(tmp_path_factory.mktemp("spaces"), ENCODER, films())


@pytest.fixture(scope="module")
def searcher(spaces: Spaces) -> Searcher:
    return Searcher({"text": spaces.open_active("text")}, LiveCatalogue.empty())


def query(**fields: Any) -> SearchQuery:
    request = SearchRequest(**fields)
    encoded = {}
    if request.text is not None:
        encoded[ENCODER.fingerprint] = ENCODER.encode([request.text]).vectors[0]
    return SearchQuery(request, encoded)


def found(searcher: Searcher, **fields: Any) -> SearchReply:
    reply = searcher.search(query(**fields))
    assert isinstance(reply, SearchReply), reply
    return reply


def refused(searcher: Searcher, one: SearchQuery) -> ServiceError:
    reply = searcher.search(one)
    assert isinstance(reply, ServiceError), reply
    return reply


def ids(reply: SearchReply) -> list[str]:
    return [item.item_id for item in reply.items]


def live(*entries: LiveItem) -> LiveCatalogue:
    return LiveCatalogue.empty().after(entries, len(entries))


def put(
    item_id: str, words: str | None, encoder: HashingEncoder = ENCODER, **fields: Any
) -> LiveItem:
    """An item as it stands once it is embedded; without words, before."""
    item = Item(item_id=item_id, **{"title": item_id.title(), **fields})
    if words is None:
        return LiveItem(item_id, 1, 1, item, {}, {"text": ItemState.PENDING}, {})
    vector = LiveVector(encoder.fingerprint, bytes(16), encoder.encode([words]).vectors[0])
    return LiveItem(item_id, 1, 1, item, {"text": vector}, {"text": ItemState.READY}, {})


def gone(item_id: str) -> LiveItem:
    return LiveItem(item_id, 2, 0, None, {}, {}, {})


def test_words_find_the_items_that_tell_of_them(searcher: Searcher) -> None:
    reply = found(searcher, text="rocket orbit wspace0", k=5)
    assert ids(reply)[0] == "space-0"
    assert {i.split("-")[0] for i in ids(reply)} == {"space"}
    assert reply.items[0].title == "Space 0"
    assert reply.versions == {"text": "v0001"}


def test_what_is_not_available_is_not_found(searcher: Searcher) -> None:
    assert "space-3" not in ids(found(searcher, text="star rocket wspace3", k=30))


def test_like_items_are_found_without_the_examples(searcher: Searcher) -> None:
    reply = found(searcher, like=["western-0", "western-4"], k=5)
    assert {i.split("-")[0] for i in ids(reply)} == {"western"}
    assert not {"western-0", "western-4"} & set(ids(reply))


def test_unlike_items_push_their_likes_down(searcher: Searcher) -> None:
    text = "sheriff saddle kiss letter"
    plain = ids(found(searcher, text=text, k=10))
    pushed = ids(found(searcher, text=text, unlike=["romance-0", "romance-4"], k=10))
    romances = [sum(i.startswith("romance") for i in each[:5]) for each in (plain, pushed)]
    assert romances[1] < romances[0]
    assert not {"romance-0", "romance-4"} & set(pushed)


def test_unknown_examples_are_named(searcher: Searcher) -> None:
    reply = found(searcher, text="sheriff", like=["western-1", "nobody"], unlike=["no-one"])
    assert reply.unknown_items == ["nobody", "no-one"]


def test_examples_that_nobody_knows_alone_are_refused(searcher: Searcher) -> None:
    error = refused(searcher, query(like=["nobody"]))
    assert isinstance(error, UnknownItem)
    assert str(error) == "like: no space searched (text) knows any of these items"


def test_examples_that_were_deleted_are_said_to_be(searcher: Searcher) -> None:
    error = refused(searcher.over(live(gone("space-0"))), query(like=["nobody", "space-0"]))
    assert isinstance(error, UnknownItem)
    assert str(error).endswith("knows any of these items; deleted: space-0")


def test_examples_that_cancel_out_are_not_said_to_be_unknown(searcher: Searcher) -> None:
    one, two = put("one", "rocket"), put("two", "rocket")
    away = replace(two.vectors["text"], vector=-two.vectors["text"].vector)
    opposite = replace(two, vectors={"text": away})
    error = refused(searcher.over(live(one, opposite)), query(like=["one", "two"]))
    assert isinstance(error, Invalid)
    assert "the vectors of like cancel each other out" in str(error)


def test_filters_leave_what_passes_them(searcher: Searcher) -> None:
    filters = {"tags": ["western", "space"], "attributes": {"year": {"gte": 1985, "lt": 1988}}}
    reply = found(searcher, text="rocket horse kiss", filters=filters, k=30)
    assert sorted(ids(reply)) == [f"{g}-{n}" for g in ("space", "western") for n in (5, 6, 7)]


def test_an_attribute_that_no_item_has_is_refused_by_its_name(searcher: Searcher) -> None:
    error = refused(searcher, query(text="x", filters={"attributes": {"yaer": 1985}}))
    assert isinstance(error, Invalid)
    assert [each.field for each in error.errors] == ["filters.attributes.yaer"]
    assert "year" in str(error)


def test_a_query_of_another_encoder_is_never_compared_but_asked_for_anew(
    searcher: Searcher,
) -> None:
    other = HashingEncoder(name="other")
    vectors = {other.fingerprint: other.encode(["rocket"]).vectors[0]}
    told = searcher.search(SearchQuery(SearchRequest(text="rocket"), vectors))
    assert told == Unencoded((SpaceEncoder("text", ENCODER.name, ENCODER.fingerprint),))
    vectors[ENCODER.fingerprint] = ENCODER.encode(["rocket"]).vectors[0]
    both = searcher.search(SearchQuery(SearchRequest(text="rocket"), vectors))
    assert isinstance(both, SearchReply)
    assert both.items == found(searcher, text="rocket").items


def test_a_space_that_is_not_in_service_is_refused_with_those_that_are(searcher: Searcher) -> None:
    error = refused(searcher, query(text="x", spaces={"smell": 1}))
    assert isinstance(error, UnknownSpace)
    assert "text" in str(error)


def test_without_any_space_the_way_to_one_is_told() -> None:
    error = refused(Searcher({}, LiveCatalogue.empty()), query(text="x"))
    assert "recsys embed" in str(error)


def test_a_live_item_is_found_beside_the_main_index(searcher: Searcher) -> None:
    after = searcher.over(live(put("new", "rocket orbit comet")))
    assert ids(found(after, text="comet", k=3))[0] == "new"
    assert "new" not in ids(found(searcher, text="comet", k=36))


def test_a_live_item_obeys_filters_like_any_other(searcher: Searcher) -> None:
    item = put("new", "comet", tags=["comets"], attributes={"year": 2030, "rare": True})
    after = searcher.over(live(item))
    assert ids(found(after, text="comet", filters={"attributes": {"year": 2030}})) == ["new"]
    assert ids(found(after, text="comet", filters={"attributes": {"rare": True}})) == ["new"]
    assert "new" not in ids(found(after, text="comet", filters={"tags": ["space"]}, k=36))


def test_a_deleted_item_is_hidden_from_search_and_examples(searcher: Searcher) -> None:
    after = searcher.over(live(gone("space-0")))
    assert "space-0" not in ids(found(after, text="rocket orbit wspace0", k=36))
    assert found(after, text="rocket", like=["space-0"]).unknown_items == ["space-0"]


def test_an_item_put_anew_is_found_by_its_new_content_alone(searcher: Searcher) -> None:
    after = searcher.over(live(put("space-0", "pudding", title="A pudding")))
    reply = found(after, text="pudding", k=36)
    assert ids(reply)[0] == "space-0"
    assert ids(reply).count("space-0") == 1
    assert reply.items[0].title == "A pudding"


def test_until_it_is_embedded_an_item_put_anew_is_found_by_its_old_content(
    searcher: Searcher,
) -> None:
    changed = put("space-0", None, title="Renamed", tags=["renamed"])
    after = searcher.over(live(changed))
    reply = found(after, text="rocket orbit wspace0", filters={"tags": ["renamed"]}, k=5)
    assert ids(reply) == ["space-0"]
    assert reply.items[0].title == "Renamed"


def test_an_item_put_anew_as_not_available_is_hidden(searcher: Searcher) -> None:
    after = searcher.over(live(put("space-0", None, available=False)))
    assert "space-0" not in ids(found(after, text="rocket orbit wspace0", k=36))


def test_a_live_vector_of_another_encoder_plays_no_part(searcher: Searcher) -> None:
    other = HashingEncoder(name="other")
    after = searcher.over(live(put("new", "comet", other)))
    assert "new" not in ids(found(after, text="comet", k=36))
    assert after.states("new") == {"text": ItemState.PENDING}


def test_two_spaces_are_fused_by_their_ranks(
    spaces: Spaces, tmp_path: Path, searcher: Searcher
) -> None:
    bundle = spaces.open_active("text")
    both = Searcher({"text": bundle, "other": bundle}, LiveCatalogue.empty())
    reply = found(both, like=["western-0"], k=3)
    assert set(reply.items[0].spaces) == {"text", "other"}
    assert reply.items[0].score == pytest.approx(2 / 61, rel=1e-5)
    assert ids(reply) == ids(found(searcher, like=["western-0"], k=3))


def test_a_space_without_the_attribute_that_is_filtered_by_leaves_the_answer_to_the_others(
    spaces: Spaces, tmp_path: Path
) -> None:
    plain = films().drop_columns(["attributes"]).append_column("attributes", pa.array(["{}"] * 36))
    other = add_space(tmp_path, ENCODER, plain.select(films().column_names), name="other")
    bundles = {"other": other.open_active("other"), "text": spaces.open_active("text")}
    both = Searcher(bundles, LiveCatalogue.empty())
    reply = found(both, like=["western-0"], filters={"attributes": {"year": 1985}})
    assert reply.versions == {"text": "v0001"}
    assert {item.split("-")[1] for item in ids(reply)} == {"5"}
    refusal = refused(both, query(like=["western-0"], filters={"attributes": {"yaer": 1985}}))
    assert isinstance(refusal, Invalid)


def test_a_space_of_weight_0_is_not_asked(spaces: Spaces) -> None:
    bundle = spaces.open_active("text")
    both = Searcher({"text": bundle, "other": bundle}, LiveCatalogue.empty())
    reply = found(both, like=["western-0"], spaces={"text": 1, "other": 0})
    assert reply.versions == {"text": "v0001"}


def test_an_example_that_only_a_space_of_weight_0_knows_is_named_as_unknown(
    spaces: Spaces, tmp_path: Path
) -> None:
    few = add_space(tmp_path, ENCODER, films().slice(0, 12), name="other")
    bundles = {"text": spaces.open_active("text"), "other": few.open_active("other")}
    both = Searcher(bundles, LiveCatalogue.empty())
    like = ["western-0", "space-0"]
    reply = found(both, like=like, spaces={"text": 0, "other": 1})
    assert reply.unknown_items == ["space-0"]


def test_popularity_ranks_what_the_spaces_found_and_adds_nothing(spaces: Spaces) -> None:
    bundle = spaces.open_active("text")
    taken = ["western-5", "western-3", "nobody-knows"]
    popularity = Popularity(Vocabulary(taken), np.array([7, 9, 100]))
    searcher = Searcher({"text": bundle}, LiveCatalogue.empty(), popularity)
    plain = found(searcher, like=["western-0"], k=35)
    reply = found(searcher, like=["western-0"], k=35, popularity=1000)
    others = [item for item in ids(plain) if item not in taken]
    assert ids(reply) == ["western-3", "western-5", *others]
    first = reply.items[0].spaces["popularity"]
    assert (first.rank, first.score) == (1, 9)
    assert "popularity" not in reply.items[2].spaces
    assert reply.versions == {"text": "v0001"}


def test_popularity_moves_nothing_where_nothing_was_taken(searcher: Searcher) -> None:
    plain = found(searcher, like=["western-0"])
    assert ids(found(searcher, like=["western-0"], popularity=1.0)) == ids(plain)


def test_similar_items_are_the_nearest_in_the_space(searcher: Searcher) -> None:
    reply = searcher.similar("western-0", 3, "text")
    vectors = searcher.bundles["text"].vectors
    cosines = vectors @ vectors[0]
    best = [i for i in np.argsort(-cosines) if i != 0][:3]
    assert [item.item_id for item in reply.items] == films()["item_id"].take(best).to_pylist()
    with pytest.raises(UnknownItem):
        searcher.similar("nobody", 3, "text")


def test_near_items_by_an_attribute_that_the_space_has_not_are_none(searcher: Searcher) -> None:
    """A model's catalogue may have it: the answer then comes from what is popular."""
    year = Filters.model_validate({"attributes": {"year": 1985}})
    price = Filters.model_validate({"attributes": {"price": 3}})
    near = searcher.near(["space-0"], 3, year, [])
    assert {item.item_id for item in near} == {"space-5", "western-5", "romance-5"}
    assert searcher.near(["space-0"], 3, price, []) == []


def test_the_catalogue_tells_items_as_they_are_now(searcher: Searcher) -> None:
    after = searcher.over(
        live(put("new", "comet"), put("space-1", None, title="Now"), gone("space-2"))
    )
    table = after.catalogue(["space-1", "new", "space-2", "western-0", "nobody"])
    assert table["title"].to_pylist() == ["Now", "New", "Western 0"]


def test_a_models_catalogue_learns_what_stands_in_any_of_the_main_indexes(tmp_path: Path) -> None:
    def said(space: str) -> pa.Table:
        titles = [f"{title} of {space}" for title in films()["title"].to_pylist()]
        at = films().column_names.index("title")
        return films().set_column(at, "title", pa.array(titles))

    add_space(tmp_path, ENCODER, said("text"), "text", live=["space-0", "space-1"])
    spaces = add_space(tmp_path, ENCODER, said("other"), "other", live=["space-1", "space-2"])
    bundles = {name: spaces.open_active(name) for name in ("text", "other")}
    renewed = Searcher(bundles, LiveCatalogue.empty()).renewed(films())
    changed = {
        item_id: title
        for item_id, title, before in zip(
            *(renewed[name].to_pylist() for name in ("item_id", "title")),
            films()["title"].to_pylist(),
            strict=True,
        )
        if title != before
    }
    assert changed == {
        "space-0": "Space 0 of text",
        "space-1": "Space 1 of text",
        "space-2": "Space 2 of other",
    }
