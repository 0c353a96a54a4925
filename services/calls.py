"""What can be asked over HTTP: each call with its path, its body and the type of its reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from infra.errors import RecsysError
from services.event_schemas import Event, EventsReply, EventsRequest
from services.item_schemas import DeleteReply, Item, ItemReply, ItemsReply, ItemsRequest
from services.problems import refusal
from services.schemas import (
    ModelsReply,
    Problem,
    RecommendBatchReply,
    RecommendBatchRequest,
    RecommendReply,
    RecommendRequest,
    SimilarReply,
)
from services.search_schemas import SearchReply, SearchRequest, SpacesReply

R = TypeVar("R", bound=BaseModel)


class ApiError(RecsysError):
    """The service has refused the request or failed over it."""

    def __init__(self, problem: Problem, retry_after_s: float | None = None) -> None:
        super().__init__(f"{problem.title} ({problem.status}): {problem.detail}")
        self.problem = problem
        self.retry_after_s = retry_after_s
        """Seconds after which to try again, where the service says so."""


class Unreachable(RecsysError):
    """No service answers where one was looked for."""


@dataclass(frozen=True)
class Call(Generic[R]):
    """A request over HTTP and the type of its reply."""

    method: str
    path: str
    reply: type[R]
    body: BaseModel | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"method": self.method, "url": self.path}
        options["params"] = {k: v for k, v in self.parameters.items() if v is not None}
        if self.body is not None:
            options["content"] = self.body.model_dump_json(exclude_unset=True, by_alias=True)
            options["headers"] = {"Content-Type": "application/json"}
        return options

    def read(self, response: httpx.Response) -> R:
        """The reply; raises ApiError for a problem, Unreachable for what is no answer of ours."""
        try:
            if response.is_success:
                return self.reply.model_validate_json(response.content)
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise Unreachable(
                f"{response.url} answers with {response.status_code} and not as this service "
                "does; check the address"
            ) from None
        after = response.headers.get("Retry-After", "")
        raise ApiError(problem, float(after) if after.isdigit() else None)


def recommend(request: RecommendRequest) -> Call[RecommendReply]:
    return Call("POST", "/v1/recommend", RecommendReply, request)


def recommend_batch(requests: Sequence[RecommendRequest]) -> Call[RecommendBatchReply]:
    body = _checked(RecommendBatchRequest, requests=list(requests))
    return Call("POST", "/v1/recommend:batch", RecommendBatchReply, body)


def similar(
    item_id: str, k: int | None, model: str | None, space: str | None
) -> Call[SimilarReply]:
    parameters = {"k": k, "model": model, "space": space}
    return Call("GET", f"{_item_path(item_id)}/similar", SimilarReply, parameters=parameters)


def events(events: Sequence[Event]) -> Call[EventsReply]:
    body = _checked(EventsRequest, events=list(events))
    return Call("POST", "/v1/events", EventsReply, body)


def models() -> Call[ModelsReply]:
    return Call("GET", "/v1/models", ModelsReply)


def search(request: SearchRequest) -> Call[SearchReply]:
    return Call("POST", "/v1/search", SearchReply, request)


def put_items(items: Sequence[Item]) -> Call[ItemsReply]:
    body = _checked(ItemsRequest, items=list(items))
    return Call("PUT", "/v1/items", ItemsReply, body)


def item(item_id: str) -> Call[ItemReply]:
    return Call("GET", _item_path(item_id), ItemReply)


def delete_item(item_id: str) -> Call[DeleteReply]:
    return Call("DELETE", _item_path(item_id), DeleteReply)


def spaces() -> Call[SpacesReply]:
    return Call("GET", "/v1/spaces", SpacesReply)


def _item_path(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"


def _checked(schema: type[R], **fields: Any) -> R:
    """The body; raises the ApiError that the service would answer with, unsent."""
    try:
        return schema(**fields)
    except ValidationError as error:
        raise ApiError(refusal(error.errors(include_url=False)).problem()) from None
