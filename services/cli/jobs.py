"""`recsys jobs`: how far embedding jobs are; cancel, resume and remove them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from services.cli.console import AsJson, out, print_json

if TYPE_CHECKING:
    from services.jobs import Job, Jobs

T = TypeVar("T")

NAME = "jobs"
app = typer.Typer(
    help="How far embedding jobs are; cancel, resume and remove them.", no_args_is_help=True
)

JobId = Annotated[str, typer.Argument(help="An id that `recsys jobs list` shows.")]

SHOWN = 20
"""The most items without a vector that are printed."""


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """The newest jobs, newest first."""
    jobs = _ask(lambda jobs: jobs.newest())
    if as_json:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    if not jobs:
        out.print("No job yet: submit one with [bold]recsys embed --data …[/]")
        return
    table = Table(box=box.SIMPLE)
    for column in ("job", "state", "spaces", "items", "embedded", "left"):
        table.add_column(column, justify="right" if column in ("items", "embedded") else "left")
    for job in jobs:
        spaces = ", ".join(each.space for each in job.spaces)
        done = f"{job.embedded:,} of {job.contents:,}"
        table.add_row(job.id, job.state, spaces, f"{job.items:,}", done, _left(job))
    out.print(table)


@app.command()
def show(job: JobId, as_json: AsJson = False) -> None:
    """How far a job is, why chunks failed, and which items have no vector."""
    found, problems = _ask(lambda jobs: _looked_at(jobs, job))
    if as_json:
        print_json({**found.model_dump(mode="json"), "problems": problems})
        return
    table = Table(title=found.id, show_header=False, title_justify="left")
    for field in ("state", "created", "dataset", "items", "contents", "embedded", "without_vector"):
        table.add_row(field.replace("_", " "), escape(str(getattr(found, field))))
    if found.rate is not None:
        table.add_row("rate", f"{found.rate:,.0f} contents a second")
    table.add_row("left", _left(found))
    for space in found.spaces:
        facts = space.model_dump(exclude={"space"}, exclude_none=True)
        told = "\n".join(f"{name} {value}" for name, value in facts.items())
        table.add_row(space.space, escape(told))
    out.print(table)
    for chunk, reason in found.failures.items():
        out.print(f"{'sealing' if chunk == 'seal' else f'chunk {chunk}'} failed: {escape(reason)}")
    for problem in problems[:SHOWN]:
        out.print(escape(f"{problem['item_id']} ({problem['space']}): {problem['reason']}"))
    if len(problems) > SHOWN:
        out.print(f"and {len(problems) - SHOWN:,} more: --json prints all")
    if found.state in ("submitting", "cancelled", "failed"):
        out.print(f"[bold]recsys jobs resume {found.id}[/] goes on with it.")


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """Have the workers pass over what is left; what is embedded is kept for later jobs."""
    _tell(_ask(lambda jobs: jobs.cancel(job)), as_json)


@app.command()
def resume(job: JobId, as_json: AsJson = False) -> None:
    """Go on with a job that was interrupted or cancelled, or that failed; nothing is done twice.

    recsys jobs resume 20260131-101500-3fa9c1
    """
    _tell(_ask(lambda jobs: jobs.resume(job)), as_json)


@app.command()
def remove(job: JobId) -> None:
    """Delete what is kept of a job that has ended or was cancelled; its vectors stay in use, and
    are not embedded again.

    recsys jobs remove 20260131-101500-3fa9c1
    """
    _ask(lambda jobs: jobs.remove(job))
    out.print(f"The job {escape(job)} is removed. What it embedded is kept.")


def _tell(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        out.print(f"The job {job.id} is {job.state}: {job.embedded:,} of {job.contents:,} done.")


def _left(job: Job) -> str:
    if job.seconds_left is None:
        return ""
    minutes, seconds = divmod(round(job.seconds_left), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


async def _looked_at(jobs: Jobs, job: str) -> tuple[Job, list[dict[str, str]]]:
    return await jobs.get(job), jobs.problems(job)


def _ask(question: Callable[[Jobs], Awaitable[T]]) -> T:
    """What is answered by the jobs of the settings' state folder and Redis."""
    from infra.redis import connect_async, redis_server
    from infra.settings import load_settings
    from services.embedding import CatalogEncoders
    from services.jobs import Jobs

    settings = load_settings()

    async def ask(redis_url: str) -> T:
        redis = connect_async(redis_url)
        try:
            return await question(Jobs(redis, settings, CatalogEncoders()))
        finally:
            await redis.aclose()

    with redis_server(settings) as redis_url:
        return asyncio.run(ask(redis_url))
