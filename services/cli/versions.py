"""The versions of a registry: listed, put into service and taken back, whatever they are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from services.cli.console import AsJson, out, print_json, print_rows

if TYPE_CHECKING:
    from recsys.registry import Versions

Name = Annotated[str, typer.Argument(help="A name that `list` shows.")]
Version = Annotated[str, typer.Argument(help="The version to serve.")]

R = TypeVar("R", bound="Versions[Any]")


def add_commands(
    app: typer.Typer,
    open_registry: Callable[[], R],
    *,
    none: str,
    told: Callable[[R, str, str], dict[str, object]] = lambda registry, name, version: {},
    warn: Callable[[R, str, str | None, str], None] = lambda registry, name, before, after: None,
) -> None:
    """Give `app` the commands list, activate and rollback.

    none: what is said of a registry that holds nothing. told: what a list says of a version.
    warn: called when another version is in service than before, to say what that means.
    """

    @app.command(name="list")
    def list_(as_json: AsJson = False) -> None:
        """All names and their versions; the active one of each is marked."""
        registry = open_registry()
        rows: list[dict[str, object]] = []
        for name in registry.names():
            active = registry.active(name)
            for version in registry.versions(name):
                row = {"name": name, "version": version, "active": version == active}
                rows.append(row | told(registry, name, version))
        if as_json:
            print_json(rows)
        else:
            print_rows(rows, none)

    @app.command()
    def activate(name: Name, version: Version, as_json: AsJson = False) -> None:
        """Verify a version and put it into service; running servers swap to it by themselves."""
        registry = open_registry()
        before = registry.active(name)
        registry.activate(name, version)
        _tell(name, version, "in service", as_json)
        warn(registry, name, before, version)

    @app.command()
    def rollback(name: Name, as_json: AsJson = False) -> None:
        """Go back to the version that was in service before."""
        registry = open_registry()
        before = registry.active(name)
        version = registry.rollback(name)
        _tell(name, version, "in service again", as_json)
        warn(registry, name, before, version)


def _tell(name: str, version: str, state: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "version": version})
    else:
        out.print(f"{name} {version} is {state}.", markup=False)
