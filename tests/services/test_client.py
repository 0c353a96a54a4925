"""What the clients make of a service that is not there, or is another one. The rest of them is
tested against the real service, in tests/end_to_end/test_serving.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra.loopback import free_port
from infra.redis import RedisUnavailable
from infra.settings import Settings
from services.client import ApiError, AsyncClient, Client, QueueClient, Unreachable
from services.event_schemas import Event
from services.schemas import RecommendRequest

REQUEST = RecommendRequest(history=["a"])


def test_where_nobody_listens_the_client_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url) as client, pytest.raises(Unreachable, match=rf"{url}.*recsys serve"):
        client.recommend(REQUEST)


def test_the_asynchronous_client_says_the_same() -> None:
    async def ask() -> None:
        async with AsyncClient(f"http://127.0.0.1:{free_port()}") as client:
            await client.models()

    with pytest.raises(Unreachable, match="recsys serve"):
        asyncio.run(ask())


@pytest.fixture
def other_server() -> Iterator[str]:
    """An HTTP server that is not this service."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_service_is_not_taken_for_this_one(other_server: str) -> None:
    with Client(other_server) as client, pytest.raises(Unreachable, match="check the address"):
        client.models()


def test_no_proxy_leads_to_this_machine(other_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")

    async def ask() -> None:
        async with AsyncClient(other_server) as client:
            await client.models()

    with Client(other_server) as client, pytest.raises(Unreachable, match="answers with 200"):
        client.models()
    with pytest.raises(Unreachable, match="answers with 200"):
        asyncio.run(ask())
    with Client("http://here.invalid") as client, pytest.raises(Unreachable, match="refused"):
        client.models()


@pytest.mark.parametrize("url", ["http://[::1", "http://::1:8000", "http://\x00"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(Unreachable, match=r"is not a URL.*http://host:port"):
        Client(url)


def test_a_name_that_no_host_can_have_is_told() -> None:
    with Client(f"http://{'a' * 100}") as client, pytest.raises(Unreachable, match="no service"):
        client.models()


def test_more_than_one_call_bears_is_refused_as_the_service_would() -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(ApiError, match=r"\(422\): events: .*at most 1000") as refused:
            client.events([Event(user_id="u", item_id="i")] * 1001)
        with pytest.raises(ApiError, match=r"requests: .*at most 256"):
            client.recommend_batch([REQUEST] * 257)
    assert refused.value.problem.status == 422


def test_over_the_queue_no_reply_by_the_deadline_is_told(redis_url: str, namespace: str) -> None:
    client = QueueClient(redis_url, namespace, deadline_ms=100, max_backlog=10)
    with client, pytest.raises(Unreachable, match=r"100 ms.*recsys serve"):
        client.recommend(REQUEST)


def test_without_redis_the_queue_client_names_the_server(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}", state_dir=tmp_path)
    with pytest.raises(RedisUnavailable, match=r"127\.0\.0\.1"):
        QueueClient.from_settings(settings)
