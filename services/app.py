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
import time
from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from infra.queue import Queue
from infra.redis import AsyncRedis, connect_async
from infra.settings import Settings
from recsys.registry import Bridges, Registry, Spaces
from services.active_models import ActiveModels
from services.api import build_api
from services.catalogue_service import Answer, CatalogueService, Wanted, answer
from services.cluster import confine_replica
from services.consumer import Consumer
from services.embedding import CatalogEncoders
from services.history import HistoryStore
from services.item_schemas import ItemReply
from services.jobs import Jobs
from services.live_follower import LiveFollower
from services.live_items import LiveItems
from services.problems import ServiceError, Unavailable
from services.query_encoder import QueryEncoder
from services.searcher import QueryVector, SearchQuery
from services.served_model import Query
from services.service import Reply, Service
from services.worker import work

logger = logging.getLogger(__name__)

RETRY_S = 0.1
"""Seconds before another replica is asked in place of one that died."""

PATIENCE_S = 10.0
"""Seconds after the first death in which others are asked: about as long as it takes to start one,
so that a request which kills whoever computes it kills two or three, not all that ever start."""


def build(settings: Settings, redis_url: str) -> serve.Application:
    """The application that `serve.run` takes."""
    # Replicas run in folders of their own.
    settings = settings.model_copy(update={"state_dir": settings.state_dir.absolute()})
    gpus = {"num_gpus": settings.encoder_gpus}
    recommender = _deployed(RecommenderReplica, "Recommender", max_ongoing_requests=64).bind(
        settings, redis_url
    )
    encoder = _deployed(EncoderReplica, "Encoder", gpus, max_ongoing_requests=64).bind(settings)
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
        self, settings: Settings, redis_url: str
    ) -> None:
        _prepare()
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        self._models = ActiveModels(
            Registry(settings.models_dir),
            settings.default_model,
            Spaces(settings.spaces_dir),
            Bridges(settings.bridges_dir),
        )
        items = LiveItems(
            connect_async(redis_url), settings.namespace, max_backlog=settings.max_backlog
        )
        self._live = LiveFollower(items, self._models)
        await self._live.catch_up(1)
        self._following = [
            asyncio.create_task(self._models.follow()),
            asyncio.create_task(self._live.follow()),
        ]

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

    async def search(
        self, number: int, queries: Sequence[SearchQuery]
    ) -> list[Answer | ServiceError]:
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
        self._encoder = QueryEncoder(
            Spaces(settings.spaces_dir), CatalogEncoders(), settings.rerank_model
        )
        await asyncio.to_thread(self._encoder.warm)  # ready is who need not load first

    async def encode(self, batch: Sequence[Wanted]) -> list[dict[str, QueryVector] | ServiceError]:
        return await asyncio.to_thread(self._encoder.encode, batch)

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        return await asyncio.to_thread(self._encoder.rerank, text, found)


class ConsumerReplica:
    """Answers the request queue from the moment it is there, asked by nobody."""

    async def __init__(  # type: ignore[misc]
        self, settings: Settings, redis_url: str, recommender: DeploymentHandle[Any]
    ) -> None:
        _prepare()
        redis = connect_async(redis_url)
        service = _service(settings, redis, RemoteEngine(recommender))
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
        self._stop = asyncio.Event()
        self._run = asyncio.create_task(consumer.run(self._stop))

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises."""
        if self._run.done():
            raise RuntimeError("the consumer has ended") from self._run.exception()

    async def __del__(self) -> None:
        """Called by Ray Serve before it ends the replica: answer what was read, read no more."""
        self._stop.set()
        await self._run


class WorkerReplica:
    """Embeds what jobs and live items ask for, asked by nobody."""

    async def __init__(self, settings: Settings, redis_url: str) -> None:  # type: ignore[misc]
        _prepare()
        torch.set_num_threads(1)
        self._stop = asyncio.Event()
        self._run = asyncio.create_task(work(settings, redis_url, self._stop))

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises."""
        if self._run.done():
            raise RuntimeError("the worker has ended") from self._run.exception()

    async def __del__(self) -> None:
        """Called by Ray Serve before it ends the replica: finish what was read, read no more."""
        self._stop.set()
        await self._run


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
        self._service = _service(settings, redis, engine)
        self._catalogue = CatalogueService(
            engine,
            RemoteEncoder(encoder),
            LiveItems(redis, settings.namespace, max_backlog=settings.max_backlog),
            micro_batch=settings.micro_batch,
            deadline_ms=settings.deadline_ms,
        )
        self._jobs = Jobs(redis, settings, CatalogEncoders(), datasets=settings.dataset_roots)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service, self._catalogue, self._jobs)


