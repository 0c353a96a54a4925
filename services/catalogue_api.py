"""The paths of the HTTP API that concern the catalogue: search, items, spaces."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Request, Response

from encoders.picture import MAX_BYTES
from services.bodies import Id
from services.catalogue_service import CatalogueService
from services.http import ITEMS, SEARCH, body_of, json_reply, operation
from services.item_schemas import DeleteReply, ItemReply, ItemsReply, ItemsRequest
from services.problems import MAX_BODY, MAX_CONTENT_BODY, parse
from services.search_schemas import SearchReply, SearchRequest, SpacesReply

MAX_SEARCH_BODY = MAX_BYTES * 4 // 3 + MAX_BODY
"""Bytes of the largest body of a search, which may hold a picture in base64."""

CATALOGUE_REQUESTS = (SearchRequest, ItemsRequest)


def add_catalogue(app: FastAPI, catalogue: CatalogueService) -> None:
    """Add the paths; those of an item come after `/v1/items/{item_id}/similar`."""

    @app.post("/v1/search", **operation(SEARCH, "Search the catalogue", SearchReply, SearchRequest))
    async def search(request: Request) -> Response:
        body = await body_of(request, MAX_SEARCH_BODY)
        reply = await catalogue.search(parse(SearchRequest, body, MAX_SEARCH_BODY))
        return json_reply(reply.model_dump_json().encode())

    @app.get("/v1/spaces", **operation(SEARCH, "List the content spaces in service", SpacesReply))
    async def spaces() -> Response:
        return json_reply(await catalogue.spaces())

    @app.put(
        "/v1/items",
        status_code=202,
        **operation(ITEMS, "Put items into the catalogue", ItemsReply, ItemsRequest, status=202),
    )
    async def put_items(request: Request) -> Response:
        body = await body_of(request, MAX_CONTENT_BODY)
        reply = await catalogue.put(parse(ItemsRequest, body, MAX_CONTENT_BODY))
        return json_reply(reply.model_dump_json().encode(), 202)

    @app.get("/v1/items/{item_id:path}", **operation(ITEMS, "Look at an item", ItemReply))
    async def item(item_id: Annotated[Id, Path()]) -> Response:
        return json_reply((await catalogue.item(item_id)).model_dump_json().encode())

    @app.delete("/v1/items/{item_id:path}", **operation(ITEMS, "Hide an item at once", DeleteReply))
    async def delete_item(item_id: Annotated[Id, Path()]) -> Response:
        return json_reply((await catalogue.delete(item_id)).model_dump_json().encode())
