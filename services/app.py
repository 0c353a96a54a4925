"""The Ray Serve application: five deployments and what ties them.

    HTTP  ─►  Api ───────┬─►  Encoder (queries into content spaces)
                         ├─►  Recommender (models, spaces, indexes; one core a replica)
    queue ─►  Consumer ──┘
    jobs  ─►  Worker (embeds the catalogue and live items)

Api and Consumer hold no model and wait for others most of the time. They ask the Recommender a
batch at a time, and ask again where a replica dies over it: a request changes nothing, so it may
be computed twice. No deployment reserves a CPU, so that it fits beside training.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel
from ray import serve
from ray.serve.handle import DeploymentHandle

from infra.errors import RecsysError
from infra.queue import Queue
from infra.redis import AsyncRedis, connect_async
from infra.settings import Settings
from recsys.registry import Bridges, Registry, Spaces
from services.active_models import ActiveModels
from services.api import build_api
from services.catalogue_service import CatalogueService, Searched, Wanted, answer
from services.cluster import confine_replica
from services.consumer import Consumer
from services.content_space import SpaceEncoder
from services.embedding import CatalogEncoders
from services.encoders_ahead import EncodersAhead
from services.history import HistoryStore
from services.item_schemas import ItemReply
from services.jobs import Jobs
from services.live_follower import LiveFollower
from services.live_items import LiveItems
from services.named_pictures import NamedPictures
from services.problems import ServiceError, Unavailable
from services.query_encoder import QueryEncoder
from services.remote import RemoteEncoder, RemoteEngine
from services.reranker import Reranker
from services.searcher import SearchQuery
from services.served_model import Query
from services.service import Reply, Service
from services.worker import work

logger = logging.getLogger(__name__)


def build(settings: Settings, redis_url: str) -> serve.Application:
    """The application that `serve.run` takes."""
    settings = settings.anywhere()  # replicas work in folders of their own
    gpus = {"num_gpus": settings.encoder_gpus}
    encoder = _deployed(EncoderReplica, "Encoder", gpus, max_ongoing_requests=64).bind(settings)
    recommender = _deployed(RecommenderReplica, "Recommender", max_ongoing_requests=64).bind(
        settings, redis_url, encoder
    )
    consumer = _deployed(ConsumerReplica, "Consumer").bind(settings, redis_url, recommender)
    api = _deployed(serve.ingress()(ApiReplica), "Api", max_ongoing_requests=4096)
    others = [consumer]
    if settings.embedding_workers:
        workers = _deployed(WorkerReplica, "Worker", gpus, num_replicas=settings.embedding_workers)
        others.append(workers.bind(settings, redis_url))
    return api.bind(settings, redis_url, recommender, encoder, *others)


def _deployed(
    replica: Any, name: str, resources: Mapping[str, float] | None = None, **options: Any
) -> serve.Deployment:
    deployment: serve.Deployment = serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": 0, **(resources or {})},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=2,
        **options,
    )(replica)
    return deployment


class RecommenderReplica:
    """The active models and spaces under the live catalogue, on one core. A batch is computed in
    one go, the next waits for it.

    number: of the newest change to the catalogue that the caller knows of; the answer is not of
    before it.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, settings: Settings, redis_url: str, encoder: DeploymentHandle[Any]
    ) -> None:
        _prepare()
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        spaces = Spaces(settings.spaces_dir)
        ahead = EncodersAhead(spaces, RemoteEncoder(encoder).load)
        self._models = ActiveModels(
            Registry(settings.models_dir),
            settings.default_model,
            spaces,
            Bridges(settings.bridges_dir),
            ahead.are_ready,
        )
        self._live = LiveFollower(_live_items(settings, connect_async(redis_url)), self._models)
        await self._live.catch_up(1)
        self._following = [
            asyncio.create_task(self._models.follow()),
            asyncio.create_task(self._live.follow()),
            asyncio.create_task(ahead.follow()),
        ]

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises."""
        for each in self._following:
            if each.done():
                raise RuntimeError("what follows the changes has ended") from each.exception()

    async def recommend(self, number: int, queries: Sequence[Query]) -> list[Reply]:
        await self._live.catch_up(number)
        return [_reply(reply) for reply in self._models.recommender.recommend(queries)]

    async def similar(
        self, number: int, item_id: str, k: int | None, model: str | None, space: str | None
    ) -> Reply:
        await self._live.catch_up(number)
        try:
            return _reply(self._models.recommender.similar(item_id, k, model, space))
        except ServiceError as error:
            return error

    async def search(self, number: int, queries: Sequence[SearchQuery]) -> list[Searched]:
        await self._live.catch_up(number)
        searcher = self._models.recommender.searcher
        return [answer(searcher, query) for query in queries]

    async def item(self, number: int, item_id: str) -> ItemReply | ServiceError:
        await self._live.catch_up(number)
        try:
            return self._models.recommender.item(item_id)
        except ServiceError as error:
            return error

    async def models(self, number: int) -> bytes:
        return self._models.describe().model_dump_json().encode()

    async def spaces(self, number: int) -> bytes:
        await self._live.catch_up(number)
        return self._models.recommender.searcher.describe().model_dump_json().encode()


class EncoderReplica:
    """Encodes the texts and pictures of searches, and ranks anew what they found."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        _prepare()
        torch.set_num_threads(1)
        self._encoder = QueryEncoder(Spaces(settings.spaces_dir), CatalogEncoders())
        self._reranker = Reranker(settings.rerank_model)
        await asyncio.to_thread(self._encoder.warm)  # ready is who need not load first
        await asyncio.to_thread(self._reranker.warm)

    async def load(self, encoder: SpaceEncoder) -> ServiceError | None:
        try:
            await asyncio.to_thread(self._encoder.load, encoder)
        except RecsysError as error:
            return Unavailable(error.message)
        return None

    async def encode(
        self, batch: Sequence[Wanted]
    ) -> list[dict[str, NDArray[np.float32]] | ServiceError]:
        return await asyncio.to_thread(self._encoder.encode, batch)

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        return await asyncio.to_thread(self._reranker.rerank, text, found)


