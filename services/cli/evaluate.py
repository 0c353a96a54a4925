"""`recsys evaluate`: measure models of the registry side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from infra.errors import RecsysError
from services.cli.console import AsJson, bar, err, out, print_json
from services.cli.train import SplitName

NAME = "evaluate"


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models, as NAME or NAME@VERSION; all active ones by default."),
    ] = None,
    data: Annotated[Path, typer.Option(help="The Dataset that they were trained on.")] = ...,  # type: ignore[assignment]
    split: Annotated[SplitName, typer.Option(help="What is held out.")] = "leave_one_out",
    part: Annotated[
        Literal["validation", "test"], typer.Option(help="Which of the parts held out.")
    ] = "test",
    k: Annotated[
        list[int] | None, typer.Option("-k", min=1, help="Cut-offs; give it repeatedly.")
    ] = None,
    mask_seen: Annotated[
        bool, typer.Option(help="Leave the items of the user's history out of the ranking.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Rank the full catalogue for every held-out user, and print what comes of it.

    No sampled negatives. Each value stands above its 95 % bootstrap interval over users.

      recsys evaluate --data ./films
      recsys evaluate ials sasrec --data ./films -k 10 -k 50
    """
    from infra.settings import load_settings
    from recsys.data.dataset import Dataset
    from recsys.data.split import split_dataset
    from recsys.evaluation.protocol import evaluate
    from recsys.evaluation.report import table
    from recsys.registry import Registry

    registry = Registry(load_settings().models_dir)
    dataset = Dataset.load(data)
    parts = split_dataset(dataset, split)
    holdout = parts.test if part == "test" else parts.validation
    chosen = names or [name for name in registry.names() if registry.active(name)]
    if not chosen:
        raise RecsysError("no model is active yet: fit one with `recsys train ials --data …`")
    reports = {}
    for name in chosen:
        bundle = registry.open(name)
        if bundle.manifest.data_fingerprint != dataset.fingerprint:
            err.print(
                f"[yellow]note:[/] {name} was trained on other data than {escape(str(data))}; "
                "its figures here may be those of events that it has seen"
            )
        if not bundle.items.to_arrow().equals(dataset.items.to_arrow()):
            raise RecsysError(
                f"{name} knows {len(bundle.items)} items and {data} holds {len(dataset.items)}, "
                "not the same or in another order: evaluate it on the data that it was trained on"
            )
        if bundle.manifest.split not in (None, split):
            raise RecsysError(
                f"{name} {bundle.version} was fitted with --split {bundle.manifest.split} and has "
                f"learnt events that --split {split} measures with: give it the same"
            )
        if part == "validation" and bundle.manifest.learnt != "train":
            raise RecsysError(
                f"{name} {bundle.version} was fitted with --refit and has learnt the validation "
                "part: measure it on the test part"
            )
        with bar(f"Evaluating {name}") as progress:
            reports[name] = evaluate(
                bundle.model,
                holdout,
                protocol=split if part == "test" else f"{split}, {part}",
                learnt=bundle.manifest.learnt,
                popularity=parts.popularity(
                    len(dataset.items), validation_learnt=bundle.manifest.learnt != "train"
                ),
                ks=tuple(k or (10, 20)),
                mask_seen=mask_seen,
                progress=progress,
            )
    if as_json:
        print_json({name: report.to_dict() for name, report in reports.items()})
        return
    for cutoff in k or (10, 20):
        out.print(table(reports, k=cutoff))
