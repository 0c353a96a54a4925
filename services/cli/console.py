"""What the commands print with: results on standard output, everything else beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from infra.errors import RecsysError
from infra.settings import Settings
from infra.storage import UNFINISHED

# What Rich would make of `:cat:` and of `[b]` in a title is not what the title is: names of smileys
# are printed as they stand, and text from elsewhere goes through `escape`.
out = Console(highlight=False, emoji=False)
"""Standard output: what the command was asked for."""

err = Console(stderr=True, highlight=False, emoji=False)
"""Standard error: progress, notes and errors."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

Advance = Callable[[int, int | None], None]
"""Called with how much is done and, once known, how much there is."""

Step = Callable[[int, int, str], None]
"""Called with how many steps are done, how many there are, and what is said of the last."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


def print_rows(rows: Sequence[Mapping[str, object]], none: str) -> None:
    """Rows of the same fields as a table, a true value as a dot; or what is to be said of none."""
    if not rows:
        out.print(none)
        return
    table = Table(box=box.SIMPLE)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        shown = (
            "●" if value is True else "" if value is False else value for value in row.values()
        )
        table.add_row(*(escape(str(value)) for value in shown))
    out.print(table)


def short(value: object) -> str:
    """A value for a table: of a number four digits, and the thousands apart."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def told(error: RecsysError | OSError) -> str:
    """What was wrong, where, and what to do."""
    if isinstance(error, RecsysError):
        return error.message
    what = error.strerror or str(error) or type(error).__name__
    if not isinstance(error.filename, str | bytes):
        return what
    path = Path(os.fsdecode(error.filename))
    if path.name.startswith(UNFINISHED):  # that it is written under another name is our affair
        path = path.parent / path.name.removeprefix(UNFINISHED).rpartition("-")[0]
    state_dir = Path(os.environ.get("RECSYS_STATE_DIR", Settings.model_fields["state_dir"].default))
    if path.absolute().is_relative_to(state_dir.absolute()):
        return f"{path}: {what}; choose another state folder with RECSYS_STATE_DIR"
    return f"{path} cannot be read or written: {what}"


class _Rate(ProgressColumn):
    """How much is done in a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")


@contextmanager
def bar(description: str, *, rate: bool = False) -> Iterator[Advance]:
    """A progress bar that shows the done, the whole, the time gone and the time left; and the rate
    where that is asked for."""
    with _progress(*([_Rate()] if rate else [])) as progress:
        task = progress.add_task(escape(description), total=None)
        yield _advance(progress, task)


@contextmanager
def steps(title: str) -> Iterator[Step]:
    """A bar for steps that have something to say of themselves. What was said last stays."""
    columns = SpinnerColumn(), TextColumn(escape(title)), BarColumn(bar_width=28)
    said = TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, *said, console=err) as progress:
        task = progress.add_task("starting", total=None)

        def step(done: int, total: int, description: str) -> None:
            progress.update(task, completed=done, total=total, description=description)

        yield step


def _advance(progress: Progress, task: TaskID) -> Advance:
    def advance(done: int, total: int | None) -> None:
        progress.update(task, completed=done, total=total)

    return advance


def _progress(*more: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        *more,
        console=err,
        transient=True,
    )
