"""The catalogue over HTTP: search, items and jobs, over a real Redis and a real encoder."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pyarrow as pa
import pytest

from encoders.picture import MAX_BYTES
from infra.redis import connect_async
from infra.roots import LazyRoots
from infra.settings import Settings
from recsys.data.dataset import write_dataset
from recsys.embedding_store import EmbeddingStore
from recsys.registry import Registry, Spaces
from services import catalogue_service
from services.active_models import ActiveModels
from services.api import build_api
from services.catalogue_api import MAX_SEARCH_BODY
from services.catalogue_service import CatalogueService
from services.history import HistoryStore
from services.jobs import Jobs
from services.live_embedding import LiveEmbedder
from services.live_follower import LiveFollower
from services.live_items import LiveItems
from services.named_pictures import NamedPictures
from services.problems import MAX_CONTENT_BODY
from services.query_encoder import QueryEncoder
from services.search_schemas import SearchRequest
from services.service import Service
from tests.encoders.models import tiny_bert
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder
from tests.near import Near, NearEncoder
from tests.withheld import withheld

T = TypeVar("T")


class Encoders:
    """Finds the one encoder."""

    def __init__(self) -> None:
        self.encoder = HashingEncoder()

    def open(self, space: str, model: str, fingerprint: str) -> HashingEncoder:
        return self.encoder

    def fingerprint(self, space: str, model: str) -> str:
        return self.encoder.fingerprint


class Shop:
    """The API of a service with a text space, asked from a test."""

    def __init__(
        self,
        registry: Registry,
        spaces: Spaces,
        redis_url: str,
        namespace: str,
        rerank_model: str | None = None,
    ) -> None:
        self.runner = asyncio.Runner()
        self.encoders = Encoders()
        self.models = ActiveModels(registry, "ials", spaces)
        self.spaces = spaces
        self.registry = registry
        self.pictures = spaces.root.parent / "pictures"
        self.pictures.mkdir(exist_ok=True)
        self.encoder = QueryEncoder(spaces, self.encoders)
        self.runner.run(self._open(redis_url, namespace, rerank_model))

    async def _open(self, redis_url: str, namespace: str, rerank_model: str | None) -> None:
        self.redis = connect_async(redis_url)
        self.items = LiveItems(self.redis, namespace, max_backlog=100)
        self.embedder = LiveEmbedder(self.items, self.spaces, self.encoders, LazyRoots([]))
        engine = Near(self.models, LiveFollower(self.items, self.models))
        histories = HistoryStore(self.redis, namespace, max_items=100, ttl_s=60)
        self.near_encoder = NearEncoder(self.encoder, rerank_model)
        catalogue = CatalogueService(
            engine,
            self.near_encoder,
            self.items,
            NamedPictures([str(self.pictures)]),
            micro_batch=16,
            deadline_ms=5000,
        )
        self.settings = Settings(
            redis_url=None, namespace=namespace, state_dir=self.spaces.root.parent / "state"
        )
        self.datasets = self.spaces.root.parent / "datasets"
        jobs = Jobs(
            self.redis, self.settings, self.encoders, datasets=[self.datasets], models=["hashing"]
        )
        service = Service(engine, histories, self.items, micro_batch=16, deadline_ms=5000)
        transport = httpx.ASGITransport(build_api(service, catalogue, jobs))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://api")

    def __call__(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.runner.run(self.http.request(method, path, json=body))

    def search(self, **body: Any) -> list[str]:
        reply = self("POST", "/v1/search", body)
        assert reply.status_code == 200, reply.text
        return [item["item_id"] for item in reply.json()["items"]]

    def put(self, *items: dict[str, Any]) -> None:
        reply = self("PUT", "/v1/items", {"items": list(items)})
        assert reply.status_code == 202, reply.text

    def embed(self) -> None:
        async def answered() -> None:
            entries = await self.redis.xrange(self.items.stream)
            await self.embedder.answer([fields[b"body"] for _, fields in entries])

        self.runner.run(answered())

    def refused(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        reply = self(method, path, body)
        assert reply.headers["content-type"] == "application/problem+json", reply.text
        problem: dict[str, Any] = reply.json()
        return problem


@pytest.fixture
def shop(registry: Registry, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Shop]:
    spaces = add_space(tmp_path / "spaces", HashingEncoder(), films())
    shop = Shop(registry, spaces, redis_url, namespace)
    yield shop
    shop.runner.run(shop.redis.aclose())
    shop.runner.close()


@pytest.fixture
def reading_shop(
    registry: Registry, redis_url: str, namespace: str, tmp_path: Path
) -> Iterator[Shop]:
    """One with a cross-encoder."""
    spaces = add_space(tmp_path / "spaces", HashingEncoder(), films())
    cross_encoder = tiny_bert(tmp_path / "bert", labels=1)
    shop = Shop(registry, spaces, redis_url, namespace, str(cross_encoder))
    yield shop
    shop.runner.run(shop.redis.aclose())
    shop.runner.close()


NEW = {"item_id": "new", "title": "Comet", "text": "a comet strikes", "tags": ["disaster"]}


def test_the_service_is_not_ready_before_queries_can_be_encoded(shop: Shop) -> None:
    shop.near_encoder.away = True
    assert shop("GET", "/readyz").status_code == 503
    shop.near_encoder.away = False
    assert shop("GET", "/readyz").status_code == 200


def test_a_search_by_words_answers_with_ranks_and_versions(shop: Shop) -> None:
    reply = shop("POST", "/v1/search", {"text": "rocket orbit wspace0", "k": 3}).json()
    first = reply["items"][0]
    assert (first["item_id"], first["title"]) == ("space-0", "Space 0")
    assert first["spaces"]["text"]["rank"] == 1
    assert reply["versions"] == {"text": "v0001"}


def test_the_cross_encoder_orders_the_best_and_leaves_the_order_of_what_is_behind(
    reading_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_service, "RERANKED", 8)
    before = reading_shop.search(text="sheriff saddle rocket", k=30)
    asked = {"text": "sheriff saddle rocket", "k": 30, "rerank": True}
    reply = reading_shop("POST", "/v1/search", asked).json()
    after = [item["item_id"] for item in reply["items"]]
    scores = [item["score"] for item in reply["items"]]
    assert reply["reranked"] is True
    assert set(after[:8]) == set(before[:8])
    assert scores[:8] == sorted(scores[:8], reverse=True)
    assert after[8:] == before[8:]


def test_an_item_that_the_cross_encoder_cannot_read_stands_behind_those_that_it_ordered(
    reading_shop: Shop,
) -> None:
    reading_shop.put({"item_id": "space-0", "title": " "})
    asked = {"text": "rocket orbit wspace0", "k": 10}
    assert reading_shop.search(**asked)[0] == "space-0"
    items = reading_shop("POST", "/v1/search", {**asked, "k": 36, "rerank": True}).json()["items"]
    assert items[-1]["item_id"] == "space-0"
    assert all(isinstance(item["score"], float) for item in items)


def test_a_search_goes_on_without_the_cross_encoder_that_is_not_there(
    registry: Registry, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    spaces = add_space(tmp_path / "spaces", HashingEncoder(), films())
    shop = Shop(registry, spaces, redis_url, namespace, str(tmp_path / "nowhere"))
    assert shop.search(text="rocket orbit wspace0")[0] == "space-0"
    reply = shop("POST", "/v1/search", {"text": "rocket", "rerank": True})
    assert reply.status_code == 503
    assert "retry-after" in reply.headers
    assert "RECSYS_RERANK_MODEL" in reply.json()["detail"]
    shop.runner.run(shop.redis.aclose())
    shop.runner.close()


def test_an_item_that_is_put_is_found_once_it_is_embedded(shop: Shop) -> None:
    shop.put(NEW)
    item = shop("GET", "/v1/items/new").json()
    assert (item["live"], item["spaces"]) == (True, {"text": "pending"})
    shop.embed()
    shop.put({"item_id": "unrelated", "title": "Unrelated"})  # what follows sees all before it
    assert shop.search(text="comet strikes")[0] == "new"
    assert shop("GET", "/v1/items/new").json()["spaces"] == {"text": "ready"}
    assert shop.search(text="comet", filters={"tags": ["disaster"]}) == ["new"]


def test_a_deleted_item_is_gone_from_the_very_next_answer(shop: Shop) -> None:
    assert "space-0" in shop.search(text="rocket orbit wspace0")
    assert shop("DELETE", "/v1/items/space-0").json()["hidden"] is True
    assert "space-0" not in shop.search(text="rocket orbit wspace0", k=36)
    assert shop("GET", "/v1/items/space-0").status_code == 404
    assert shop("DELETE", "/v1/items/space-0").status_code == 404


def test_a_deleted_item_is_not_recommended_any_more(shop: Shop) -> None:
    asked = {"history": ["comedy-0", "comedy-1"], "k": 5}
    [first, *_] = shop("POST", "/v1/recommend", asked).json()["items"]
    shop("DELETE", f"/v1/items/{first['item_id']}")
    items = shop("POST", "/v1/recommend", asked).json()["items"]
    assert first["item_id"] not in [item["item_id"] for item in items]
    assert len(items) == 5


def test_what_is_put_of_a_known_item_holds_for_recommendations(shop: Shop) -> None:
    asked = {"history": ["comedy-0"], "k": 3, "filters": {"tags": ["sale"]}}
    assert shop("POST", "/v1/recommend", asked).json()["items"] == []
    shop.put({"item_id": "comedy-7", "title": "Cheap now", "tags": ["sale"]})
    [item] = shop("POST", "/v1/recommend", asked).json()["items"]
    assert (item["item_id"], item["title"]) == ("comedy-7", "Cheap now")


def test_a_history_of_items_that_the_model_never_learnt_is_answered_by_their_contents(
    shop: Shop,
) -> None:
    reply = shop("POST", "/v1/recommend", {"history": ["western-100", "space-1"], "k": 3}).json()
    assert {item["space"] for item in reply["items"]} == {"text"}
    assert {item["item_id"].split("-")[0] for item in reply["items"]} == {"space"}
    assert reply["fallback"]["reason"] == "no_known_item"


def test_similar_items_of_a_content_space(shop: Shop) -> None:
    reply = shop("GET", "/v1/items/space-1/similar?space=text&k=3").json()
    assert {item["item_id"].split("-")[0] for item in reply["items"]} == {"space"}
    assert shop.refused("GET", "/v1/items/space-1/similar?space=smell")["status"] == 404


def test_the_spaces_in_service_are_listed(shop: Shop) -> None:
    [space] = shop("GET", "/v1/spaces").json()["spaces"]
    assert (space["name"], space["n_items"], space["live_items"]) == ("text", 36, 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ""),
        ({"text": ""}, "text"),
        ({"text": "x" * 70_000}, "text"),
        ({"picture": {"base64": "no base64!"}}, "picture"),
        ({"text": "x", "k": 0}, "k"),
        ({"text": "x", "spaces": {"text": -1}}, "spaces.text"),
        ({"text": "x", "filters": {}}, "filters"),
        ({"text": "x", "filters": {"attributes": {"yaer": 1}}}, "filters.attributes.yaer"),
        ({"text": "x", "filters": {"attributes": {"year": "old"}}}, "filters.attributes.year"),
        ({"text": "x", "rerank": True}, "rerank"),
        ({"like": ["space-1"], "rerank": True}, ""),
        ({"picture": {"base64": base64.b64encode(b"GIF89a").decode()}}, "picture"),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_its_field(
    shop: Shop, body: dict[str, Any], field: str
) -> None:
    problem = shop.refused("POST", "/v1/search", body)
    assert problem["status"] == 422
    assert field in [error["field"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"item_id": "", "title": "x"}, "items.0.item_id"),
        ({"item_id": "x", "title": ""}, "items.0.title"),
        ({"item_id": "x"}, "items.0.title"),
        ({"item_id": "x", "title": "x", "text": "y" * 70_000}, "items.0.text"),
        ({"item_id": "x", "title": "x", "attributes": {"a": {"b": 1}}}, "items.0.attributes.a"),
        ({"item_id": "x", "title": "x", "attributes": {"n": 2**63}}, "items.0.attributes.n"),
        ({"item_id": "x", "title": "x", "attributes": {"n": -(2**70)}}, "items.0.attributes.n"),
        ({"item_id": "x", "title": "x", "attributes": {"l": [1, 2**63]}}, "items.0.attributes.l"),
        ({"item_id": "x", "title": "x", "attributes": {"l": [[1]]}}, "items.0.attributes.l"),
        ({"item_id": "x", "title": "x", "attributes": {"l": ["y" * 1000] * 300}}, "items.0"),
        ({"item_id": "x", "title": "x", "colour": "red"}, "items.0.colour"),
    ],
)
def test_an_item_that_is_none_is_refused_by_its_field_and_nothing_is_kept(
    shop: Shop, item: dict[str, Any], field: str
) -> None:
    problem = shop.refused("PUT", "/v1/items", {"items": [item]})
    assert problem["status"] == 422
    assert any(error["field"].startswith(field) for error in problem["errors"])
    assert shop.runner.run(shop.items.all()) == []


def test_an_empty_text_is_told_in_characters(shop: Shop) -> None:
    assert "at least 1 character" in shop.refused("POST", "/v1/search", {"text": ""})["detail"]


def test_an_item_that_stands_twice_in_a_request_is_refused(shop: Shop) -> None:
    assert "twice" in shop.refused("PUT", "/v1/items", {"items": [NEW, NEW]})["detail"]


def test_a_search_may_hold_a_picture_as_large_as_an_items(shop: Shop) -> None:
    held = base64.b64encode(bytes(MAX_BYTES)).decode()
    assert SearchRequest.model_validate({"picture": {"base64": held}}).picture is not None
    problem = shop.refused("POST", "/v1/search", {"picture": {"base64": held}})
    assert "no space" in problem["detail"], "it was read"
    more = base64.b64encode(bytes(MAX_BYTES + 3)).decode()
    problem = shop.refused("POST", "/v1/search", {"picture": {"base64": more}})
    assert (problem["status"], problem["errors"][0]["field"]) == (422, "picture.base64")
    problem = shop.refused("POST", "/v1/search", {"picture": {"base64": 2 * held}})
    assert (problem["status"], str(MAX_SEARCH_BODY) in problem["detail"]) == (413, True)


def test_a_body_of_100_megabytes_is_refused_by_its_size(shop: Shop) -> None:
    problem = shop.refused(
        "PUT", "/v1/items", {"items": [{"item_id": "x", "title": "x", "text": "y" * 100_000_000}]}
    )
    assert problem["status"] == 413
    assert str(MAX_CONTENT_BODY) in problem["detail"]


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "/etc/passwd", "http://169.254.169.254/", "../../etc/passwd"]
)
def test_a_picture_outside_the_roots_is_refused_and_the_item_says_why(shop: Shop, uri: str) -> None:
    spaces = add_space(shop.spaces.root, HashingEncoder(), films(), name="image")
    assert spaces.names() == ["image", "text"]
    shop.put(NEW | {"image": uri})
    shop.embed()
    [item] = shop.runner.run(shop.items.read(["new"]))
    assert item.states["image"] == "failed"
    assert uri in item.reasons["image"]
    assert item.states["text"] == "ready"


def test_a_dataset_outside_the_roots_is_no_job(shop: Shop, ring: Path) -> None:
    problem = shop.refused("POST", "/v1/jobs", {"dataset": str(ring), "text_model": "hashed"})
    assert problem["status"] == 422
    assert "datasets may be read from" in problem["detail"]


def test_a_job_may_name_the_encoders_that_the_operator_allows(shop: Shop) -> None:
    write_dataset(shop.datasets / "films", [], films(), "a test")
    asked = {"dataset": str(shop.datasets / "films"), "text_model": "hashing"}
    reply = shop("POST", "/v1/jobs", asked)
    assert reply.status_code == 202
    job = shop("GET", reply.headers["location"]).json()
    assert (job["id"], job["state"]) == (reply.json()["id"], "queued")
    assert (job["contents"], job["without_vector"]) == (len(films()), 0)


@pytest.mark.parametrize("field", ["dataset", "text_model", "image_model"])
def test_a_path_with_a_nul_byte_is_refused_by_its_field(shop: Shop, field: str) -> None:
    asked = {"dataset": str(shop.datasets), "text_model": "hashing", field: "/films\0/etc"}
    problem = shop.refused("POST", "/v1/jobs", asked)
    assert (problem["status"], problem["errors"][0]["field"]) == (422, field)
    assert shop.refused("GET", "/v1/jobs/a%00b")["status"] == 422


def test_a_job_may_name_no_other_encoder_nor_folder(shop: Shop, tmp_path: Path) -> None:
    write_dataset(shop.datasets / "films", [], films(), "a test")
    asked = {"dataset": str(shop.datasets / "films"), "text_model": "hashing"}
    problem = shop.refused("POST", "/v1/jobs", asked | {"image_model": str(tmp_path)})
    assert problem["status"] == 422
    assert "RECSYS_ENCODER_MODELS" in problem["detail"]
    assert problem["errors"][0]["field"] == "image_model"
    assert shop("GET", "/v1/jobs").json() == {"jobs": []}


def test_a_dataset_that_cannot_be_read_for_now_may_be_asked_for_again(shop: Shop) -> None:
    folder = shop.datasets / "films"
    catalogue = films().slice(0, 1)
    at = catalogue.schema.get_field_index("image")
    write_dataset(folder, [], catalogue.set_column(at, "image", pa.array(["a.png"])), "a test")
    (folder / "a.png").write_bytes(b"a picture")
    asked = {"dataset": str(folder), "image_model": "hashing"}
    with withheld(folder / "a.png"):
        reply = shop("POST", "/v1/jobs", asked)
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert "'a.png' cannot be read for now" in reply.json()["detail"]
    assert shop("POST", "/v1/jobs", asked).status_code == 202


def test_a_damaged_store_is_told_to_who_asks_for_a_job(shop: Shop) -> None:
    write_dataset(shop.datasets / "films", [], films(), "a test")
    store = EmbeddingStore(shop.settings.embeddings_dir, "text", shop.encoders.encoder.fingerprint)
    store.folder.mkdir(parents=True)
    store.path("20260101-000000-abcdef-000000").write_bytes(b"junk")
    asked = {"dataset": str(shop.datasets / "films"), "text_model": "hashing"}
    problem = shop.refused("POST", "/v1/jobs", asked)
    assert problem["status"] == 500
    assert "20260101-000000-abcdef-000000" in problem["detail"]


def test_a_job_that_is_not_there_is_told(shop: Shop) -> None:
    assert shop.refused("GET", "/v1/jobs/20260101-nothing")["status"] == 404
    assert shop("GET", "/v1/jobs").json() == {"jobs": []}
