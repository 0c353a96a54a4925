"""`recsys recommend`: ask a running service, over HTTP or over the Redis queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich import box
from rich.table import Table

from infra.errors import RecsysError
from services.cli.console import AsJson, out, print_json

if TYPE_CHECKING:
    from services.schemas import RecommendReply

NAME = "recommend"


def command(
    user: Annotated[str | None, typer.Option(help="The user's id.")] = None,
    history: Annotated[
        str | None, typer.Option(help="Item ids in place of a user, oldest first: 1,50,172")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    model: Annotated[str | None, typer.Option(help="Which model; the default one if none.")] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Ask over the Redis queue instead of HTTP.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="The service; by default what the settings say.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recommend items to a user, or to go on from a history.

    recsys recommend --user 42
    recsys recommend --history 1,50,172 -k 5 --queue
    """
    from infra.settings import load_settings
    from services.client import Client, QueueClient
    from services.schemas import RecommendRequest

    settings = load_settings()
    try:
        request = RecommendRequest(
            user_id=user,
            history=None if history is None else [i for i in history.split(",") if i],
            k=k,
            model=model,
        )
    except ValidationError as error:
        raise RecsysError(
            "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors()
            )
        ) from None
    if queue:
        with QueueClient.from_settings(settings) as queue_client:
            reply = queue_client.recommend(request)
    else:
        with Client(url or f"http://{settings.http_host}:{settings.http_port}") as client:
            reply = client.recommend(request)
    if as_json:
        print_json(reply.model_dump(mode="json"))
    else:
        print_reply(reply)


def print_reply(reply: RecommendReply, title: str | None = None) -> None:
    """The recommendations as a table, and what the reply has to say of them."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", justify="right", style="dim")
    table.add_column("title")
    table.add_column("item")
    table.add_column("score", justify="right")
    for rank, item in enumerate(reply.items, start=1):
        table.add_row(str(rank), item.title, item.item_id, f"{item.score:.3f}")
    out.print(table)
    out.print(f"[dim]{reply.model} {reply.version}[/]")
    if reply.fallback is not None:
        out.print(f"[yellow]{reply.fallback.detail}[/]")
    if reply.unknown_items:
        out.print(f"[yellow]not in the catalogue: {', '.join(reply.unknown_items)}[/]")
