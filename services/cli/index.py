"""`recsys index`: how the vectors of a model or a content space are searched, at which recall."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, err, out, print_json
from services.cli.models import Reference, open_registry
from services.cli.spaces import open_spaces

if TYPE_CHECKING:
    from recsys.retrieval.index import Asked

NAME = "index"

MEASURED = {
    "settings": "setting",
    "recall": "recall",
    "rate": "queries/s",
    "work": "exact rows in that time",
}
"""What a description has by number of results, and how it is headed."""

app = typer.Typer(
    help="How the vectors of a model or a content space are searched, and at which recall.",
    no_args_is_help=True,
)

OfSpace = Annotated[
    bool, typer.Option("--space", help="It is the name of a content space, such as text.")
]


class IndexKind(StrEnum):
    """What an index may be built as."""

    auto = "auto"
    exact = "exact"
    hnsw = "hnsw"
    ivf_sq8 = "ivf_sq8"
    ivf_pq = "ivf_pq"


@app.command()
def show(reference: Reference, space: OfSpace = False, as_json: AsJson = False) -> None:
    """The type, the parameters and the measured recall of a version's index."""
    registry = open_spaces() if space else open_registry()
    description = registry.open(reference).index.description
    if as_json:
        print_json(description)
        return
    _print(f"The index of {reference}", description)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="What `recsys models list` or `spaces list` shows.")],
    space: OfSpace = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The Dataset that the model was trained on: the recall is that for its histories. "
            "Without it, it is that for item vectors, which are found more easily."
        ),
    ] = None,
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="The recall@10 against exact search to reach.")
    ] = 0.95,
    exact_below: Annotated[
        int, typer.Option(min=0, help="Search exactly when there are fewer items than this.")
    ] = 100_000,
    kind: Annotated[
        IndexKind,
        typer.Option(
            help="auto: exact if there are few items, else what reaches the recall fastest here; "
            "hnsw: a graph; ivf_sq8 and ivf_pq: lists of compressed vectors, scored again by the "
            "vectors themselves."
        ),
    ] = IndexKind.auto,
    activate: Annotated[bool, typer.Option(help="Put the new version into service.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build the active version's index anew, as a new version with the same vectors.

    What later jobs and folds make of a content space is asked for the same.

      recsys index build sasrec --data ./films --recall 0.99 --exact-below 50000
      recsys index build sasrec --data ./films --kind ivf_pq
      recsys index build --space text --recall 0.98
    """
    from recsys.data.dataset import Dataset
    from recsys.publish import reindex
    from services.folding import reindex_space

    if space and data is not None:
        raise typer.BadParameter("--data: a content space is measured with its own items")
    asked: Asked = {"recall": recall, "exact_below": exact_below, "kind": kind.value}
    with err.status("Indexing and measuring the recall"):
        if space:
            version, index = reindex_space(open_spaces(), name, asked, activate=activate)
        else:
            registry, dataset = open_registry(), None if data is None else Dataset.load(data)
            version, index = reindex(registry, name, dataset, **asked)
            if activate:
                registry.activate(name, version)
    if not space and data is None and index.description["type"] != "exact":
        err.print(
            "[yellow]note:[/] the recall was measured with item vectors, which find themselves; "
            "histories may find far less. Give the data that the model was trained on with --data"
        )
    if as_json:
        description = index.description
        print_json({"name": name, "version": version, "active": activate, "index": description})
    else:
        _print(f"{name} {version}", index.description)


def _print(title: str, description: dict[str, Any]) -> None:
    """The description; what was measured by number of results comes as a table below."""
    table = Table(title=title, show_header=False, title_justify="left")
    for field, value in description.items():
        if field not in MEASURED:
            table.add_row(escape(field), escape(str(value)))
    out.print(table)
    if "settings" in description:
        measured = Table("results", *MEASURED.values(), title="Measured", title_justify="left")
        for k in description["settings"]:
            measured.add_row(k, *(escape(str(description[field][k])) for field in MEASURED))
        out.print(measured)
