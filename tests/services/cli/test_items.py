"""`recsys items put`, against the API over a real Redis."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from infra.loopback import free_port
from infra.redis import connect, connect_async
from infra.settings import Settings
from recsys.registry import Registry, Spaces
from services.active_models import ActiveModels
from services.api import build_api
from services.catalogue_service import CatalogueService
from services.cli.main import app
from services.embedding import CatalogEncoders
from services.history import HistoryStore
from services.jobs import Jobs
from services.live_items import LiveItems
from services.named_pictures import NamedPictures
from services.query_encoder import QueryEncoder
from services.service import Service
from tests.near import Near, NearEncoder

MAX_BACKLOG = 3
"""Requests to put something that are accepted while no worker runs."""


async def serve(registry: Registry, redis_url: str, namespace: str, server: uvicorn.Server) -> None:
    redis = connect_async(redis_url)
    engine = Near(ActiveModels(registry, "popularity"))
    encoders = CatalogEncoders()
    items = LiveItems(redis, namespace, max_backlog=MAX_BACKLOG)
    catalogue = CatalogueService(
        engine,
        NearEncoder(QueryEncoder(Spaces(Path("nowhere")), encoders)),
        items,
        NamedPictures([]),
        micro_batch=16,
        deadline_ms=2000,
    )
    histories = HistoryStore(redis, namespace, max_items=100, ttl_s=60)
    service = Service(engine, histories, items, micro_batch=16, deadline_ms=2000)
    jobs = Jobs(redis, Settings(redis_url=None, namespace=namespace), encoders, datasets=[])
    server.config.app = build_api(service, catalogue, jobs)
    await server.serve()
    await redis.aclose()


@pytest.fixture
def url(registry: Registry, redis_url: str, namespace: str) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config("", port=port, log_level="warning"))
    serving = threading.Thread(
        target=lambda: asyncio.run(serve(registry, redis_url, namespace, server))
    )
    serving.start()
    while not server.started:
        assert serving.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    serving.join()


def put(url: str, folder: Path, lines: list[str]) -> Result:
    path = folder / "items.jsonl"
    path.write_text("\n".join(lines))
    return CliRunner().invoke(app, ["items", "put", str(path), "--url", url])


def line(number: int, **fields: object) -> str:
    return json.dumps({"item_id": f"i{number}", "title": "Dust", **fields})


def test_items_of_long_texts_are_put_in_requests_that_the_service_reads(
    url: str, tmp_path: Path, redis_url: str, namespace: str
) -> None:
    result = put(url, tmp_path, [line(n, text="é" * 60_000) for n in range(100)])
    assert result.exit_code == 0, result.output
    assert "100 items accepted" in result.stdout
    with connect(redis_url) as redis:
        assert redis.hlen(f"{namespace}:items") == 100


def test_a_put_that_is_refused_on_the_way_tells_how_many_were_accepted(
    url: str, tmp_path: Path
) -> None:
    result = put(url, tmp_path, [line(n) for n in range(1000)])
    assert result.exit_code == 1
    assert "750 items accepted" in result.stdout


def test_a_line_that_is_no_item_is_named_beside_how_many_were_accepted(
    url: str, tmp_path: Path
) -> None:
    result = put(url, tmp_path, [*(line(n) for n in range(300)), "{}"])
    assert "250 items accepted" in result.stdout
    assert "line 301: item_id" in str(result.exception)
