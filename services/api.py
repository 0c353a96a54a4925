"""The HTTP API: paths, bodies and status codes. What they do stands in `service.py`.

Every error is a problem document (RFC 9457). What concerns the catalogue is in `catalogue_api.py`.
"""

from __future__ import annotations

import logging
import math
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from infra.redis import RedisUnavailable
from infra.roots import Unreached
from services.bodies import MAX_K, Id, Name
from services.catalogue_api import CATALOGUE_REQUESTS, add_catalogue
from services.catalogue_service import CatalogueService
from services.event_schemas import EventsReply, EventsRequest
from services.http import (
    HEALTH,
    RECOMMENDATIONS,
    SECTIONS,
    body_of,
    json_reply,
    operation,
)
from services.jobs import Jobs
from services.jobs_api import JOB_REQUESTS, add_jobs
from services.problems import (
    NoSuchPath,
    ServiceError,
    Unavailable,
    WrongMethod,
    parse,
    refusal,
)
from services.schemas import (
    ModelsReply,
    Problem,
    RecommendBatchReply,
    RecommendBatchRequest,
    RecommendReply,
    RecommendRequest,
    SimilarReply,
)
from services.service import Service, dump

logger = logging.getLogger(__name__)

REQUESTS = (
    RecommendRequest,
    RecommendBatchRequest,
    EventsRequest,
    *CATALOGUE_REQUESTS,
    *JOB_REQUESTS,
)


class SimilarOptions(BaseModel):
    """How to ask for similar items."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    k: Annotated[int | None, Query(ge=1, le=MAX_K)] = None
    """How many items; no more than the catalogue holds. Where it is not given, 10, or all that a
    smaller catalogue holds."""

    model: Name | None = None
    """Which of the models in service; the default one where it is not given."""

    space: Name | None = None
    """Which of the content spaces, in the place of a model: similar by what the items are. Not
    together with `model`."""


def build_api(service: Service, catalogue: CatalogueService, jobs: Jobs) -> FastAPI:
    """The ASGI application over a service, its catalogue and its jobs."""
    app = FastAPIOffline(  # the browser gets all of /docs from here, nothing from elsewhere
        title="recsys",
        description="Recommendations from recent histories, and a catalogue that is searched by "
        "words and pictures. Recommendations are asked for over a Redis queue as well, by the same "
        "requests. Every error is a problem document (RFC 9457).",
        openapi_tags=[{"name": name, "description": says} for name, says in SECTIONS.items()],
        version="1",
        redirect_slashes=False,
        redoc_url=None,
    )
    _add_errors(app)

    @app.post(
        "/v1/recommend",
        **operation(RECOMMENDATIONS, "Recommend items", RecommendReply, RecommendRequest),
    )
    async def recommend(request: Request) -> Response:
        return json_reply(
            await service.recommend_one(parse(RecommendRequest, await body_of(request)))
        )

    @app.post(
        "/v1/recommend:batch",
        **operation(
            RECOMMENDATIONS,
            "Recommend for many at once",
            RecommendBatchReply,
            RecommendBatchRequest,
        ),
    )
    async def recommend_batch(request: Request) -> Response:
        batch = parse(RecommendBatchRequest, await body_of(request))
        replies = await service.recommend_many(batch.requests)
        return json_reply(b'{"replies":[' + b",".join(map(dump, replies)) + b"]}")

    @app.get(
        "/v1/items/{item_id:path}/similar",
        **operation(RECOMMENDATIONS, "Find similar items", SimilarReply),
    )
    async def similar(
        item_id: Annotated[Id, Path()], options: Annotated[SimilarOptions, Query()]
    ) -> Response:
        return json_reply(await service.similar(item_id, options.k, options.model, options.space))

    @app.post(
        "/v1/events",
        status_code=202,
        **operation(RECOMMENDATIONS, "Tell what users did", EventsReply, EventsRequest, status=202),
    )
    async def events(request: Request) -> Response:
        batch = parse(EventsRequest, await body_of(request))
        accepted = await service.accept(batch.events)
        return json_reply(EventsReply(accepted=accepted).model_dump_json().encode(), 202)

    @app.get("/v1/models", **operation(RECOMMENDATIONS, "List the models in service", ModelsReply))
    async def models() -> Response:
        return json_reply(await service.models())

    add_catalogue(app, catalogue)
    add_jobs(app, jobs)

    @app.get("/healthz", tags=[HEALTH], summary="Whether the process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=[HEALTH], summary="Whether requests can be answered")
    async def readyz() -> dict[str, str]:
        await service.models()
        await catalogue.ready()
        return {"status": "ready"}

    @app.get("/", include_in_schema=False)
    async def root() -> dict[str, str]:
        return {"name": "recsys", "documentation": "/docs", "openapi": "/openapi.json"}

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        return _problem(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _problem(request, refusal(error.errors()))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # to nobody: who sent half a body has hung up

    @app.exception_handler(RedisUnavailable)
    async def no_redis(request: Request, error: RedisUnavailable) -> Response:
        logger.warning("%s", error)
        return _problem(
            request, Unavailable("Redis cannot be reached, so nothing can be kept; try again")
        )

    @app.exception_handler(Unreached)
    async def unreached(request: Request, error: Unreached) -> Response:
        logger.warning("%s", error)
        return _problem(request, Unavailable(error.message))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            refused: ServiceError = NoSuchPath("there is nothing at this path; see /docs")
        elif error.status_code == 405:
            allowed = ", ".join(_methods(request))
            refused = WrongMethod(f"{request.method} is not for this path; use {allowed}")
            return _problem(request, refused, {"Allow": allowed})
        else:
            raise error
        return _problem(request, refused, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _problem(request, ServiceError("the service has failed; its log says why"))


def _methods(request: Request) -> list[str]:
    """What the path is for: the first route that matches knows but its own methods."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in matching for method in route.methods or ()})


def _problem(request: Request, error: ServiceError, headers: Any = None) -> Response:
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    body = dump(error, request.url.path)
    return Response(body, error.status, headers, media_type="application/problem+json")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the schemas of the bodies that it does not read itself."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _, schemas = models_json_schema(
            [*((model, "validation") for model in REQUESTS), (Problem, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"] |= schemas["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
