"""The served application: real Ray Serve behind HAProxy, real Redis, real bundles."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from infra.errors import RecsysError
from infra.loopback import free_port
from infra.publisher import Publisher
from infra.redis import connect
from infra.settings import Settings
from recsys.registry import Registry
from services.active_models import NoModel
from services.client import ApiError, AsyncClient, Client, QueueClient
from services.event_schemas import Event
from services.problems import MAX_BODY
from services.schemas import FallbackReason, Problem, RecommendReply, RecommendRequest
from services.serving import Running, serving
from tests.planted import Planted, add_fitted
from tests.processes import (
    descendants,
    listening,
    off_loopback,
    processes_whose_command_holds,
)

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running service and what it runs on."""

    running: Running
    settings: Settings
    registry: Registry
    redis_url: str

    @property
    def url(self) -> str:
        return self.running.url


@pytest.fixture(scope="module")
def served(
    ray_cluster: None,
    registry: Registry,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("served")
    settings = Settings(
        state_dir=state, namespace="served", http_port=free_port(), visibility_timeout_s=3
    )
    shutil.copytree(registry.root, settings.models_dir)
    with serving(settings, redis_url) as running:
        yield Served(running, settings, Registry(settings.models_dir), redis_url)


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


@pytest.fixture
def queue_client(served: Served) -> Iterator[QueueClient]:
    settings = served.settings
    with QueueClient(
        served.redis_url,
        settings.namespace,
        deadline_ms=int(PATIENCE_S * 1000),
        max_backlog=settings.max_backlog,
    ) as client:
        yield client


def same(one: RecommendReply | Problem, other: RecommendReply | Problem) -> bool:
    """Whether two replies tell the same; scores are rounded otherwise in another batch."""
    assert isinstance(one, RecommendReply)
    assert isinstance(other, RecommendReply)
    pairs = zip(one.items, other.items, strict=True)
    return one.model_copy(update={"items": []}) == other.model_copy(update={"items": []}) and all(
        (a.item_id, a.space) == (b.item_id, b.space) and a.score == pytest.approx(b.score, rel=1e-3)
        for a, b in pairs
    )


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_haproxy_answers(served: Served) -> None:
    assert served.running.haproxy
    assert served.running.note is None
    assert httpx.get(f"{served.url}/readyz").json() == {"status": "ready"}


def test_http_and_the_queue_give_the_same_answer(client: Client, queue_client: QueueClient) -> None:
    request = RecommendRequest(history=["comedy-1", "comedy-2"], k=7, model="sasrec")
    reply = client.recommend(request)
    assert reply.fallback is None
    assert len(reply.items) == 7
    assert same(queue_client.recommend(request), reply)


def test_what_a_user_does_is_reflected_by_the_next_answer(
    client: Client, queue_client: QueueClient
) -> None:
    request = RecommendRequest(user_id="newcomer", k=89)
    before = client.recommend(request)
    assert before.fallback is not None
    assert before.fallback.reason == FallbackReason.UNKNOWN_USER
    done = ["western-1", "western-2", "western-3"]
    assert client.events([Event(user_id="newcomer", item_id=i) for i in done]).accepted == 3
    for after in (client.recommend(request), queue_client.recommend(request)):
        assert after.fallback is None
        assert not {item.item_id for item in after.items} & set(done)


def test_the_asynchronous_client_does_what_the_blocking_one_does(
    served: Served, client: Client
) -> None:
    requests = [RecommendRequest(history=[f"drama-{i}"], k=3) for i in range(5)]

    async def ask() -> None:
        async with AsyncClient(served.url) as other:
            assert same(await other.recommend(requests[0]), client.recommend(requests[0]))
            batch = await other.recommend_batch(requests)
            assert all(map(same, batch.replies, client.recommend_batch(requests).replies))
            assert await other.similar("drama-1", k=2) == client.similar("drama-1", k=2)
            assert await other.models() == client.models()
            event = Event(user_id="asynchronous", item_id="drama-1")
            assert (await other.events([event])).accepted == 1

    asyncio.run(ask())


def test_many_at_once_get_the_answers_that_they_get_alone(client: Client) -> None:
    requests = [
        RecommendRequest(history=[f"{genre}-{i}"], k=i + 1)
        for genre in ("comedy", "drama", "western")
        for i in range(20)
    ]
    alone = [client.recommend(request) for request in requests]
    with ThreadPoolExecutor(16) as pool:
        assert all(map(same, pool.map(client.recommend, requests), alone))
    assert all(map(same, client.recommend_batch(requests).replies, alone))


def test_a_refusal_reaches_the_caller_in_the_services_words(
    client: Client, queue_client: QueueClient
) -> None:
    with pytest.raises(ApiError, match="no item 'nothing'") as refused:
        client.similar("nothing")
    assert refused.value.problem.status == 404
    with pytest.raises(ApiError, match="90") as refused:
        queue_client.recommend(RecommendRequest(history=["drama-1"], k=91))
    assert refused.value.problem.status == 422
    bad = RecommendRequest(history=["drama-1"], k=91)
    good = RecommendRequest(history=["drama-1"], k=1)
    first, second = client.recommend_batch([bad, good]).replies
    assert isinstance(first, Problem)
    assert isinstance(second, RecommendReply)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff", b"null", b'{"k": 0}', b'{"model": "nothing"}', b"[" * 10_000),
        b" " * (MAX_BODY + 1),
    ],
)
def test_bad_input_over_the_queue_is_answered_with_its_problem(served: Served, body: bytes) -> None:
    redis = connect(served.redis_url)
    publisher = Publisher(redis, f"{served.settings.namespace}:requests", max_backlog=100)
    reply_to = publisher.new_reply_key()
    deadline_ms = int((time.time() + PATIENCE_S) * 1000)
    publisher.publish(body, reply_to=reply_to, deadline_ms=deadline_ms)
    reply = publisher.wait_reply(reply_to, PATIENCE_S)
    redis.close()
    assert reply is not None
    problem = Problem.model_validate_json(reply)
    assert 400 <= problem.status < 500