class RemoteEngine:
    """The Recommender replicas as an Engine, and as a CatalogueEngine."""

    def __init__(self, recommender: DeploymentHandle[Any]) -> None:
        self._recommender = recommender
        self._number = 0

    def know(self, number: int) -> None:
        self._number = max(number, self._number)

    async def recommend(self, queries: Sequence[Query]) -> Sequence[Reply]:
        replies: list[Reply] = await self._ask("recommend", list(queries))
        return replies

    async def similar(
        self, item_id: str, k: int | None, model: str | None, space: str | None
    ) -> Reply:
        reply: Reply = await self._ask("similar", item_id, k, model, space)
        return reply

    async def models(self) -> bytes:
        models: bytes = await self._ask("models")
        return models

    async def search(self, queries: Sequence[SearchQuery]) -> Sequence[Answer | ServiceError]:
        answers: list[Answer | ServiceError] = await self._ask("search", list(queries))
        return answers

    async def item(self, item_id: str) -> ItemReply | ServiceError:
        item: ItemReply | ServiceError = await self._ask("item", item_id)
        return item

    async def spaces(self) -> bytes:
        spaces: bytes = await self._ask("spaces")
        return spaces

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await _ask(self._recommender, method, self._number, *arguments)


class RemoteEncoder:
    """The Encoder replicas as an EncodingEngine."""

    def __init__(self, encoder: DeploymentHandle[Any]) -> None:
        self._encoder = encoder

    async def encode(
        self, batch: Sequence[Wanted]
    ) -> Sequence[dict[str, QueryVector] | ServiceError]:
        encoded: list[dict[str, QueryVector] | ServiceError] = await _ask(
            self._encoder, "encode", list(batch)
        )
        return encoded

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        scores: list[float] | ServiceError = await _ask(self._encoder, "rerank", text, list(found))
        return scores


async def _ask(replicas: DeploymentHandle[Any], method: str, *arguments: Any) -> Any:
    """What one of the replicas answers; raises Unavailable when they go on dying for PATIENCE_S."""
    until = None
    while True:
        try:
            return await getattr(replicas, method).remote(*arguments)
        except RayActorError as error:
            until = until or time.monotonic() + PATIENCE_S
            if time.monotonic() > until:
                raise Unavailable(
                    "what computes the answers ended more than once over this request or over "
                    "one beside it; the log says more"
                ) from error
            logger.warning("a replica is gone, asking another: %s", error)
            await asyncio.sleep(RETRY_S)


def _prepare() -> None:
    """To be called first in every replica."""
    confine_replica()
    # Ray Serve takes standard error for its own log; the real one leads to who started the service.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    for package in ("services", "recsys", "encoders", "infra"):
        logging.getLogger(package).addHandler(handler)


def _service(settings: Settings, redis: AsyncRedis, engine: RemoteEngine) -> Service:
    histories = HistoryStore(
        redis,
        settings.namespace,
        max_items=settings.history_max_items,
        ttl_s=settings.history_ttl_s,
    )
    return Service(
        engine,
        histories,
        micro_batch=settings.micro_batch,
        deadline_ms=settings.deadline_ms,
    )


def _reply(reply: BaseModel | ServiceError) -> Reply:
    return reply.model_dump_json().encode() if isinstance(reply, BaseModel) else reply
