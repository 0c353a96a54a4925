"""`recsys search`: find items by words, by a picture, by examples, in a running service."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, out, print_json
from services.cli.options import Url, typed_as

if TYPE_CHECKING:
    from services.search_schemas import SearchReply

NAME = "search"


def command(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A picture that the results look like."),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="An item's id; give it repeatedly.")
    ] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="Its opposite.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only items that bear one of these.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only items whose attribute is so: year=1995, year>=1990, country=fr,it."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    space: Annotated[
        list[str] | None,
        typer.Option(help="Search this space; `text:2` lets it weigh 2. All of them if none."),
    ] = None,
    popularity: Annotated[
        float, typer.Option(min=0, help="How much it counts how popular what is found is.")
    ] = 0.0,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Let the cross-encoder order the best anew.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Find items by words, by a picture, by items that they are like, or all of these.

    recsys search "a lonely sheriff" --tag Western --where "year>=1990"
    recsys search --like i174 --unlike i029 -k 5
    recsys search "boy who sees ghosts" --popularity 1.6
    """
    from infra.settings import load_settings
    from services.cli.conditions import conditions
    from services.client import Client
    from services.search_schemas import SearchRequest

    if text is None and picture is None and not like:
        raise typer.BadParameter("give words, --picture or --like: there is nothing to search by")
    fields: dict[str, object] = {
        "k": k,
        "like": like or [],
        "unlike": unlike or [],
        "popularity": popularity,
    }
    if text is not None:
        fields["text"] = text
    if rerank:
        fields["rerank"] = True
    if picture is not None:
        fields["picture"] = {"base64": base64.b64encode(picture.read_bytes()).decode()}
    if tag or where:
        filters = {"tags": tag or None, "attributes": conditions(where or [])}
        fields["filters"] = {name: value for name, value in filters.items() if value}
    if space:
        fields["spaces"] = dict(map(_weighed, space))
    options = {name: f"--{name}" for name in ("picture", "like", "unlike", "rerank", "popularity")}
    with typed_as(text="TEXT", k="-k", filters="--tag and --where", spaces="--space", **options):
        request = SearchRequest.model_validate(fields)
    with Client(url or load_settings().http_url) as client:
        reply = client.search(request)
    if as_json:
        print_json(reply.model_dump(mode="json"))
    else:
        print_found(reply)


def print_found(reply: SearchReply) -> None:
    """What was found as a table, with the rank in each space where there are several."""
    table = Table(box=box.SIMPLE)
    table.add_column("", justify="right", style="dim")
    table.add_column("title")
    table.add_column("item")
    table.add_column("score", justify="right")
    spaces = list(dict.fromkeys(name for item in reply.items for name in item.spaces))
    if len(spaces) == 1:
        spaces = []
    for name in spaces:
        table.add_column(escape(name), justify="right", style="dim")
    for place, item in enumerate(reply.items, start=1):
        ranks = [str(item.spaces[name].rank) if name in item.spaces else "" for name in spaces]
        table.add_row(
            str(place), escape(item.title), escape(item.item_id), f"{item.score:.3f}", *ranks
        )
    out.print(table)
    searched = ", ".join(f"{name} {version}" for name, version in reply.versions.items())
    out.print(f"{searched}{', re-ranked' if reply.reranked else ''}", style="dim", markup=False)
    if reply.unknown_items:
        unknown = ", ".join(reply.unknown_items)
        out.print(f"in no space that was searched: {unknown}", style="yellow", markup=False)


def _weighed(space: str) -> tuple[str, float]:
    name, _, weight = space.partition(":")
    try:
        return name, float(weight) if weight else 1.0
    except ValueError:
        raise typer.BadParameter(f"--space {space}: {weight!r} is no weight") from None
