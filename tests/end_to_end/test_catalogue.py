"""A catalogue in service: real Ray Serve, real Redis, real sentence embeddings, one worker."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from encoders.text import TextEncoder
from infra.loopback import free_port
from infra.settings import Settings
from recsys.registry import Registry
from services.client import ApiError, Client
from services.item_schemas import Item, ItemState
from services.schemas import RecommendRequest
from services.search_schemas import SearchRequest
from services.serving import serving
from tests.encoders.models import tiny_bert
from tests.films import add_space, films

PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        state_dir=tmp_path_factory.mktemp("catalogue"),
        namespace="catalogue",
        http_port=free_port(),
        deadline_ms=20_000,
    )


@pytest.fixture(scope="module")
def url(ray_cluster: None, registry: Registry, redis_url: str, settings: Settings) -> Iterator[str]:
    shutil.copytree(registry.root, settings.models_dir)
    add_space(settings.spaces_dir, TextEncoder.open(), films())
    with serving(settings, redis_url) as running:
        yield running.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.2)


def found(client: Client, **fields: object) -> list[str]:
    reply = client.search(SearchRequest.model_validate(fields))
    return [item.item_id for item in reply.items]


def test_words_find_what_tells_of_the_same_in_other_words(client: Client) -> None:
    ids = found(client, text="a cowboy riding through the prairie", k=5)
    assert {item_id.split("-")[0] for item_id in ids} == {"western"}


def test_an_item_lives_from_its_put_to_its_deletion(client: Client) -> None:
    submarine = Item(
        item_id="submarine",
        title="The Deep",
        text="A submarine crew hides from destroyers at the bottom of the ocean.",
        tags=["war"],
        attributes={"year": 2026},
    )
    assert client.put_items([submarine]).accepted == 1
    assert client.item("submarine").title == "The Deep"
    eventually(lambda: client.item("submarine").spaces == {"text": ItemState.READY})
    assert found(client, text="sailors under water in a war", k=3)[0] == "submarine"
    year = {"attributes": {"year": {"gte": 2020}}}
    assert found(client, text="anything", filters=year) == ["submarine"]
    similar = client.similar("submarine", 3, space="text")
    assert "submarine" not in [item.item_id for item in similar.items]

    client.delete_item("submarine")
    assert "submarine" not in found(client, text="sailors under water in a war", k=37)
    with pytest.raises(ApiError, match="there is no item 'submarine'"):
        client.item("submarine")


def test_a_deleted_item_leaves_the_very_next_recommendation(client: Client) -> None:
    asked = RecommendRequest(history=["comedy-0", "comedy-1"], k=5, model="ials")
    first = client.recommend(asked).items[0].item_id
    client.delete_item(first)
    assert first not in [item.item_id for item in client.recommend(asked).items]


def test_every_search_is_answered_while_the_space_goes_over_to_another_encoder(
    client: Client, url: str, settings: Settings, tmp_path: Path
) -> None:
    stop = threading.Event()

    def ask() -> list[str]:
        request = SearchRequest(text="a cowboy rides", deadline_ms=2000)
        seen = []
        with Client(url) as own:
            while not stop.is_set():
                seen.append(own.search(request).versions["text"])
        return seen

    client.search(SearchRequest(text="a cowboy"))  # the service is warm
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        other = TextEncoder.open(str(tiny_bert(tmp_path / "bert")))
        spaces = add_space(settings.spaces_dir, other, films())
        after = spaces.active("text")
        try:
            eventually(lambda: client.spaces().spaces[0].version == after)
            time.sleep(0.5)
        finally:
            stop.set()
        seen = [each.result() for each in asking]  # raises where one was not answered
    spaces.rollback("text")
    before = spaces.active("text")
    assert all({each[0], each[-1]} == {before, after} for each in seen)
    eventually(lambda: client.spaces().spaces[0].version == before)


def test_the_documentation_shows_the_catalogue(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert {"/v1/search", "/v1/items", "/v1/jobs", "/v1/spaces"} <= set(document["paths"])
    assert "SearchRequest" in document["components"]["schemas"]
