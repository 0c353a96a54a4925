"""A space goes over to another encoder while searches are asked: every one is answered, and each
by one encoder alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import RecsysError
from infra.redis import connect_async
from recsys.registry import Registry, Spaces
from services import active_models, encoders_ahead, query_encoder
from services.active_models import ActiveModels
from services.catalogue_service import CatalogueService, Wanted
from services.content_space import SpaceEncoder
from services.encoders_ahead import EncodersAhead
from services.live_items import LiveItems
from services.named_pictures import NamedPictures
from services.problems import ServiceError
from services.query_encoder import QueryEncoder
from services.search_schemas import SearchReply, SearchRequest
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder
from tests.near import Near, NearEncoder

OLD, NEW = HashingEncoder(64, "old"), HashingEncoder(32, "new")
LOADING_S = 0.5


class SlowEncoders:
    """Takes its time to open one, which may also be missing."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.missing: set[str] = set()

    def open(self, space: str, model: str, fingerprint: str) -> HashingEncoder:
        time.sleep(LOADING_S)
        self.opened.append(model)
        if model in self.missing:
            raise RecsysError(f"there is no encoder {model!r}")
        return OLD if model == OLD.name else NEW

    def fingerprint(self, space: str, model: str) -> str:
        raise NotImplementedError


class ThreadedEncoder(NearEncoder):
    """As the replica: the loop goes on meanwhile."""

    async def encode(
        self, batch: Sequence[Wanted]
    ) -> list[dict[str, NDArray[np.float32]] | ServiceError]:
        return await asyncio.to_thread(self._encoder.encode, batch)


class Deployment:
    """What searches, wired as the replicas are."""

    def __init__(self, registry: Registry, spaces: Spaces, redis_url: str, namespace: str) -> None:
        self.spaces = spaces
        self.encoders = SlowEncoders()
        self.encoder = QueryEncoder(spaces, self.encoders)
        self.encoder.warm()
        self._ahead = EncodersAhead(spaces, self._load)
        self.models = ActiveModels(registry, "ials", spaces, is_ready=self._ahead.are_ready)
        self._redis, self._namespace = redis_url, namespace

    async def _load(self, encoder: SpaceEncoder) -> None:
        await asyncio.to_thread(self.encoder.load, encoder)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CatalogueService]:
        redis = connect_async(self._redis)
        following = [
            asyncio.create_task(self.models.follow()),
            asyncio.create_task(self._ahead.follow()),
        ]
        try:
            yield CatalogueService(
                Near(self.models),
                ThreadedEncoder(self.encoder),
                LiveItems(redis, self._namespace, max_backlog=10),
                NamedPictures([]),
                micro_batch=16,
                # Far less than it takes to load an encoder.
                deadline_ms=int(1000 * LOADING_S / 2),
            )
        finally:
            for each in following:
                each.cancel()
            await redis.aclose()


@pytest.fixture
def deployment(
    registry: Registry,
    redis_url: str,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployment:
    for module in (active_models, encoders_ahead):
        monkeypatch.setattr(module, "WATCH_S", 0.05)
    monkeypatch.setattr(encoders_ahead, "RETRY_S", 0.1)
    monkeypatch.setattr(query_encoder, "RETRY_S", 0.1)
    spaces = add_space(tmp_path / "spaces", OLD, films())
    return Deployment(registry, spaces, redis_url, namespace)


TEXTS = ("rocket orbit", "sheriff saddle", "kiss letter")


async def ask(catalogue: CatalogueService, stop: asyncio.Event) -> list[tuple[str, SearchReply]]:
    """Search again and again; each text with what was found."""
    replies = []
    while not stop.is_set():
        for text in TEXTS:
            replies.append((text, await catalogue.search(SearchRequest(text=text, k=4))))
            await asyncio.sleep(0.002)
    return replies


def scores(spaces: Spaces, version: str, encoder: HashingEncoder, text: str) -> list[float]:
    """The best four, exactly."""
    bundle = spaces.open(f"text@{version}")
    cosines = bundle.vectors @ encoder.encode([text]).vectors[0]
    cosines[~bundle.catalogue["available"].to_numpy()] = -1
    best: list[float] = np.sort(cosines)[:-5:-1].tolist()
    return best


def test_searches_are_answered_through_a_change_and_back_each_by_one_encoder(
    deployment: Deployment,
) -> None:
    spaces = deployment.spaces

    async def story() -> list[tuple[str, SearchReply]]:
        async with deployment.running() as catalogue:
            stop = asyncio.Event()
            clients = [asyncio.create_task(ask(catalogue, stop)) for _ in range(4)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(add_space, spaces.root, NEW, films())
            await asyncio.sleep(3 * LOADING_S)
            spaces.rollback("text")
            await asyncio.sleep(3 * LOADING_S)
            stop.set()
            return [reply for replies in await asyncio.gather(*clients) for reply in replies]

    replies = asyncio.run(story())
    seen = [reply.versions["text"] for _, reply in replies]
    assert set(seen) == {"v0001", "v0002"}
    assert seen[-1] == "v0001"
    exact = {
        (version, text): scores(spaces, version, encoder, text)
        for version, encoder in (("v0001", OLD), ("v0002", NEW))
        for text in TEXTS
    }
    for text, reply in replies:
        told = [item.score for item in reply.items]
        assert told == pytest.approx(exact[reply.versions["text"], text], abs=1e-5)
    assert deployment.encoders.opened == [OLD.name, NEW.name], "the old one was held meanwhile"


def test_a_space_whose_encoder_cannot_be_loaded_stays_as_it_was_until_it_can(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    deployment.encoders.missing.add(NEW.name)

    async def story() -> tuple[SearchReply, SearchReply]:
        async with deployment.running() as catalogue:
            request = SearchRequest(text="rocket")
            await asyncio.to_thread(add_space, deployment.spaces.root, NEW, films())
            await asyncio.sleep(3 * LOADING_S)
            before = await catalogue.search(request)
            deployment.encoders.missing.clear()
            await asyncio.sleep(3 * LOADING_S)
            return before, await catalogue.search(request)

    before, after = asyncio.run(story())
    assert (before.versions["text"], after.versions["text"]) == ("v0001", "v0002")
    [message] = [r.getMessage() for r in caplog.records if r.name == encoders_ahead.__name__]
    assert "there is no encoder 'new'" in message
    assert "stays in service" in message


def test_an_encoder_is_let_go_of_once_nobody_asks_for_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_encoder, "KEPT_S", 0.0)
    old, new = (SpaceEncoder("text", each.name, each.fingerprint) for each in (OLD, NEW))
    encoder = deployment.encoder
    encoder.load(new)
    for by in (old, old, new, old):
        [answer] = encoder.encode([Wanted("rocket", None, (by,))])
        assert isinstance(answer, dict)
        assert list(answer) == [by.fingerprint]
    assert deployment.encoders.opened == [OLD.name, NEW.name, NEW.name, OLD.name]


def test_an_encoder_that_cannot_be_loaded_costs_one_batch_its_time_and_not_every_one(
    tmp_path: Path,
) -> None:
    encoders = SlowEncoders()
    encoders.missing.add(NEW.name)
    encoder = QueryEncoder(Spaces(tmp_path), encoders)
    missing = Wanted("rocket", None, (SpaceEncoder("text", NEW.name, NEW.fingerprint),))
    answers = [encoder.encode([missing]) for _ in range(3)]
    assert all(isinstance(answer, ServiceError) for [answer] in answers)
    assert encoders.opened == [NEW.name]
