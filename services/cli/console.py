"""What the commands print with: results on standard output, everything else beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

out = Console(highlight=False)
"""Standard output: what the command was asked for."""

err = Console(stderr=True, highlight=False)
"""Standard error: progress, notes and errors."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

Advance = Callable[[int, int | None], None]
"""Called with how much is done and, once known, how much there is."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


@contextmanager
def bar(description: str) -> Iterator[Advance]:
    """A progress bar that shows the done, the whole, the time gone and the time left."""
    with _progress() as progress:
        task = progress.add_task(description, total=None)
        yield _advance(progress, task)


def _advance(progress: Progress, task: TaskID) -> Advance:
    def advance(done: int, total: int | None) -> None:
        progress.update(task, completed=done, total=total)

    return advance


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