class BackgroundReplica:
    """Works from the moment it is there, asked by nobody, until it is told to stop."""

    def _begin(self, run: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        self._stop = asyncio.Event()
        self._run = asyncio.create_task(run(self._stop))

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises."""
        if self._run.done():
            raise RuntimeError(f"{type(self).__name__} has ended") from self._run.exception()

    async def __del__(self) -> None:
        """Called by Ray Serve before it ends the replica: finish what was read, read no more."""
        self._stop.set()
        await self._run


class ConsumerReplica(BackgroundReplica):
    """Answers the request queue."""

    async def __init__(  # type: ignore[misc]
        self, settings: Settings, redis_url: str, recommender: DeploymentHandle[Any]
    ) -> None:
        _prepare()
        redis = connect_async(redis_url)
        items = _live_items(settings, redis)
        service = _service(settings, redis, RemoteEngine(recommender), items)
        queue = Queue(
            redis,
            f"{settings.namespace}:requests",
            visibility_timeout_s=settings.visibility_timeout_s,
            max_deliveries=settings.max_deliveries,
            max_backlog=settings.max_backlog,
            reply_ttl_s=settings.reply_ttl_s,
            lifetime=service.lifetime_ms,
        )
        consumer = Consumer(
            queue,
            service.answer,
            micro_batch=settings.micro_batch,
            visibility_timeout_s=settings.visibility_timeout_s,
        )
        self._begin(consumer.run)


class WorkerReplica(BackgroundReplica):
    """Embeds what jobs and live items ask for."""

    async def __init__(self, settings: Settings, redis_url: str) -> None:  # type: ignore[misc]
        _prepare()
        torch.set_num_threads(1)
        self._begin(partial(work, settings, redis_url))


class ApiReplica:
    """The HTTP API."""

    async def __init__(  # type: ignore[misc]
        self,
        settings: Settings,
        redis_url: str,
        recommender: DeploymentHandle[Any],
        encoder: DeploymentHandle[Any],
        *others: DeploymentHandle[Any],  # not called: named here to be deployed along
    ) -> None:
        _prepare()
        redis = connect_async(redis_url)
        engine = RemoteEngine(recommender)
        items = _live_items(settings, redis)
        self._service = _service(settings, redis, engine, items)
        self._catalogue = CatalogueService(
            engine,
            RemoteEncoder(encoder),
            items,
            NamedPictures([each.get_secret_value() for each in settings.image_roots]),
            micro_batch=settings.micro_batch,
            deadline_ms=settings.deadline_ms,
        )
        self._jobs = Jobs(
            redis,
            settings,
            CatalogEncoders(),
            datasets=settings.dataset_roots,
            models=settings.encoder_models,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service, self._catalogue, self._jobs)


def _prepare() -> None:
    """To be called first in every replica."""
    confine_replica()
    # Ray Serve takes standard error for its own log; the real one leads to who started the service.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    for package in ("services", "recsys", "encoders", "infra"):
        logging.getLogger(package).addHandler(handler)


def _live_items(settings: Settings, redis: AsyncRedis) -> LiveItems:
    return LiveItems(redis, settings.namespace, max_backlog=settings.max_backlog)


def _service(
    settings: Settings, redis: AsyncRedis, engine: RemoteEngine, items: LiveItems
) -> Service:
    histories = HistoryStore(
        redis,
        settings.namespace,
        max_items=settings.history_max_items,
        ttl_s=settings.history_ttl_s,
    )
    return Service(
        engine,
        histories,
        items,
        micro_batch=settings.micro_batch,
        deadline_ms=settings.deadline_ms,
    )


def _reply(reply: BaseModel | ServiceError) -> Reply:
    return reply.model_dump_json().encode() if isinstance(reply, BaseModel) else reply
