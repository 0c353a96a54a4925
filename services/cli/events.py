"""`recsys events`: what users did, sent to a running service or loaded from a Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.console import AsJson, out, print_json
from services.cli.histories import load_histories
from services.cli.options import Url, typed_as

NAME = "events"
app = typer.Typer(
    help="What users did: send it to a running service, or load a Dataset's histories.",
    no_args_is_help=True,
)


@app.command()
def send(
    user: Annotated[str, typer.Option(help="The user's id.")],
    item: Annotated[list[str], typer.Option(help="The item's id; give it repeatedly.")],
    event: Annotated[str, typer.Option(help="What happened: view, click, buy …")] = "view",
    value: Annotated[float, typer.Option(help="A rating or a weight.")] = 1.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Tell a running service what a user did; the next recommendation reflects it.

    recsys events send --user 42 --item 1 --item 50
    """
    from infra.settings import load_settings
    from services.client import Client
    from services.schemas import Event

    with typed_as(user_id="--user", item_id="--item", event="--event", value="--value"):
        events = [Event(user_id=user, item_id=each, event=event, value=value) for each in item]
    with Client(url or load_settings().http_url) as client:
        reply = client.events(events)
    if as_json:
        print_json(reply.model_dump(mode="json"))
    else:
        out.print(f"{reply.accepted} accepted.")


@app.command()
def load(
    data: Annotated[Path, typer.Option(help="A folder in the Dataset format.")],
    as_json: AsJson = False,
) -> None:
    """Put every user's history of a Dataset into Redis, so that they can be asked for by id."""
    from infra.redis import redis_server
    from infra.settings import load_settings
    from recsys.data.dataset import Dataset

    settings = load_settings()
    dataset = Dataset.load(data)
    with redis_server(settings) as url:
        users = load_histories(dataset, url, settings)
    if as_json:
        print_json({"users": users})
    else:
        out.print(f"{users:,} histories are in Redis.")
