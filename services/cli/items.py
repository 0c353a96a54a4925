"""`recsys items`: look at items of a running service, put them in, hide them, fold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, bar, err, out, print_json
from services.cli.options import Url

if TYPE_CHECKING:
    from services.item_schemas import Item

NAME = "items"
app = typer.Typer(
    help="Items of a running service: looked at, put in, hidden, folded into the main index.",
    no_args_is_help=True,
)

ItemId = Annotated[str, typer.Argument(help="The item's id.")]


@app.command()
def show(item_id: ItemId, url: Url = None, as_json: AsJson = False) -> None:
    """What the service knows of an item, and how far it is in each content space."""
    from infra.settings import load_settings
    from services.client import Client

    with Client(url or load_settings().http_url) as client:
        item = client.item(item_id)
    if as_json:
        print_json(item.model_dump(mode="json"))
        return
    table = Table(show_header=False)
    for field, value in item.model_dump(mode="json").items():
        table.add_row(field, escape(str(value)))
    out.print(table)


@app.command()
def put(
    path: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="JSON Lines, an item a line."),
    ],
    url: Url = None,
) -> None:
    """Put items into the catalogue of a running service, which embeds them by its queue.

    A line is such as {"item_id": "f1", "title": "Dust", "tags": ["Western"]}; `/docs` of the
    service has all the fields.

      recsys items put new.jsonl
    """
    from infra.settings import load_settings
    from services.client import Client

    done = 0
    try:
        with Client(url or load_settings().http_url) as client, bar("Putting items") as advance:
            for batch in _requests(_items(path)):
                client.put_items(batch)
                done += len(batch)
                advance(done, None)
    finally:  # also where it stops before the end: those that were accepted stay
        out.print(f"{done:,} items accepted; `recsys items show ID` tells when one is embedded.")


@app.command()
def delete(item_id: ItemId, url: Url = None) -> None:
    """Hide an item at once from recommendations and search."""
    from infra.settings import load_settings
    from services.client import Client

    with Client(url or load_settings().http_url) as client:
        client.delete_item(item_id)
    out.print(f"{item_id} is hidden.", markup=False)


@app.command()
def fold(as_json: AsJson = False) -> None:
    """Build the main indexes anew with the live items in them, and swap them whole.

    Workers do it by themselves when live items are many.
    """
    import asyncio
    from dataclasses import asdict

    from infra.redis import connect_async, redis_server
    from infra.settings import load_settings
    from services.folding import Folded, fold_live
    from services.live_items import LiveItems

    settings = load_settings()

    async def folded(redis_url: str) -> Folded:
        redis = connect_async(redis_url)
        try:
            items = LiveItems(redis, settings.namespace, max_backlog=settings.max_backlog)
            return await fold_live(items, settings)
        finally:
            await redis.aclose()

    with redis_server(settings) as redis_url, err.status("Building the main indexes anew"):
        done = asyncio.run(folded(redis_url))
    if as_json:
        print_json(asdict(done))
        return
    versions = ", ".join(f"{name} {version}" for name, version in done.versions.items())
    out.print(
        f"{versions or 'no content space'}: {done.folded:,} live items folded in, {done.left:,} "
        f"left, {done.hidden:,} deletions in force.",
        markup=False,
    )


def _requests(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists that are each small enough for one request."""
    from services.item_schemas import MAX_ITEMS
    from services.problems import MAX_CONTENT_BODY

    batch: list[Item] = []
    room = 0
    for item in items:
        size = len(item.model_dump_json().encode()) + 1  # and a comma
        if size > room or len(batch) == MAX_ITEMS // 4:
            if batch:
                yield batch
            batch, room = [], MAX_CONTENT_BODY - len('{"items":[]}')
        batch.append(item)
        room -= size
    if batch:
        yield batch


def _items(path: Path) -> Iterator[Item]:
    from pydantic import ValidationError

    from infra.errors import RecsysError, reason
    from services.item_schemas import Item

    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield Item.model_validate(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise RecsysError(f"{path}, line {number}: is not JSON: {error}") from None
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"])
                raise RecsysError(f"{path}, line {number}: {field}: {reason(first)}") from None
