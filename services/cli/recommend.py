"""`recsys recommend`: ask a running service, over HTTP or over the Redis queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, out, print_json
from services.cli.options import Url, typed_as

if TYPE_CHECKING:
    from services.schemas import RecommendReply

NAME = "recommend"


def command(
    user: Annotated[str | None, typer.Option(help="The user's id.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="An item's id in place of a user; give it repeatedly, oldest first."),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="How many items; 10, or all of a smaller catalogue."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which model; the default one if none.")] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Ask over the Redis queue instead of HTTP.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Recommend items to a user, or to go on from a history.

    recsys recommend --user 42
    recsys recommend --history 1 --history 50 --history 172 -k 5 --queue
    """
    from infra.settings import load_settings
    from services.client import Client, QueueClient
    from services.schemas import RecommendRequest

    if user is not None and history:
        raise typer.BadParameter("give either --user or --history, not both")
    if queue and url is not None:
        raise typer.BadParameter("--queue asks over Redis and --url over HTTP: give one of them")
    settings = load_settings()
    with typed_as(user_id="--user", history="--history", k="-k", model="--model"):
        request = RecommendRequest(user_id=user, history=history or None, k=k, model=model)
    if queue:
        with QueueClient.from_settings(settings) as queue_client:
            reply = queue_client.recommend(request)
    else:
        with Client(url or settings.http_url) as client:
            reply = client.recommend(request)
    if as_json:
        print_json(reply.model_dump(mode="json"))
    else:
        print_reply(reply)


def print_reply(reply: RecommendReply, title: str | None = None) -> None:
    """The recommendations as a table, and what the reply has to say of them."""
    table = Table(
        title=None if title is None else escape(title), title_justify="left", box=box.SIMPLE
    )
    table.add_column("", justify="right", style="dim")
    table.add_column("title")
    table.add_column("item")
    table.add_column("score", justify="right")
    for rank, item in enumerate(reply.items, start=1):
        table.add_row(str(rank), escape(item.title), escape(item.item_id), f"{item.score:.3f}")
    out.print(table)
    out.print(f"{reply.model} {reply.version}", style="dim", markup=False)
    if reply.fallback is not None:
        out.print(reply.fallback.detail, style="yellow", markup=False)
    if reply.unknown_items:
        unknown = ", ".join(reply.unknown_items)
        out.print(f"not in the catalogue: {unknown}", style="yellow", markup=False)
