"""`recsys tune`: search a model's hyper-parameters on the validation part."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.errors import RecsysError
from infra.storage import atomic_file
from services.cli.console import AsJson, err, out, print_json, short
from services.cli.train import SplitName, read_config

if TYPE_CHECKING:
    from recsys.training.checkpoint import EpochReport
    from recsys.training.study import Trial
    from recsys.training.tune import Tuned

NAME = "tune"

SHOWN = 3
"""The best so many trials are printed."""


def command(
    kind: Annotated[str, typer.Argument(help="ials, sasrec or gru4rec.")],
    data: Annotated[Path, typer.Option(help="A folder in the Dataset format.")],
    trials: Annotated[
        int, typer.Option(min=1, help="How many the study shall have, resumed ones included.")
    ] = 30,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of a trial, at most; the model's own by default.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="No trial begins after so many minutes.")
    ] = None,
    split: Annotated[
        SplitName, typer.Option(help="What is held out for validation and test.")
    ] = "leave_one_out",
    seed: Annotated[
        int, typer.Option(min=0, help="Of the search and of each fit; the same chooses the same.")
    ] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Keep a hyper-parameter, as dim=128, instead of searching it."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="What the search begins from, instead of the defaults.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The name of the study; the kind by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study of that name.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The TOML file of the best; config.toml in the study's folder otherwise."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search a model's hyper-parameters for the best NDCG@10 on the validation part.

    The test part is never looked at. The first trial has the defaults, or a preset, and a trial
    that stays behind the others is ended early. Ctrl-C, or a crash, loses the trial in hand and no
    other.

      recsys tune ials --data ./films --trials 40
      recsys tune ials --data ./films --trials 80 --resume
      recsys tune sasrec --data ./films --set block=gated --epochs 20 --output best.toml
      recsys train sasrec --data ./films --config best.toml
    """
    name = name or kind
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise RecsysError(f"{name!r} cannot name a study; use 1 to 64 of a-z, 0-9, _ and -")
    if output is not None and output.is_dir():
        raise RecsysError(f"--output {output} is a folder: name a file")

    from infra.settings import load_settings
    from recsys.models import presets
    from recsys.training.tune import tune
    from services.cli.trials_plot import trials_plot

    folder = load_settings().state_dir / "studies" / name
    file, plot = output or folder / "config.toml", folder / "trials.svg"
    assignments = set_ or []
    base = {} if preset is None else presets.preset(kind, preset)
    config = read_config(kind, None, assignments, seed, base)
    with _progress(trials) as callbacks:
        tuned = tune(
            config,
            data,
            folder=folder,
            n_trials=trials,
            fixed={assignment.partition("=")[0].strip() for assignment in assignments},
            protocol=split,
            epochs=epochs,
            timeout_s=None if timeout is None else 60 * timeout,
            resume=resume,
            **callbacks,
        )
    train = ["recsys", "train", kind, "--data", str(data), "--config", str(file)]
    train += [] if split == "leave_one_out" else ["--split", split]
    train += [] if seed == 0 else ["--seed", str(seed)]
    with atomic_file(file, "w") as writer:
        writer.write(_toml(tuned, folder))
    with atomic_file(plot) as drawn:
        trials_plot(tuned.trials, tuned.best).savefig(drawn, format="svg")
    if as_json:
        print_json(
            {
                "best": _json(tuned.best),
                "config": tuned.config.model_dump(mode="json"),
                "file": str(file),
                "plot": str(plot),
                "trials": [_json(trial) for trial in tuned.trials],
            }
        )
        return
    out.print(_table(tuned))
    outcomes = Counter(trial.outcome for trial in tuned.trials)
    out.print(
        f"The best of {len(tuned.trials)} trials ({outcomes['pruned']} pruned, "
        f"{outcomes['failed']} failed) is number {tuned.best.number}: validation NDCG@10 "
        f"{tuned.best.ndcg:.4f}.\n"
    )
    for label, value in (
        ("Its config", file),
        ("All trials", plot),
        ("Train it", shlex.join(train)),
    ):
        out.print(f"{label}:  {value}", soft_wrap=True, markup=False)


@contextmanager
def _progress(n_trials: int) -> Iterator[dict[str, Any]]:
    """The callbacks of a search: a bar for the trial in hand, a line for each that ended."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[quality]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    ) as progress:
        task = progress.add_task("Tuning", total=None, quality="")

        def on_epoch(number: int, report: EpochReport) -> None:
            progress.update(
                task,
                description=f"Trial {number} of {n_trials}",
                completed=report.epoch + 1,
                total=report.max_epochs,
                quality=f"epoch {report.epoch + 1}  validation NDCG@10 {report.ndcg:.4f}",
            )

        def on_trial(trial: Trial) -> None:
            values = "  ".join(f"{name} {short(value)}" for name, value in trial.values.items())
            reason = f"  {trial.reason}" if trial.reason else ""
            line = f"trial {trial.number:3}  {trial.ndcg:.4f} {trial.outcome:8}  {values}{reason}"
            progress.console.print(line, soft_wrap=True, markup=False)
            progress.reset(task)

        yield {"on_epoch": on_epoch, "on_trial": on_trial}


def _table(tuned: Tuned) -> Table:
    """The best trials side by side, with the range of each hyper-parameter that was searched."""
    in_order = sorted(tuned.trials, key=lambda trial: (trial.outcome == "failed", -trial.ndcg))
    shown = in_order[:SHOWN]
    table = Table(box=box.SIMPLE, title="The best trials", title_justify="left")
    table.add_column("trial", no_wrap=True)
    table.add_column("range", style="dim")
    for trial in shown:
        table.add_column(f"{trial.number}\n{trial.outcome}", justify="right", no_wrap=True)
    table.add_row("NDCG@10", "", *(f"{trial.ndcg:.4f}" for trial in shown))
    table.add_row("epochs", "", *(str(len(trial.curve)) for trial in shown))
    table.add_row("seconds", "", *(f"{trial.seconds:.1f}" for trial in shown), end_section=True)
    for name, searched in tuned.ranges.items():
        table.add_row(name, str(searched), *(short(trial.values.get(name, "")) for trial in shown))
    return table


def _toml(tuned: Tuned, folder: Path) -> str:
    """The chosen config, but for the seed, which `train` takes as an option."""
    command = shlex.join(["recsys", *sys.argv[1:]]).replace("\n", " ")
    values = tuned.config.model_dump(mode="json", exclude={"seed"})
    return "\n".join(
        [
            f"# {tuned.config.kind}: trial {tuned.best.number} of the {len(tuned.trials)} "
            f"of the study {folder}",
            f"# Validation NDCG@10: {tuned.best.ndcg:.4f}",
            f"# Data fingerprint: {tuned.fingerprint}",
            f"# Found by: {command}",
            *(f"{name} = {json.dumps(value)}" for name, value in values.items()),
            "",
        ]
    )


def _json(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "ndcg@10": trial.ndcg,
        "outcome": trial.outcome,
        "epochs": len(trial.curve),
        "seconds": trial.seconds,
        "values": trial.values,
        "reason": trial.reason or None,
    }
