"""`recsys models`: the versions of each model, and which one is in service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, out, print_json, short
from services.cli.versions import add_commands

if TYPE_CHECKING:
    from recsys.registry import Registry

NAME = "models"
app = typer.Typer(
    help="The versions of each model, and which one is in service.", no_args_is_help=True
)

ModelName = Annotated[str, typer.Argument(help="A name that `recsys models list` shows.")]
Reference = Annotated[str, typer.Argument(help="NAME (the active version) or NAME@VERSION.")]


def open_registry() -> Registry:
    """The registry of the settings' state folder."""
    from infra.settings import load_settings
    from recsys.registry import Registry

    return Registry(load_settings().models_dir)


add_commands(
    app, open_registry, none="No model yet: fit one with [bold]recsys train ials --data …[/]"
)


@app.command()
def show(reference: Reference, as_json: AsJson = False) -> None:
    """What a version is, how it measured, and what it cost to train."""
    from recsys.evaluation.report import table

    bundle = open_registry().open(reference)
    manifest = bundle.manifest
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    facts = Table(title=f"{bundle.name} {bundle.version}", show_header=False, title_justify="left")
    values = manifest.model_dump(mode="json", exclude={"metrics", "files"})
    values["items"] = f"{len(bundle.items):,}"
    for field, value in values.items():
        if not isinstance(value, dict):
            facts.add_row(field, escape(str(value)))
            continue
        for key, each in value.items():
            facts.add_row(f"{field} {key}", escape(short(each)))
    out.print(facts)
    for report in manifest.metrics:
        out.print(table({bundle.name: report}))
