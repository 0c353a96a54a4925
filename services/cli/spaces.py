"""`recsys spaces`: the versions of each content space, and which one is in service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, err, out, print_json, short
from services.cli.versions import add_commands

if TYPE_CHECKING:
    from recsys.registry import Spaces

NAME = "spaces"
app = typer.Typer(
    help="The versions of each content space, and which one is in service.", no_args_is_help=True
)

SHOWN = 5
"""How many of the items that a version lacks are named."""


def open_spaces() -> Spaces:
    """The registry of the settings' state folder."""
    from infra.settings import load_settings
    from recsys.registry import Spaces

    return Spaces(load_settings().spaces_dir)


def _told(spaces: Spaces, name: str, version: str) -> dict[str, object]:
    manifest = spaces.manifest(name, version)
    index = manifest.index
    return {"encoder": manifest.encoder, "items": index["n"], "index": index["type"]}


def _warn_of_lost(spaces: Spaces, name: str, before: str | None, after: str) -> None:
    """Tell of items that were folded into the version that was in service, and are nowhere now."""
    lost = [] if before is None else spaces.lost(name, before, after)
    if lost:
        shown = ", ".join(lost[:SHOWN]) + (", …" if len(lost) > SHOWN else "")
        err.print(
            f"{len(lost):,} items that were put in over the API are in {before}, and not as they "
            f"were said last in {after}: {shown}. Put them in again with `recsys items put`, or go "
            f"back with `recsys spaces activate {name} {before}`.",
            markup=False,
        )


add_commands(
    app,
    open_spaces,
    none="No content space yet: embed a catalogue with [bold]recsys embed --data …[/]",
    told=_told,
    warn=_warn_of_lost,
)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="NAME (the active version) or NAME@VERSION.")],
    as_json: AsJson = False,
) -> None:
    """What a version is, verified: its encoder, its index with the measured recall, its cost."""
    bundle = open_spaces().open(reference)
    if as_json:
        print_json(bundle.manifest.model_dump(mode="json"))
        return
    facts = Table(title=f"{bundle.name} {bundle.version}", show_header=False, title_justify="left")
    values = bundle.manifest.model_dump(mode="json", exclude={"metrics", "files"})
    for field, value in ({"items": len(bundle.items)} | values).items():
        if not isinstance(value, dict):
            facts.add_row(field, escape(str(value)))
            continue
        for key, each in value.items():
            facts.add_row(f"{field} {key}", escape(short(each)))
    out.print(facts)
