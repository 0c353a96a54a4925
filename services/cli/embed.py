"""`recsys embed`: the texts and pictures of a Dataset become vectors that are searched."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.errors import RecsysError
from services.cli.console import AsJson, bar, err, out, print_json
from services.cli.stopping import stoppable

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from infra.settings import Settings
    from services.jobs import Job, Jobs

NAME = "embed"

LOOK_S = 0.3
"""How often it is looked how far the job is."""


def command(
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="The folder of a Dataset.")
    ],
    text_model: Annotated[
        str | None,
        typer.Option(
            help="A model of sentence-transformers, by name, name@revision or folder; MiniLM "
            "unless a model is named."
        ),
    ] = None,
    image_model: Annotated[
        str | None, typer.Option(help="A ResNet for the pictures, by name or folder.")
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="The most contents that a worker takes at a time."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            help="Workers to run beside this command, until it ends; by default one, if there is "
            "no other. With 0 it is left to `recsys worker` and `recsys serve`.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the job is done.")] = True,
    as_json: AsJson = False,
) -> None:
    """Embed the texts or pictures of a Dataset's items, and put the vectors into service.

    What was embedded before by the same encoder is not embedded again. However it is interrupted,
    the same command goes on where it was.

      recsys embed --data ./films
      recsys embed --data ./films --image-model ./image-encoder
    """
    from encoders.text_input import DEFAULT_TEXT_MODEL
    from infra.redis import redis_server
    from infra.settings import load_settings

    models = {"text": text_model, "image": image_model}
    asked = {space: model for space, model in models.items() if model is not None}
    settings = load_settings()
    with redis_server(settings) as redis_url, stoppable():
        try:
            run = run_job(
                settings,
                redis_url,
                data,
                asked or {"text": DEFAULT_TEXT_MODEL},
                chunk=chunk,
                workers=workers if wait else 0,
                wait=wait,
            )
            job = asyncio.run(run)
        except KeyboardInterrupt:
            err.print("Interrupted. Nothing is lost: the same command goes on where this one was.")
            raise
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        _tell(job)
    check(job)


async def run_job(
    settings: Settings,
    redis_url: str,
    data: Path,
    models: dict[str, str],
    *,
    chunk: int | None = None,
    workers: int | None = None,
    wait: bool = True,
) -> Job:
    """Submit a job and, unless told, wait until it has ended, with progress on the screen.

    workers: to run beside it; one if it is None and there is no other.
    """
    from infra.redis import connect_async
    from services.embedding import CatalogEncoders
    from services.jobs import Jobs

    redis = connect_async(redis_url)
    try:
        jobs = Jobs(redis, settings, CatalogEncoders())
        with bar("Reading the items") as progress:
            job = await jobs.submit(data, models, chunk=chunk, progress=progress)
        return await follow(settings, redis_url, jobs, job, workers) if wait else job
    finally:
        await redis.aclose()


async def follow(
    settings: Settings, redis_url: str, jobs: Jobs, job: Job, workers: int | None
) -> Job:
    """Wait until the job has ended, with workers of our own where they are wanted or needed."""
    from services.jobs import ENDED, JobState
    from services.worker import local_workers

    log = settings.jobs_dir / job.id / "worker.log"
    local: list[SpawnProcess] = []
    with ExitStack() as stack, bar("Embedding", rate=True) as progress:
        while job.state not in ENDED:
            wanted = workers
            if wanted is None:
                wanted = 1 if local or not await jobs.ledger.workers() else 0
            if wanted and not local:
                local = stack.enter_context(local_workers(settings, redis_url, wanted, log))
            if local and all(process.exitcode is not None for process in local):
                raise RecsysError(
                    f"the worker of the job {job.id} ended by itself, with the status "
                    f"{local[0].exitcode}: {log} may say why. The same command goes on with the job"
                )
            await asyncio.sleep(LOOK_S)
            job = await jobs.get(job.id)
            if job.state == JobState.SUBMITTING:  # Redis lost it, and who submits it is here
                job = await jobs.resume(job.id)
            progress(job.embedded, job.contents)
    return job


def _tell(job: Job) -> None:
    rate = f", {job.rate:,.0f} a second" if job.rate else ""
    for space in job.spaces:
        if space.vectors is None:
            continue
        if space.version is None:
            out.print(
                f"[bold]{space.space}[/] stays as it is: none of {job.items:,} items could be "
                f"embedded by {escape(space.model)}"
            )
        else:
            out.print(
                f"[bold]{space.space} {space.version}[/] is in service: {space.vectors:,} of "
                f"{job.items:,} items by {escape(space.model)}"
            )
        if space.returned:
            out.print(
                f"  {space.returned:,} items that were put in over the API wait for the workers: "
                "another encoder had embedded them"
            )
        if space.left:
            err.print(
                f"[yellow]note:[/] {space.left:,} more have no room beside it: put them in again "
                "with [bold]recsys items put[/] after [bold]recsys items fold[/]"
            )
        if space.problems:
            out.print(
                f"  {space.problems:,} have a content and no vector: "
                f"[bold]recsys jobs show {job.id}[/] says why"
            )
    if job.state == "done":
        out.print(f"[dim]{job.contents:,} contents were embedded anew{rate}; job {job.id}[/]")
    else:
        out.print(f"The job {job.id} is {job.state}, and left to the workers: ", end="")
        out.print(f"[bold]recsys jobs show {job.id}[/] says how far it is")


def check(job: Job) -> None:
    """Raise RecsysError where the job did not end well."""
    if job.state == "failed":
        chunk, reason = next(iter(job.failures.items()))
        what = "its sealing" if chunk == "seal" else f"{len(job.failures)} of its chunks"
        raise RecsysError(
            f"the job {job.id} failed in {what}: {reason}. Once that is mended, go on with "
            f"`recsys jobs resume {job.id}`"
        )
    if job.state == "done" and all(space.version is None for space in job.spaces):
        raise RecsysError(
            f"no item could be embedded: `recsys jobs show {job.id}` says why of each"
        )
    if job.state == "cancelled":
        raise RecsysError(f"the job {job.id} was cancelled")
