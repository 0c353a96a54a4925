"""`recsys bridge`: from the content of new items to where a model would have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, err, out, print_json, short
from services.cli.models import ModelName, Reference, open_registry
from services.cli.spaces import open_spaces
from services.cli.versions import add_commands

if TYPE_CHECKING:
    from recsys.evaluation.report import Report
    from recsys.registry import Bridges

NAME = "bridge"
app = typer.Typer(
    help="From the content of new items to where a model would have them.", no_args_is_help=True
)


def open_bridges() -> Bridges:
    """The registry of the settings' state folder."""
    from infra.settings import load_settings
    from recsys.registry import Bridges

    return Bridges(load_settings().bridges_dir)


@app.command(name="fit")
def fit_(
    model: ModelName,
    data: Annotated[Path, typer.Option(help="The Dataset that the model was trained on.")],
    content: Annotated[
        list[str] | None,
        typer.Option(
            help="A content space in service; give it repeatedly to join several, for the items "
            "that have all of them."
        ),
    ] = None,
    activate: Annotated[bool, typer.Option(help="Put the new bridge into service.")] = True,
    as_json: AsJson = False,
) -> None:
    """Learn from the items that the model knows where it would have those it does not.

    The table says how often an event held out of the training finds its item, were that item new,
    and what the vector that the model learnt from the item's events gives. The model has learnt
    the queries with the item among others, so a really new item finds it a little harder.

    Where the items have tags, the bridge is from those as well as from the spaces.

    It serves the items without events that have a content in every one of the spaces: one from
    text and image never recommends a new item without a picture. How many lack one is said.

      recsys bridge fit sasrec --data ./films
      recsys bridge fit ials --data ./films --content text --content image
    """
    from recsys.bridging import bridge
    from recsys.data.dataset import Dataset

    bridges, spaces = open_bridges(), open_spaces()
    with err.status("Learning from the items with events"):
        bundle = open_registry().open_active(model)
        opened = [spaces.open_active(name) for name in dict.fromkeys(content or ["text"])]
        made = bridge(bridges, bundle, opened, Dataset.load(data))
        if activate:
            bridges.activate(model, made.version)
    manifest = bridges.manifest(model, made.version)
    if as_json:
        print_json(
            {"name": model, "version": made.version, "active": activate}
            | {"left_out": made.left_out.to_dict(), "learnt": made.learnt.to_dict()}
            | {"without_content": made.without_content}
            | {"manifest": manifest.model_dump(mode="json")}
        )
        return
    out.print(_measures({"as if new": made.left_out, "as learnt": made.learnt}))
    state = "in service" if activate else "not in service"
    out.print(
        f"The bridge from {manifest.content} to {model} {bundle.version} is {made.version}, "
        f"{state}.",
        markup=False,
    )
    if made.without_content:
        lacking = " or ".join(part.space for part in manifest.parts)
        count = f"{made.without_content:,}"
        out.print(
            f"Items without events that it leaves out, for they have no {lacking}: {count}.",
            markup=False,
        )


def _told(bridges: Bridges, name: str, version: str) -> dict[str, object]:
    manifest = bridges.manifest(name, version)
    return {"model version": manifest.model_version, "content": manifest.content}


add_commands(
    app,
    open_bridges,
    none="No bridge yet: fit one with [bold]recsys bridge fit ials --data …[/]",
    told=_told,
)


@app.command()
def show(reference: Reference, as_json: AsJson = False) -> None:
    """What a bridge is, verified: its model, its encoders, how it measured."""
    bundle = open_bridges().open(reference)
    if as_json:
        print_json(bundle.manifest.model_dump(mode="json"))
        return
    facts = Table(title=f"{bundle.name} {bundle.version}", show_header=False, title_justify="left")
    without = {"metrics", "files", "parts", "tags", "cost"}
    values = bundle.manifest.model_dump(mode="json", exclude=without)
    values["tags"] = ", ".join(bundle.manifest.tags)
    for field, value in (values | bundle.fingerprints | bundle.manifest.cost).items():
        facts.add_row(escape(field), escape(short(value)))
    out.print(facts)
    for report in bundle.manifest.metrics:
        out.print(_measures({"as if new": report}))


def _measures(reports: Mapping[str, Report]) -> Table:
    """The recalls, each with its interval."""
    from recsys.evaluation.report import describe

    first = next(iter(reports.values()))
    table = Table(box=box.SIMPLE, caption=escape(describe(first.protocol)), min_width=70)
    table.caption_justify = "left"
    table.add_column("the item")
    for metric in first.metrics:
        table.add_column(metric, justify="right")
    for name, report in reports.items():
        found = report.metrics.values()
        table.add_row(
            name, *(f"{each.value:.4f} ({each.low:.3f}-{each.high:.3f})" for each in found)
        )
    return table
