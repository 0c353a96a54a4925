"""`recsys events`: what users did, sent to a running service or loaded from a Dataset."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from services.cli.console import AsJson, out, print_json
from services.cli.histories import load_histories
from services.cli.options import Url, typed_as

NAME = "events"
app = typer.Typer(
    help="What users did: send it to a running service, load a Dataset's histories, or export what "
    "was told as training data.",
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
    from services.event_schemas import Event

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


@app.command()
def export(
    destination: Annotated[Path, typer.Argument(help="The Dataset folder to make.")],
    data: Annotated[
        Path | None, typer.Option(help="A Dataset whose events come first, and its catalogue.")
    ] = None,
    after: Annotated[
        str, typer.Option(help="Only what was told after this place, which the last export named.")
    ] = "0-0",
    as_json: AsJson = False,
) -> None:
    """Make training data of what the service was told, to go on training from.

    recsys events export ./clicks-today --data ./clicks
    recsys train sasrec --data ./clicks-today --warm-start
    """
    import pyarrow.parquet as pq

    from infra.redis import connect, redis_server
    from infra.settings import load_settings
    from recsys.data.dataset import EVENTS, Dataset, write_dataset
    from services.told_events import ToldEvents

    if not re.fullmatch(r"\d+-\d+", after):
        raise typer.BadParameter("a place looks as 1732406400000-0", param_hint="--after")
    settings = load_settings()
    base = None if data is None else Dataset.load(data)
    with redis_server(settings) as url:
        redis = connect(url)
        try:
            told = ToldEvents(redis, settings.namespace, after)
            before = () if data is None else pq.ParquetFile(data / EVENTS).iter_batches()
            info = write_dataset(
                destination,
                chain(before, told),
                None if base is None else base.catalogue,
                f"{settings.namespace}:events after {after}" + (f", and {data}" if data else ""),
            )
        finally:
            redis.close()
    new = info.events - (0 if base is None else base.info.events)
    if as_json:
        print_json({**info.model_dump(mode="json"), "told": new, "last": told.last})
    else:
        out.print(f"{new:,} events were told, {info.events:,} are in {destination}.", markup=False)
        out.print(f"The next export's new ones: --after {told.last}")
