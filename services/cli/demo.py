"""`recsys demo`: the whole path on one machine, from events to a service that answers."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.markup import escape

from services.cli import demo_catalogue
from services.cli.console import bar, err, out
from services.cli.histories import load_histories
from services.cli.recommend import print_reply
from services.cli.serve import queue_line
from services.cli.stopping import stoppable, wait_for_stop
from services.cli.train import fit_with_progress

if TYPE_CHECKING:
    from infra.settings import Settings
    from recsys.data.dataset import Dataset
    from recsys.evaluation.report import Report
    from recsys.registry import Registry

NAME = "demo"
KINDS = ("popularity", "ials", "sasrec")
EPOCHS = {"sasrec": 12}
"""So many passes show what a model can do; `recsys train` goes on until validation stops it."""


def command(
    data: Annotated[
        Path | None,
        typer.Option(
            help="A MovieLens folder or zip, or anything that `recsys data import` reads; "
            "a made-up catalogue by default."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End by itself after the answers.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Ray Train workers.")] = 1,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The HTTP port.")] = None,
) -> None:
    """The whole path on this machine: data, training, evaluation, a service that answers.

    Everything is real and nothing needs setting up: a private Redis, Ray Train, FAISS, Ray Serve.
    What it makes lies in a state folder of each data's own, from which `recsys serve` starts it
    again.

      recsys demo --data ml-latest-small.zip --once
    """
    from infra.redis import redis_server
    from infra.settings import load_settings
    from recsys.registry import Registry
    from services.cluster import cluster
    from services.serving import serving

    settings = _of_its_own(load_settings(http_port=port), data)
    started = time.monotonic()
    with stoppable(), ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(settings))
        dataset = _dataset(settings, data)
        with err.status("Starting Ray"):
            stack.enter_context(cluster(settings.http_host, quiet=True))
        registry = Registry(settings.models_dir)
        reports = _train(registry, settings, dataset, workers)
        _print_reports(reports)
        searchable = demo_catalogue.embed(settings, redis_url, dataset)
        if searchable:
            demo_catalogue.bridge(settings, dataset, KINDS[1:])
        load_histories(dataset, redis_url, settings)
        with err.status("Starting Ray Serve"):
            server = stack.enter_context(serving(settings, redis_url, last=True))
        if server.note:
            err.print(
                f"[yellow]note:[/] answering through Ray Serve's own proxy: {escape(server.note)}"
            )
        user = _show_answers(settings, dataset, server.url)
        if searchable:
            demo_catalogue.show_search(server.url, dataset, made_up=data is None)
        out.print(f"From nothing to answers in {time.monotonic() - started:.0f} s.\n")
        body = f'{{"user_id": "{user}", "k": 5}}'
        lines = (
            "Ask it yourself:",
            f"  curl -s {server.url}/v1/recommend -d '{body}'",
            *(
                [f"""  curl -s {server.url}/v1/search -d '{{"text": "space"}}'"""]
                if searchable
                else []
            ),
            f"API documentation: {server.url}/docs",
            queue_line(settings),
            f"Start it again: RECSYS_STATE_DIR={settings.state_dir} recsys serve",
        )
        out.print(*lines, sep="\n", markup=False, soft_wrap=True)
        if not once:
            out.print("Ctrl-C stops.")
            wait_for_stop()
        err.print("Stopping ...")


def _of_its_own(settings: Settings, source: Path | None) -> Settings:
    """The settings with a state folder for this data alone, so that no histories and models of
    two demos mix; in a shared Redis, with a namespace too."""
    name = "synthetic" if source is None else _name(source)
    namespace = settings.namespace if settings.redis_url is None else f"{settings.namespace}-{name}"
    return settings.model_copy(
        update={"state_dir": settings.state_dir / "demo" / name, "namespace": namespace}
    )


def _name(source: Path) -> str:
    """Changes with the place of a file or folder, and with its files' sizes and times."""
    from infra.errors import RecsysError

    if not source.exists():
        raise RecsysError(f"{source}: there is no such file or folder")
    files = sorted(path for path in source.rglob("*") if path.is_file()) or [source]
    told = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:8]
    return re.sub(r"[^\w.-]+", "-", f"{source.resolve().stem}-{digest}")


def _dataset(settings: Settings, source: Path | None) -> Dataset:
    """The Dataset of the source, imported or made if it is not there yet."""
    from recsys.data.dataset import INFO, Dataset
    from recsys.data.readers import import_dataset
    from recsys.data.synthetic import synthesize

    folder = settings.state_dir / "data"
    if source is None:
        if not (folder / INFO).exists():
            with bar("Making users, items and pictures") as progress:
                synthesize(folder, progress=progress)
    elif (source / INFO).exists():
        folder = source
    elif not (folder / INFO).exists():
        with bar(f"Importing {source.name}") as progress:
            import_dataset(source, folder, progress=progress)
    dataset = Dataset.load(folder)
    info = dataset.info
    out.print(
        f"[bold]{settings.state_dir.name}[/]: {info.users:,} users, {info.items:,} items, "
        f"{info.events:,} events in {escape(str(folder))}\n"
    )
    return dataset


def _train(
    registry: Registry, settings: Settings, dataset: Dataset, workers: int
) -> dict[str, Report]:
    """Fit, measure, seal and activate each kind."""
    from recsys.data.split import split_dataset
    from recsys.models.catalog import kind_of
    from recsys.publish import publish

    split = split_dataset(dataset, "leave_one_out")
    reports: dict[str, Report] = {}
    for kind in KINDS:
        fitted = fit_with_progress(
            kind_of(kind).config(),
            dataset.path,
            run_dir=settings.state_dir / "runs" / f"demo-{kind}",
            workers=0 if kind == "popularity" else workers,
            epochs=EPOCHS.get(kind),
        )
        with err.status(f"Measuring and sealing {kind}"):
            published = publish(registry, kind, dataset, split, fitted)
            registry.activate(kind, published.version)
        reports[kind] = published.test
    return reports


def _print_reports(reports: dict[str, Report]) -> None:
    from recsys.evaluation.report import table

    out.print(table(reports, title="On each user's last item, which no model has seen"))


def _show_answers(settings: Settings, dataset: Dataset, url: str) -> str:
    """Ask for one user over HTTP and over the queue; returns the user."""
    from services.client import Client, QueueClient
    from services.schemas import RecommendRequest

    lengths = dataset.histories.lengths
    row = int(np.argsort(lengths, kind="stable")[len(lengths) // 2])  # neither new nor a fan
    user = dataset.users.ids(np.array([row]))[0]
    titles = dataset.catalogue["title"].take(dataset.histories[row][-5:]).to_pylist()
    out.print(f"[bold]User {escape(user)}[/] came last to: {escape('; '.join(titles))}")
    request = RecommendRequest(user_id=user, k=5)
    with Client(url) as client:
        print_reply(client.recommend(request), title=f"Recommended to user {user}, over HTTP")
    with QueueClient.from_settings(settings) as queue:
        began = time.perf_counter()
        reply = queue.recommend(request)
        took = (time.perf_counter() - began) * 1000
    first = reply.items[0].title if reply.items else "nothing"
    out.print(
        f"The same over the Redis queue: {first} and so on, in {took:.0f} ms.\n", markup=False
    )
    return user
