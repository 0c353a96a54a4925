"""`recsys data`: bring events and a catalogue into the Dataset format, or make some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, bar, out, print_json

NAME = "data"
app = typer.Typer(
    help="Bring events and a catalogue into the Dataset format, or make some.",
    no_args_is_help=True,
)

Destination = Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")]


@app.command(name="import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A MovieLens folder or zip, a sequence file, or a CSV, TSV, Parquet or JSONL file."
        ),
    ],
    destination: Destination,
    user: Annotated[str | None, typer.Option(help="The column that names the user.")] = None,
    item: Annotated[str | None, typer.Option(help="The column that names the item.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="The column of the time.")] = None,
    value: Annotated[str | None, typer.Option(help="The column of the rating or weight.")] = None,
    event: Annotated[str | None, typer.Option(help="The column of the kind of event.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="A file of the items, in any of these formats.")
    ] = None,
    on_bad_row: Annotated[
        Literal["reject", "skip"],
        typer.Option(help="Stop at a malformed row, or leave it out and count it."),
    ] = "reject",
    as_json: AsJson = False,
) -> None:
    """Read events and a catalogue from another layout.

    The layout is recognised by what is there. For CSV, TSV, Parquet and JSON Lines, name the
    columns that are not called user_id, item_id, timestamp, value and event:

      recsys data import clicks.csv ./clicks --user customer --item sku --timestamp at

    The catalogue's columns are item_id, title, text, tags (a|b), image (a path under the folder of
    the data set, or a data: URI) and available; all others are attributes that filters may ask for:

      recsys data import clicks.csv ./shop --catalogue items.csv
    """
    from recsys.data.readers import import_dataset
    from recsys.data.readers.tabular import Columns

    named = {
        "user_id": user,
        "item_id": item,
        "timestamp": timestamp,
        "value": value,
        "event": event,
    }
    columns = Columns(**{field: column for field, column in named.items() if column is not None})
    with bar(f"Importing {source.name}") as progress:
        info = import_dataset(
            source,
            destination,
            columns=columns,
            catalogue=catalogue,
            on_bad_row=on_bad_row,
            progress=progress,
        )
    _print_info(destination, info.model_dump(mode="json"), as_json)


@app.command()
def synth(
    destination: Destination,
    users: Annotated[int, typer.Option(min=1, help="How many users.")] = 2_000,
    items: Annotated[int, typer.Option(min=1, help="How many items.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    pictures: Annotated[bool, typer.Option(help="Draw a picture for each item.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make a data set with a structure to find: taste clusters, an order, texts and pictures."""
    from recsys.data.synthetic import synthesize

    with bar("Making events, titles and pictures") as progress:
        info = synthesize(
            destination,
            n_users=users,
            n_items=items,
            seed=seed,
            pictures=pictures,
            progress=progress,
        )
    _print_info(destination, info.model_dump(mode="json"), as_json)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="ml-100k, ml-1m, ml-latest-small, ml-20m, ml-25m …")],
    destination: Annotated[Path, typer.Argument(help="The zip file to write.")],
    as_json: AsJson = False,
) -> None:
    """Fetch a MovieLens data set from its makers' site and check it against their checksum."""
    from recsys.data.readers.download import download_movielens

    with bar(f"Downloading {name}") as progress:
        path = download_movielens(name, destination, progress=progress)
    if as_json:
        print_json({"path": str(path)})
    else:
        shown = escape(str(path))
        out.print(f"{shown}: next, [bold]recsys data import {shown} ./{name}[/]")


@app.command()
def info(
    folder: Annotated[Path, typer.Argument(help="A folder in the Dataset format.")],
    as_json: AsJson = False,
) -> None:
    """What a Dataset holds."""
    from recsys.data.dataset import Dataset

    dataset = Dataset.load(folder)
    _print_info(folder, dataset.info.model_dump(mode="json"), as_json)


def _print_info(folder: Path, info: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"path": str(folder), **info})
        return
    table = Table(title=escape(str(folder)), show_header=False, title_justify="left")
    for field, value in info.items():
        table.add_row(field, f"{value:,}" if isinstance(value, int) else escape(str(value)))
    out.print(table)
