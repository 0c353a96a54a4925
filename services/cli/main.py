"""`recsys`: events and a catalogue in, recommendations out."""

from __future__ import annotations

import os
import sys

import typer
from rich.markup import escape

from infra.errors import RecsysError
from services.cli import (
    bench,
    bridge,
    data,
    demo,
    doctor,
    embed,
    evaluate,
    events,
    index,
    items,
    jobs,
    models,
    queue,
    ratings,
    recommend,
    search,
    serve,
    spaces,
    train,
    train_encoders,
    tune,
    worker,
)
from services.cli.console import err, told

# Threads that wait for each other by spinning stand in the way of the other processes of this
# machine: with as many threads as cores and one more process, training was 20 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray asks a metrics server of its makers' by default; what people train here stays here.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

app = typer.Typer(
    name="recsys",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with [bold]recsys demo[/]. Settings come from RECSYS_… environment variables: "
    "[bold]recsys doctor[/] prints them.",
)
for module in (demo, doctor, train, tune, evaluate, embed, serve, worker, recommend, search):
    kind = train_encoders.TrainCommand if module is train else None
    app.command(name=module.NAME, cls=kind)(module.command)
app.command(
    name=bench.NAME, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)(bench.command)
for module in (data, index, models, spaces, bridge, items, jobs, queue, ratings, events):
    app.add_typer(module.app, name=module.NAME)


def main() -> None:
    """Run the command line; exit codes 0, 1 (failed), 2 (wrong usage), 130 (interrupted)."""
    try:
        app()
    except (RecsysError, OSError) as error:
        err.print(f"[bold red]error:[/] {escape(told(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
