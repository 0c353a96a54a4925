"""`recsys index`: how a model's vectors are searched, and at which recall."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, err, out, print_json
from services.cli.models import ModelName, Reference, open_registry

NAME = "index"
app = typer.Typer(
    help="How a model's vectors are searched, and at which recall.", no_args_is_help=True
)


@app.command()
def show(reference: Reference, as_json: AsJson = False) -> None:
    """The type, the parameters and the measured recall of a version's index."""
    description = open_registry().open(reference).index.description
    if as_json:
        print_json(description)
        return
    table = Table(title=f"The index of {reference}", show_header=False, title_justify="left")
    for field, value in description.items():
        table.add_row(escape(field), escape(str(value)))
    out.print(table)


@app.command()
def build(
    name: ModelName,
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="The recall@10 against exact search to reach.")
    ] = 0.95,
    exact_below: Annotated[
        int, typer.Option(min=0, help="Search exactly when there are fewer items than this.")
    ] = 100_000,
    activate: Annotated[bool, typer.Option(help="Put the new version into service.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build the active version's index anew, as a new version with the same model.

    recsys index build sasrec --recall 0.99 --exact-below 50000
    """
    from recsys.publish import reindex

    registry = open_registry()
    with err.status("Indexing and measuring the recall"):
        version, index = reindex(registry, name, recall=recall, exact_below=exact_below)
        if activate:
            registry.activate(name, version)
    if as_json:
        description = index.description
        print_json({"name": name, "version": version, "active": activate, "index": description})
    else:
        out.print(f"{name} {version}: {escape(str(index.description))}")
