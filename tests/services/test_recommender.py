"""Queries in, recommendations out: what is asked for, and nothing that may not come."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle import seal
from recsys.data.histories import Histories
from recsys.models.catalog import KINDS
from recsys.models.popularity import Popularity, PopularityConfig
from recsys.registry import Registry
from recsys.retrieval.index import Index
from services.problems import Invalid, ServiceError, UnknownItem, UnknownModel
from services.recommender import Recommender
from services.schemas import FallbackReason, RecommendReply, RecommendRequest
from services.served_model import Query

IDS = [f"{genre}-{n}" for genre in ("comedy", "drama", "western") for n in range(30)]
TOUCHED = [item_id for item_id in IDS if not item_id.endswith("-29")]
UNAVAILABLE = "drama-3"
UNTOUCHED = "western-29"


@pytest.fixture(scope="module")
def recommender(registry: Registry) -> Recommender:
    return Recommender.of({name: registry.open_active(name) for name in registry.names()}, "ials")


def query(history: Sequence[str] = (), **fields: Any) -> Query:
    """A query with this history in the request, unless a user is named."""
    if "user_id" not in fields:
        fields["history"] = list(history)
    return Query(RecommendRequest(**fields), history)


def answer(recommender: Recommender, one: Query) -> RecommendReply:
    [reply] = recommender.recommend([one])
    assert isinstance(reply, RecommendReply), reply
    return reply


def failure(recommender: Recommender, one: Query) -> ServiceError:
    [reply] = recommender.recommend([one])
    assert isinstance(reply, ServiceError), reply
    return reply


def ids(reply: RecommendReply) -> list[str]:
    return [item.item_id for item in reply.items]


def most_popular(recommender: Recommender, without: Sequence[str] = ()) -> list[tuple[float, str]]:
    bundle = recommender.bundles["ials"]
    counts = zip(bundle.popularity.tolist(), IDS, strict=True)
    return sorted(((c, i) for c, i in counts if i not in (*without, UNAVAILABLE)), reverse=True)


def counted(tmp_path: Path, n: int) -> Recommender:
    """The popularity of n items, from "0", the most popular, on."""
    shares = np.linspace(1, 0, n, dtype=np.float32)[:, None]
    registry = Registry(tmp_path)
    model = Popularity(PopularityConfig(), shares)
    version = registry.add(
        "popularity",
        lambda folder: seal(
            folder,
            model=model,
            catalogue=pa.table({"item_id": map(str, range(n)), "title": map(str, range(n))}),
            popularity=np.arange(n)[::-1].copy(),
            index=Index.build(shares),
            data_fingerprint="",
            metrics=[],
            cost={},
        ),
    )
    return Recommender.of({"popularity": registry.open(f"popularity@{version}")}, "popularity")


some_ids = st.lists(st.sampled_from([*IDS, "unknown-1", "unknown-2"]), max_size=30)


@st.composite
def any_query(draw: st.DrawFn) -> Query:
    history = draw(some_ids)
    fields: dict[str, Any] = {
        "k": draw(st.none() | st.integers(1, 95)),
        "model": draw(st.sampled_from([None, *KINDS, "nothing"])),
        "exclude_seen": draw(st.booleans()),
        "deny": draw(some_ids),
        "allow": draw(st.none() | some_ids.filter(bool)),
        "filters": draw(st.none() | st.sampled_from([{"tags": ["drama"]}, {"tags": ["none"]}])),
    }
    return query(history, **fields, **({"user_id": "u"} if draw(st.booleans()) else {}))


def test_who_likes_a_genre_is_given_that_genre(recommender: Recommender) -> None:
    for genre in ("comedy", "drama", "western"):
        reply = answer(recommender, query([f"{genre}-{n}" for n in range(5)], k=10))
        assert reply.fallback is None
        assert all(item_id.startswith(genre) for item_id in ids(reply))


def test_a_reply_names_titles_model_version_and_user(recommender: Recommender) -> None:
    reply = answer(recommender, query(["comedy-1"], user_id="ann", k=3))
    assert (reply.user_id, reply.model, reply.version) == ("ann", "ials", "v0001")
    assert [item.title for item in reply.items] == [i.replace("-", " ").title() for i in ids(reply)]
    assert {item.space for item in reply.items} == {"ials"}


def test_the_default_model_answers_unless_another_is_named(recommender: Recommender) -> None:
    assert answer(recommender, query(["comedy-1"])).model == "ials"
    assert answer(recommender, query(["comedy-1"], model="popularity")).model == "popularity"


@given(any_query())
@settings(deadline=None, max_examples=200)
def test_what_may_not_come_never_does(recommender: Recommender, one: Query) -> None:
    [reply] = recommender.recommend([one])
    request = one.request
    if isinstance(reply, ServiceError):
        assert request.model == "nothing" or (request.k or 10) > len(IDS)
        return
    may = set(IDS) - {UNAVAILABLE} - set(request.deny)
    if request.exclude_seen:
        may -= set(one.history)
    if request.allow is not None:
        may &= set(request.allow)
    if request.filters is not None:
        may &= {i for i in IDS if i.split("-")[0] in request.filters.tags}
    assert set(ids(reply)) <= may
    assert len(set(ids(reply))) == len(reply.items) == min(request.k or 10, len(may))
    scores = [item.score for item in reply.items]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(any_query(), max_size=12))
@settings(deadline=None, max_examples=60)
def test_a_batch_answers_as_its_queries_one_by_one(
    recommender: Recommender, queries: list[Query]
) -> None:
    batch = recommender.recommend(queries)
    assert len(batch) == len(queries)
    for one, reply in zip(queries, batch, strict=True):
        [alone] = recommender.recommend([one])
        if isinstance(alone, ServiceError) or isinstance(reply, ServiceError):
            assert type(alone) is type(reply)
            assert str(alone) == str(reply)
            continue
        assert reply.model_copy(update={"items": []}) == alone.model_copy(update={"items": []})
        np.testing.assert_allclose(
            [item.score for item in reply.items],
            [item.score for item in alone.items],
            rtol=1e-4,
            atol=1e-4,
        )
        if reply.model == "popularity":  # its scores are exact, and so is their order
            assert ids(reply) == ids(alone)


@given(history=st.lists(st.sampled_from(TOUCHED), min_size=1, max_size=20), k=st.integers(1, 60))
@settings(deadline=None)
def test_the_ranking_is_that_of_scoring_every_item(
    recommender: Recommender, history: list[str], k: int
) -> None:
    bundle = recommender.bundles["ials"]
    rows = bundle.items.rows(history)
    scores = (bundle.model.query_vectors(Histories.of([rows])) @ bundle.model.item_vectors.T)[0]
    scores[rows] = -np.inf
    scores[IDS.index(UNAVAILABLE)] = -np.inf
    reply = answer(recommender, query(history, k=k))
    expected = np.sort(scores)[::-1][: len(reply.items)]
    np.testing.assert_allclose([i.score for i in reply.items], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        [scores[IDS.index(i)] for i in ids(reply)], expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (Query(RecommendRequest(), ()), FallbackReason.NO_USER),
        (Query(RecommendRequest(user_id="nobody"), ()), FallbackReason.UNKNOWN_USER),
        (Query(RecommendRequest(history=[]), ()), FallbackReason.EMPTY_HISTORY),
        (query(["never", "heard", "of"]), FallbackReason.NO_KNOWN_ITEM),
        (query([UNTOUCHED]), FallbackReason.NO_KNOWN_ITEM),
        (query(["never"], user_id="ann"), FallbackReason.NO_KNOWN_ITEM),
    ],
)
def test_whom_the_model_cannot_answer_gets_what_is_popular_and_is_told_why(
    recommender: Recommender, one: Query, reason: FallbackReason
) -> None:
    reply = answer(recommender, one)
    assert reply.fallback is not None
    assert reply.fallback.reason == reason
    assert "most popular" in reply.fallback.detail
    assert {item.space for item in reply.items} == {"popularity"}
    most = most_popular(recommender, one.history)
    shares = [count / most[0][0] for count, _ in most[:10]]
    np.testing.assert_allclose([item.score for item in reply.items], shares, rtol=1e-6)


def test_popularity_answers_everybody_and_says_whom_it_has_no_history_of(
    recommender: Recommender,
) -> None:
    known = answer(recommender, query(["comedy-1"], user_id="ann", model="popularity"))
    unknown = answer(recommender, query([], user_id="nobody", model="popularity"))
    assert known.fallback is None
    assert unknown.fallback is not None
    assert unknown.fallback.reason == FallbackReason.UNKNOWN_USER
    assert len(unknown.items) == 10


def test_unknown_items_of_a_history_are_skipped_and_named_once(recommender: Recommender) -> None:
    with_unknown = answer(recommender, query(["b", "comedy-1", "a", "comedy-2", "b"]))
    without = answer(recommender, query(["comedy-1", "comedy-2"]))
    assert with_unknown.unknown_items == ["b", "a"]
    assert with_unknown.items == without.items
    assert with_unknown.fallback is None


def test_the_order_of_other_queries_unknown_items_is_their_own(recommender: Recommender) -> None:
    replies = recommender.recommend([query(["x"]), query(["comedy-1"]), query(["y", "comedy-1"])])
    assert [r.unknown_items for r in replies if isinstance(r, RecommendReply)] == [["x"], [], ["y"]]


def test_seen_items_come_back_only_when_asked_for(recommender: Recommender) -> None:
    history = [f"comedy-{n}" for n in range(8)]
    assert not set(ids(answer(recommender, query(history)))) & set(history)
    assert set(ids(answer(recommender, query(history, exclude_seen=False)))) & set(history)


def test_a_user_who_saw_everything_is_given_nothing(recommender: Recommender) -> None:
    assert answer(recommender, query(IDS, k=10)).items == []


def test_k_above_the_catalogue_is_refused_with_its_size(recommender: Recommender) -> None:
    assert len(answer(recommender, query([], k=90)).items) == 89
    error = failure(recommender, query([], k=91))
    assert isinstance(error, Invalid)
    assert error.errors[0].field == "k"
    assert "90" in error.message


def test_a_catalogue_smaller_than_the_default_k_is_recommended_whole(tmp_path: Path) -> None:
    recommender = counted(tmp_path, 3)
    assert ids(answer(recommender, query([]))) == ["0", "1", "2"]
    assert len(recommender.similar("0").items) == 2
    assert isinstance(failure(recommender, query([], k=10)), Invalid)
    with pytest.raises(Invalid, match="from 1 to 3"):
        recommender.similar("0", 10)


def test_an_unknown_model_is_refused_and_the_known_ones_named(recommender: Recommender) -> None:
    error = failure(recommender, query([], model="oracle"))
    assert isinstance(error, UnknownModel)
    assert "ials, popularity" in error.message


def test_one_bad_query_fails_alone(recommender: Recommender) -> None:
    good, bad = query(["comedy-1"]), query(["comedy-1"], k=1000)
    first, second, third = recommender.recommend([good, bad, good])
    assert isinstance(second, ServiceError)
    assert isinstance(first, RecommendReply)
    assert first == third


def test_a_default_that_is_not_in_service_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="'sas' is none of ials"):
        Recommender.of({"ials": registry.open_active("ials")}, "sas")


def test_similar_items_are_of_the_same_genre_and_not_the_item(recommender: Recommender) -> None:
    reply = recommender.similar("drama-0", 10)
    similar = [item.item_id for item in reply.items]
    assert len(similar) == 10
    assert all(item_id.startswith("drama") for item_id in similar)
    assert not {"drama-0", UNAVAILABLE} & set(similar)
    assert reply.fallback is None


def test_similar_items_rank_by_cosine(recommender: Recommender) -> None:
    vectors = recommender.bundles["ials"].vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors[lengths > 0] / lengths[lengths > 0, None]
    kept = [item_id for item_id, length in zip(IDS, lengths, strict=True) if length > 0]
    cosines = unit @ unit[kept.index("comedy-4")]
    expected = sorted(
        (c for c, i in zip(cosines, kept, strict=True) if i not in ("comedy-4", UNAVAILABLE)),
        reverse=True,
    )
    reply = recommender.similar("comedy-4", 20)
    np.testing.assert_allclose([i.score for i in reply.items], expected[:20], rtol=1e-4)


def test_an_unavailable_item_has_similar_items(recommender: Recommender) -> None:
    assert len(recommender.similar(UNAVAILABLE, 5).items) == 5


def test_items_like_one_that_nobody_touched_are_the_popular_and_it_is_said(
    recommender: Recommender,
) -> None:
    reply = recommender.similar(UNTOUCHED, 5)
    assert reply.fallback is not None
    assert reply.fallback.reason == FallbackReason.UNTOLD_ITEM
    assert {item.space for item in reply.items} == {"popularity"}
    assert len(reply.items) == 5


def test_similar_items_are_of_a_model_or_of_a_space_and_not_of_both(
    recommender: Recommender,
) -> None:
    with pytest.raises(Invalid, match="either a model or a content space") as caught:
        recommender.similar("comedy-4", 5, "ials", "text")
    assert [error.field for error in caught.value.errors] == ["space"]


def test_similar_to_what_is_not_there_is_refused(recommender: Recommender) -> None:
    with pytest.raises(UnknownItem, match="no item 'never'"):
        recommender.similar("never", 5)
    with pytest.raises(UnknownModel):
        recommender.similar("drama-0", 5, "oracle")
    with pytest.raises(Invalid, match="from 1 to 90"):
        recommender.similar("drama-0", 0)


def test_more_denied_items_than_are_fetched_over_never_come_back(tmp_path: Path) -> None:
    recommender = counted(tmp_path, 5000)
    for denied in (0, 1000, 1024, 1025, 4000):
        reply = answer(recommender, query([], deny=[str(i) for i in range(denied)], k=10))
        assert ids(reply) == [str(i) for i in range(denied, denied + 10)]