NASTY = {
    "a request id that is no text": b"GET /healthz HTTP/1.1\r\nx-request-id: \xff\r\n",
    "a session that is no text": b"GET /healthz HTTP/1.1\r\nx-session-id: \xff\r\n",
    "a model id that is no text": b"GET /healthz HTTP/1.1\r\nserve_multiplexed_model_id: \xff\r\n",
    "a time-out of its own": b"GET /healthz HTTP/1.1\r\nx-request-timeout-seconds: 0\r\n",
    "a target that is no path": b"OPTIONS * HTTP/1.1\r\n",
    "a path that is no text": b"GET /v1/items/%ff/similar HTTP/1.1\r\n",
    "a method of another protocol": b"PROPFIND /v1/recommend HTTP/1.1\r\n",
    "a body that is none": b"POST /v1/recommend HTTP/1.1\r\nContent-Length: 0\r\n",
}

NO_HTTP = {
    "a length below zero": b"POST /v1/events HTTP/1.1\r\nContent-Length: -1\r\n",
    "not a word of it": b"\x00\x01\x02\r\n",
    "a header without end": b"GET /healthz HTTP/1.1\r\nx: " + b"x" * 100_000 + b"\r\n",
    "another host than its header's": b"GET http://elsewhere/v1/models HTTP/1.1\r\n",
}


def over_the_wire(served: Served, head: bytes) -> tuple[int, str, str]:
    """The status, the head and the body of what is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", served.settings.http_port)) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(head + b"Host: here\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    answered, _, body = answer.decode().partition("\r\n\r\n")
    return int(answered.split()[1]), answered.lower(), body


@pytest.mark.parametrize("head", NASTY.values(), ids=NASTY.keys())
def test_whatever_comes_over_the_wire_the_service_does_not_fail(
    served: Served, head: bytes
) -> None:
    status, answered, body = over_the_wire(served, head)
    assert 200 <= status < 500
    if status >= 400:
        assert "content-type: application/problem+json" in answered
        assert Problem.model_validate_json(body).status == status


@pytest.mark.parametrize("head", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_http_is_refused_before_it_reaches_the_service(
    served: Served, head: bytes
) -> None:
    status, _, body = over_the_wire(served, head)
    assert status == 400
    assert "Your browser sent an invalid request." in body  # compiled into HAProxy


def test_a_body_beyond_the_limit_is_refused_while_it_is_sent(served: Served) -> None:
    response = httpx.post(f"{served.url}/v1/events", content=b" " * (20 << 20))
    assert response.status_code == response.json()["status"] == 413


def test_nothing_listens_off_loopback(served: Served) -> None:
    addresses = listening(descendants(os.getpid()))
    assert f"127.0.0.1:{served.settings.http_port}" in addresses
    assert off_loopback(addresses) == []


def test_a_port_that_is_taken_is_told_before_anything_starts(served: Served) -> None:
    starting = serving(served.settings, served.redis_url)
    with pytest.raises(RecsysError, match=rf"{served.settings.http_port}.*another port"), starting:
        pass


def test_without_an_active_model_the_next_step_is_told(served: Served) -> None:
    settings = served.settings.model_copy(update={"state_dir": served.settings.state_dir / "new"})
    with pytest.raises(NoModel, match="recsys train"), serving(settings, served.redis_url):
        pass


def test_activating_a_version_swaps_it_with_no_failed_request(
    served: Served, client: Client, planted: Planted
) -> None:
    request = RecommendRequest(history=["drama-1"], k=5, model="ials")
    assert client.recommend(request).version == "v0001"
    version = ""
    with ThreadPoolExecutor(2) as pool:
        adding = pool.submit(add_fitted, served.registry, "ials", planted)
        seen = set()
        until = time.monotonic() + PATIENCE_S
        while "v0002" not in seen:
            seen.add(client.recommend(request).version)  # raises when it fails
            assert time.monotonic() < until
        version = adding.result()
    assert version == "v0002"
    assert seen == {"v0001", "v0002"}
    served.registry.rollback("ials")
    eventually(lambda: client.recommend(request).version == "v0001")


def test_requests_outlive_a_recommender_that_is_killed(
    served: Served, client: Client, queue_client: QueueClient
) -> None:
    request = RecommendRequest(history=["drama-1"], k=5, deadline_ms=int(PATIENCE_S * 1000))
    expected = client.recommend(request)
    [replica] = processes_whose_command_holds("ServeReplica:recsys:Recommender")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.recommend, request) for _ in range(100)]
        queued = [pool.submit(queue_client.recommend, request) for _ in range(10)]
        os.kill(replica, signal.SIGKILL)
        answers += [pool.submit(client.recommend, request) for _ in range(100)]
        assert {answer.result().version for answer in answers} == {expected.version}
        assert all(same(answer.result(), expected) for answer in queued)


def test_a_consumer_that_is_killed_is_replaced(served: Served, queue_client: QueueClient) -> None:
    request = RecommendRequest(history=["drama-1"], k=5, deadline_ms=int(PATIENCE_S * 1000))
    expected = queue_client.recommend(request)
    [replica] = processes_whose_command_holds("ServeReplica:recsys:Consumer")
    os.kill(replica, signal.SIGKILL)
    assert same(queue_client.recommend(request), expected)


def test_the_openapi_document_is_served(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert "/v1/recommend" in document["paths"]
    assert json.dumps(document)
