"""The Ray Serve application: three deployments and what ties them.

    HTTP  ─►  Api ───────┐
                         ├─►  Recommender (models, indexes; one core a replica)
    queue ─►  Consumer ──┘

Api and Consumer hold no model and wait for others most of the time. They ask the Recommender a
batch at a time, and ask again where a replica dies over it: a request changes nothing, so it may
be computed twice. No deployment reserves a CPU, so that it fits beside training.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
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
from recsys.registry import Registry
from services.active_models import ActiveModels
from services.api import build_api
from services.cluster import confine_replica
from services.consumer import Consumer
from services.history import HistoryStore
from services.problems import ServiceError, Unavailable
from services.recommender import Query
from services.service import Reply, Service

logger = logging.getLogger(__name__)

RETRY_S = 0.1
"""Seconds before another replica is asked in place of one that died."""

PATIENCE_S = 10.0
"""Seconds after the first death in which others are asked: about as long as it takes to start one,
so that a request which kills whoever computes it kills two or three, not all that ever start."""


def build(settings: Settings, redis_url: str) -> serve.Application:
    """The application that `serve.run` takes."""
    recommender = _deployed(RecommenderReplica, "Recommender", max_ongoing_requests=64).bind(
        settings.models_dir.absolute(), settings.default_model
    )
    consumer = _deployed(ConsumerReplica, "Consumer").bind(settings, redis_url, recommender)
    api = _deployed(serve.ingress()(ApiReplica), "Api", max_ongoing_requests=4096)
    return api.bind(settings, redis_url, recommender, consumer)


def _deployed(replica: Any, name: str, **options: Any) -> serve.Deployment:
    deployment: serve.Deployment = serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=2,
        **options,
    )(replica)
    return deployment


class RecommenderReplica:
    """The active models, on one core. A batch is computed in one go, the next waits for it."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, models_dir: Path, default: str | None
    ) -> None:
        _prepare()
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        self._models = ActiveModels(Registry(models_dir), default)
        self._following = asyncio.create_task(self._models.follow())

    async def recommend(self, queries: Sequence[Query]) -> list[Reply]:
        return [_reply(reply) for reply in self._models.recommender.recommend(queries)]

    async def similar(self, item_id: str, k: int | None, model: str | None) -> Reply:
        try:
            return _reply(self._models.recommender.similar(item_id, k, model))
        except ServiceError as error:
            return error

    async def models(self) -> bytes:
        return self._models.describe().model_dump_json().encode()


class ConsumerReplica:
    """Answers the request queue from the moment it is there, asked by nobody."""

    async def __init__(  # type: ignore[misc]
        self, settings: Settings, redis_url: str, recommender: DeploymentHandle[Any]
    ) -> None:
        _prepare()
        redis = connect_async(redis_url)
        service = _service(settings, redis, recommender)
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


class ApiReplica:
    """The HTTP API."""

    async def __init__(  # type: ignore[misc]
        self,
        settings: Settings,
        redis_url: str,
        recommender: DeploymentHandle[Any],
        consumer: DeploymentHandle[Any],  # not called: named here to be deployed along
    ) -> None:
        _prepare()
        self._service = _service(settings, connect_async(redis_url), recommender)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service)


class RemoteEngine:
    """The Recommender replicas as an Engine."""

    def __init__(self, recommender: DeploymentHandle[Any]) -> None:
        self._recommender = recommender

    async def recommend(self, queries: Sequence[Query]) -> Sequence[Reply]:
        replies: list[Reply] = await self._ask("recommend", list(queries))
        return replies

    async def similar(self, item_id: str, k: int | None, model: str | None) -> Reply:
        reply: Reply = await self._ask("similar", item_id, k, model)
        return reply

    async def models(self) -> bytes:
        models: bytes = await self._ask("models")
        return models

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Raises Unavailable when replicas go on dying for PATIENCE_S."""
        until = None
        while True:
            try:
                return await getattr(self._recommender, method).remote(*arguments)
            except RayActorError as error:
                until = until or time.monotonic() + PATIENCE_S
                if time.monotonic() > until:
                    raise Unavailable(
                        "what computes the answers ended more than once over this request or over "
                        "one beside it; the log says more"
                    ) from error
                logger.warning("a Recommender replica is gone, asking another: %s", error)
                await asyncio.sleep(RETRY_S)


def _prepare() -> None:
    """To be called first in every replica."""
    confine_replica()
    # Ray Serve takes standard error for its own log; the real one leads to who started the service.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    for package in ("services", "recsys", "infra"):
        logging.getLogger(package).addHandler(handler)


def _service(settings: Settings, redis: AsyncRedis, recommender: DeploymentHandle[Any]) -> Service:
    histories = HistoryStore(
        redis,
        settings.namespace,
        max_items=settings.history_max_items,
        ttl_s=settings.history_ttl_s,
    )
    return Service(
        RemoteEngine(recommender),
        histories,
        micro_batch=settings.micro_batch,
        deadline_ms=settings.deadline_ms,
    )


def _reply(reply: BaseModel | ServiceError) -> Reply:
    return reply.model_dump_json().encode() if isinstance(reply, BaseModel) else reply
