"""The HTTP API over a real recommender and a real Redis, without Ray Serve around it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.redis import connect, connect_async, redis_server
from infra.settings import Settings
from recsys.registry import Registry, Spaces
from services.active_models import ActiveModels
from services.api import build_api
from services.catalogue_service import CatalogueService
from services.embedding import CatalogEncoders
from services.history import HistoryStore
from services.jobs import Jobs
from services.live_items import LiveItems
from services.named_pictures import NamedPictures
from services.problems import MAX_BODY
from services.query_encoder import QueryEncoder
from services.service import MAX_WAITING, Service
from tests.near import Near, NearEncoder

T = TypeVar("T")


class Api:
    """The API, asked from a test: one event loop and one connection for all calls."""

    def __init__(self, engine: Near, redis_url: str, namespace: str) -> None:
        self.engine = engine
        self.redis_url = redis_url
        self.runner = asyncio.Runner()
        self.runner.run(self._open(redis_url, namespace))

    async def _open(self, redis_url: str, namespace: str) -> None:
        self.redis = connect_async(redis_url)
        histories = HistoryStore(self.redis, namespace, max_items=100, ttl_s=60)
        items = LiveItems(self.redis, namespace, max_backlog=100)
        service = Service(self.engine, histories, items, micro_batch=16, deadline_ms=2000)
        catalogue = CatalogueService(
            self.engine,
            NearEncoder(QueryEncoder(Spaces(Path("nowhere")), CatalogEncoders())),
            items,
            NamedPictures([]),
            micro_batch=16,
            deadline_ms=2000,
        )
        settings = Settings(redis_url=None, namespace=namespace)
        jobs = Jobs(self.redis, settings, CatalogEncoders(), datasets=[])
        self.app = build_api(service, catalogue, jobs)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://api")

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.http.request(method, path, **options))

    def post(self, path: str, body: Any) -> httpx.Response:
        return self("POST", path, json=body)

    def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        async def all_of_them() -> list[T]:
            return list(await asyncio.gather(*(call() for call in calls)))

        return self.runner.run(all_of_them())

    def close(self) -> None:
        self.runner.run(self.http.aclose())
        self.runner.run(self.redis.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def api(registry: Registry, redis_url: str) -> Iterator[Api]:
    api = Api(Near(ActiveModels(registry)), redis_url, "test-api")
    yield api
    api.close()


def refused(response: httpx.Response) -> dict[str, Any]:
    """The problem document that the response must be."""
    assert response.status_code >= 400, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"].startswith("urn:recsys:problem:")
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == httpx.URL(response.request.url).path
    assert "Traceback" not in response.text
    return problem


def test_a_history_is_answered_by_the_model(api: Api) -> None:
    reply = api.post("/v1/recommend", {"history": ["comedy-0", "comedy-1"], "k": 5})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert len(body["items"]) == 5
    assert body["fallback"] is None
    assert body["version"] == "v0001"


def test_an_unknown_user_is_answered_from_popularity_and_the_reply_says_so(api: Api) -> None:
    body = api.post("/v1/recommend", {"user_id": "nobody"}).json()
    assert body["fallback"]["reason"] == "unknown_user"
    assert "nobody" in body["fallback"]["detail"]
    assert {item["space"] for item in body["items"]} == {"popularity"}


def test_an_event_is_reflected_by_the_next_recommendation(api: Api) -> None:
    def ask() -> dict[str, Any]:
        reply: dict[str, Any] = api.post("/v1/recommend", {"user_id": "new", "k": 90}).json()
        return reply

    assert ask()["fallback"]["reason"] == "unknown_user"
    events = [{"user_id": "new", "item_id": f"western-{i}"} for i in range(3)]
    accepted = api.post("/v1/events", {"events": events})
    assert (accepted.status_code, accepted.json()) == (202, {"accepted": 3})
    reply = ask()
    assert reply["fallback"] is None
    assert not {"western-0", "western-1", "western-2"} & {i["item_id"] for i in reply["items"]}


def test_a_batch_is_answered_as_its_requests_one_by_one(api: Api) -> None:
    requests = [
        {"history": ["drama-1"], "k": 3},
        {"user_id": "nobody", "k": 2},
        {"history": ["drama-1"], "k": 1000},
        {"history": [], "k": 1},
    ]
    replies = api.post("/v1/recommend:batch", {"requests": requests}).json()["replies"]
    for request, reply in zip(requests, replies, strict=True):
        alone = api.post("/v1/recommend", request).json()
        alone.pop("instance", None)
        reply.pop("instance", None)
        assert reply == alone
    assert replies[2]["status"] == 422


def test_callers_of_one_moment_get_their_own_answers(api: Api) -> None:
    def ask(k: int) -> Callable[[], Awaitable[httpx.Response]]:
        body = {"history": [f"comedy-{k}"], "k": k}
        return lambda: api.http.post("/v1/recommend", json=body)

    replies = api.together([ask(k) for k in range(1, 40 - 10)])
    assert [len(reply.json()["items"]) for reply in replies] == list(range(1, 30))


def test_similar_items_are_found_also_for_an_id_with_slashes(api: Api) -> None:
    body = api("GET", "/v1/items/drama-1/similar", params={"k": 4}).json()
    assert len(body["items"]) == 4
    assert body["item_id"] == "drama-1"
    problem = refused(api("GET", "/v1/items/a%2Fb/c/similar"))
    assert problem["status"] == 404
    assert "a/b/c" in problem["detail"]


def test_the_models_in_service_are_listed(api: Api, registry: Registry) -> None:
    models = api("GET", "/v1/models").json()["models"]
    assert [model["name"] for model in models] == registry.names()
    assert sum(model["default"] for model in models) == 1


def test_health_readiness_and_the_way_in(api: Api) -> None:
    assert api("GET", "/healthz").status_code == 200
    assert api("GET", "/readyz").status_code == 200
    assert api("GET", "/").json()["documentation"] == "/docs"


def test_the_documentation_needs_nothing_from_elsewhere(api: Api) -> None:
    page = api("GET", "/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) == 3
    for file in files:
        assert file.startswith("/")
        assert api("GET", file).status_code == 200


def test_the_openapi_document_describes_bodies_and_problems(api: Api) -> None:
    document = api("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    references = [
        line.split("/")[-1].rstrip('",')
        for line in json.dumps(document, indent=0).splitlines()
        if '"$ref": "#/components/schemas/' in line
    ]
    assert set(references) <= set(schemas)
    assert {"RecommendRequest", "RecommendReply", "EventsRequest", "Problem"} <= set(references)


def test_every_path_stands_in_a_section_of_the_documentation(api: Api) -> None:
    document = api("GET", "/openapi.json").json()
    operations = [each for path in document["paths"].values() for each in path.values()]
    sections = [each["tags"] for each in operations]
    assert {name for [name] in sections} == {tag["name"] for tag in document["tags"]}


LONG = "x" * 257
JSON = {"Content-Type": "application/json"}
POSTS = ("/v1/recommend", "/v1/recommend:batch", "/v1/events")

BAD: list[tuple[int, str, str, dict[str, Any]]] = [
    *((400, "POST", path, {"content": b"{", "headers": JSON}) for path in POSTS),
    *((400, "POST", path, {"content": b"", "headers": JSON}) for path in POSTS),
    *((400, "POST", path, {"content": b'{"user_id": "\xff\xfe"}', "headers": JSON})
      for path in POSTS),
    *((400, "POST", path, {"content": b"[" * 100_000, "headers": JSON}) for path in POSTS),
    *((422, "POST", path, {"content": body, "headers": JSON})
      for path in POSTS for body in (b"null", b"[]", b"1", b'"text"', b'{"nonsense": 1}')),
    *((413, "POST", path, {"content": b" " * (MAX_BODY + 1), "headers": JSON}) for path in POSTS),
    *((415, "POST", path, {"content": b"{}", "headers": {"Origin": "http://evil", **kind}})
      for path in POSTS for kind in ({}, {"Content-Type": "text/plain"})),
    *((405, method, path, {}) for path in POSTS for method in ("GET", "PUT", "DELETE", "PATCH")),
    *((405, "POST", path, {}) for path in ("/v1/models", "/healthz", "/readyz", "/")),
    (404, "GET", "/nothing", {}),
    (404, "GET", "/v1", {}),
    (404, "GET", "/v2/recommend", {}),
    (404, "GET", "/v1/recommend/", {}),
    (404, "GET", "/..%2f..%2fetc/passwd", {}),
    *((422, "POST", "/v1/recommend", {"json": body}) for body in [
        {"k": 0},
        {"k": -1},
        {"k": 91},
        {"k": 1001},
        {"k": "5"},
        {"k": 1.5},
        {"k": True},
        {"k": 10**30},
        {"user_id": ""},
        {"user_id": 5},
        {"user_id": LONG},
        {"user_id": "a\x00b"},
        {"user_id": "u", "history": []},
        {"history": "comedy-0"},
        {"history": [1]},
        {"history": ["x"] * 1001},
        {"allow": []},
        {"deny": ["x"] * 10_001},
        {"filters": {}},
        {"filters": {"tags": []}},
        {"filters": {"genre": "x"}},
        {"exclude_seen": "yes"},
        {"deadline_ms": 0},
        {"deadline_ms": 60_001},
        {"user": "196"},
    ]),
    (400, "POST", "/v1/recommend", {"content": b'{"user_id": "\\ud800"}', "headers": JSON}),
    (422, "POST", "/v1/recommend", {"content": b'{"k": NaN}', "headers": JSON}),
    (404, "POST", "/v1/recommend", {"json": {"model": "nothing"}}),
    *((422, "POST", "/v1/recommend:batch", {"json": body}) for body in [
        {"requests": []},
        {"requests": [{}] * 257},
        {"requests": [{"k": 0}]},
        {"requests": {}},
    ]),
    *((422, "POST", "/v1/events", {"json": {"events": events}}) for events in [
        [],
        {},
        [{}],
        [{"user_id": "u"}],
        [{"user_id": "u", "item_id": ""}],
        [{"user_id": "u", "item_id": "i", "timestamp": "yesterday"}],
        [{"user_id": "u", "item_id": "i", "timestamp": "2026-01-01T00:00:00"}],
        [{"user_id": "u", "item_id": "i", "value": "much"}],
        [{"user_id": "u", "item_id": "i", "value": 1e39}],
        [{"user_id": "u", "item_id": "i", "event": ""}],
        [{"user_id": "u", "item_id": "i"}] * 1001,
    ]),
    (404, "GET", "/v1/items/nothing/similar", {}),
    (404, "GET", "/v1/items/%ff%fe/similar", {}),
    (404, "GET", "/v1/items/drama-1/similar?model=nothing", {}),
    *((422, "GET", f"/v1/items/drama-1/similar?{query}", {})
      for query in ("k=0", "k=-1", "k=91", "k=1001", "k=x", "k=", "n=5", "model=")),
    (422, "GET", f"/v1/items/{LONG}/similar", {}),
    (422, "GET", "/v1/items/a%00b/similar", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    BAD,
    ids=[f"{i}-{method}-{path[:30]}-{status}" for i, (status, method, path, _) in enumerate(BAD)],
)
def test_bad_input_is_told_what_is_wrong(
    api: Api, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    problem = refused(api(method, path, **options))
    assert problem["status"] == status
    if status == 422:
        assert problem["errors"]


def test_a_body_needs_no_type_from_who_is_no_browser(api: Api) -> None:
    assert api("POST", "/v1/recommend", content=b"{}").status_code == 200


def test_every_wrong_field_is_named(api: Api) -> None:
    body = {"events": [{"user_id": "u", "item_id": "i"}, {"item_id": "i", "value": "much"}]}
    problem = refused(api.post("/v1/events", body))
    assert {error["field"] for error in problem["errors"]} == {
        "events.1.user_id",
        "events.1.value",
    }


def test_who_may_not_use_a_method_is_told_which_to_use(api: Api) -> None:
    assert api("GET", "/v1/recommend").headers["allow"] == "POST"


def test_all_methods_of_a_path_are_told(api: Api) -> None:
    refused_put = api("PUT", "/v1/items/drama-1", json={})
    assert refused_put.headers["allow"] == "DELETE, GET"
    assert "use DELETE, GET" in refused_put.json()["detail"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
likely_fields = st.sampled_from(
    ["user_id", "history", "k", "model", "requests", "events", "item_id", "allow", "deadline_ms"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.sampled_from(POSTS),
    body=st.binary()
    | json_values.map(lambda v: json.dumps(v).encode())
    | st.dictionaries(likely_fields, json_values).map(lambda v: json.dumps(v).encode()),
)
def test_whatever_is_sent_the_service_does_not_fail(api: Api, path: str, body: bytes) -> None:
    response = api("POST", path, content=body, headers=JSON)
    assert response.status_code in (200, 202, 400, 404, 422), response.text
    if response.status_code >= 400:
        refused(response)


@settings(max_examples=100, deadline=None)
@given(segment=st.binary(min_size=1), query=st.binary())
def test_whatever_is_asked_for_the_service_does_not_fail(
    api: Api, segment: bytes, query: bytes
) -> None:
    response = api("GET", f"/v1/items/{quote(segment)}/similar?k={quote(query)}")
    assert response.status_code in (200, 400, 404, 422), response.text


def test_a_failure_inside_is_a_problem_without_its_trace(api: Api) -> None:
    api.engine.broken = True
    try:
        problem = refused(api.post("/v1/recommend", {"history": ["drama-1"]}))
    finally:
        api.engine.broken = False
    assert problem["status"] == 500
    assert "secret" not in json.dumps(problem)


def test_an_answer_that_takes_too_long_is_given_up(api: Api) -> None:
    api.engine.slow_s = 0.5
    try:
        problem = refused(api.post("/v1/recommend", {"history": [], "deadline_ms": 20}))
    finally:
        api.engine.slow_s = 0.0
    assert problem["status"] == 504
    assert "20 ms" in problem["detail"]


def test_a_batch_is_computed_in_micro_batches(api: Api) -> None:
    api.engine.largest = 0
    replies = api.post("/v1/recommend:batch", {"requests": [{"k": 1}] * 100}).json()["replies"]
    assert len(replies) == 100
    assert api.engine.largest == 16


def test_batches_beyond_what_may_wait_are_refused_and_told_to_come_again(api: Api) -> None:
    body = {"requests": [{"k": 1}] * 256}
    calls = [lambda: api.http.post("/v1/recommend:batch", json=body)] * 8
    api.engine.slow_s = 0.02
    try:
        responses = api.together(calls)
    finally:
        api.engine.slow_s = 0.0
    answered = [response for response in responses if response.status_code == 200]
    assert 1 <= len(answered) <= MAX_WAITING // 256 + 1
    for response in responses:
        if response not in answered:
            assert refused(response)["status"] == 429
            assert int(response.headers["retry-after"]) >= 1


def test_who_hangs_up_in_the_middle_of_a_body_leaves_no_error(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommend",
        "query_string": b"",
        "headers": [(b"content-length", b"1000")],
    }
    messages = [
        {"type": "http.request", "body": b'{"user', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        assert message["type"].startswith("http.response")

    api.runner.run(api.app(scope, receive, send))
    assert messages == []
    assert caplog.records == []


def test_without_redis_events_wait_and_recommendations_go_on(
    registry: Registry, tmp_path: Path
) -> None:
    with redis_server(Settings(redis_url=None, state_dir=tmp_path)) as url:
        pass
    api = Api(Near(ActiveModels(registry)), url, "gone")
    try:
        by_history = api.post("/v1/recommend", {"history": ["drama-1"]}).json()
        assert by_history["fallback"] is None
        by_user = api.post("/v1/recommend", {"user_id": "u"}).json()
        assert by_user["fallback"]["reason"] == "history_unavailable"
        assert by_user["items"]
        response = api.post("/v1/events", {"events": [{"user_id": "u", "item_id": "drama-1"}]})
        assert refused(response)["status"] == 503
        assert int(response.headers["retry-after"]) >= 1
    finally:
        api.close()


def test_accepted_events_are_in_redis(api: Api, redis_url: str) -> None:
    api.post("/v1/events", {"events": [{"user_id": "kept", "item_id": "drama-1"}]})
    client = connect(redis_url)
    try:
        assert client.exists("test-api:history:kept")
    finally:
        client.close()
