"""Replicas, asked from another: each engine as the services know it, over Ray Serve's handles.

A request changes nothing, so it may be computed twice: where a replica dies over one, another is
asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from services.catalogue_service import Searched, Wanted
from services.content_space import SpaceEncoder
from services.item_schemas import ItemReply
from services.problems import ServiceError, Unavailable
from services.searcher import SearchQuery
from services.served_model import Query
from services.service import Reply

logger = logging.getLogger(__name__)

RETRY_S = 0.1
"""Seconds before another replica is asked in place of one that died."""

PATIENCE_S = 10.0
"""Seconds after the first death in which others are asked: about as long as it takes to start one,
so that a request which kills whoever computes it kills two or three, not all that ever start."""


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

    async def search(self, queries: Sequence[SearchQuery]) -> Sequence[Searched]:
        answers: list[Searched] = await self._ask("search", list(queries))
        return answers

    async def item(self, item_id: str) -> ItemReply | ServiceError:
        item: ItemReply | ServiceError = await self._ask("item", item_id)
        return item

    async def spaces(self) -> bytes:
        spaces: bytes = await self._ask("spaces")
        return spaces

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await ask(self._recommender, method, self._number, *arguments)


class RemoteEncoder:
    """The Encoder replicas as an EncodingEngine."""

    def __init__(self, encoder: DeploymentHandle[Any]) -> None:
        self._encoder = encoder

    async def load(self, wanted: SpaceEncoder) -> None:
        """Return once one of the replicas has the encoder; raises ServiceError."""
        error: ServiceError | None = await ask(self._encoder, "load", wanted)
        if error is not None:
            raise error

    async def encode(
        self, batch: Sequence[Wanted]
    ) -> Sequence[dict[str, NDArray[np.float32]] | ServiceError]:
        encoded: list[dict[str, NDArray[np.float32]] | ServiceError] = await ask(
            self._encoder, "encode", list(batch)
        )
        return encoded

    async def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        scores: list[float] | ServiceError = await ask(self._encoder, "rerank", text, list(found))
        return scores


async def ask(replicas: DeploymentHandle[Any], method: str, *arguments: Any) -> Any:
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
