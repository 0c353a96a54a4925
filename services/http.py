"""What the paths of the HTTP API share: bodies in, replies out, and what the documentation says.

Bodies are read and written as they are, without a detour over Python objects that FastAPI would
take, and by the same `parse` that reads the queue: the same bytes get the same answer either way.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from services.problems import MAX_BODY, NotJson, TooLarge
from services.schemas import Problem

RECOMMENDATIONS, SEARCH, ITEMS, JOBS, HEALTH = (
    "Recommendations",
    "Search",
    "Items",
    "Embedding jobs",
    "Health",
)
SECTIONS = {
    RECOMMENDATIONS: "By user or by history, from the models in service; and what users did, which "
    "counts in the very next recommendation.",
    SEARCH: "By words, by a picture, by items that the results shall be like, or all of these.",
    ITEMS: "Put in, they are embedded by the queue, found and recommended; hidden at once.",
    JOBS: "A whole Dataset embedded by queue workers, into the next version of a content space.",
    HEALTH: "For whoever keeps the service running.",
}
"""The sections of the documentation, in order, and what they say."""


def json_reply(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


async def body_of(request: Request, most: int = MAX_BODY) -> bytes:
    """The whole body, of `most` bytes at most; raises TooLarge, or NotJson."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "origin" in request.headers and kind != "application/json":
        # A page of any site may have its reader's browser send whatever is not JSON, unasked.
        raise NotJson(
            f"a browser sent a body of type {kind or 'none'}; send it with "
            "Content-Type: application/json"
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(most)
    return bytes(body)


def operation(
    section: str,
    summary: str,
    reply: type[BaseModel],
    request: type[BaseModel] | None = None,
    status: int = 200,
) -> dict[str, Any]:
    """What the documentation says, in one of its SECTIONS, of a path whose body is read by
    `parse`."""
    problem = {"application/problem+json": {"schema": reference(Problem)}}
    operation: dict[str, Any] = {
        "tags": [section],
        "summary": summary,
        "response_model": None,
        "responses": {
            status: {"model": reply},
            "4XX": {"description": "What was wrong, and what to do", "content": problem},
            "5XX": {"description": "Not now", "content": problem},
        },
    }
    if request is not None:
        content = {"application/json": {"schema": reference(request)}}
        operation["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    return operation


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
