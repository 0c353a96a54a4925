"""`recsys train`: fit a model with Ray Train, measure it, and put it into the registry."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from infra.errors import RecsysError, reason
from services.cli.console import AsJson, Step, err, out, print_json, steps

if TYPE_CHECKING:
    from recsys.models.model import ModelConfig
    from recsys.publish import Published
    from recsys.registry import Registry
    from recsys.training.checkpoint import EpochReport
    from recsys.training.fit import FitResult
    from recsys.training.start import Start

NAME = "train"

SplitName = Literal["leave_one_out", "temporal"]


def command(
    kind: Annotated[
        str,
        typer.Argument(
            help="popularity, ials, sasrec or gru4rec; or image-encoder or cross-encoder, which "
            "have options of their own: name one before --help."
        ),
    ],
    data: Annotated[Path, typer.Option(help="A folder in the Dataset format.")],
    workers: Annotated[
        int, typer.Option(min=0, help="Ray Train workers; 0 trains in this process.")
    ] = 1,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu",
            help="A GPU for each worker (NCCL); by default where there are as many.",
        ),
    ] = None,
    split: Annotated[
        SplitName,
        typer.Option(help="What is held out for validation and test."),
    ] = "leave_one_out",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most so many passes; the model's own by default.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="The same seed gives the same model; the file's or the start's, or 0."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Hyper-parameters for data of a sort: long-histories (films, music) or "
            "short-histories (shops) of sasrec."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A TOML file of the model's hyper-parameters."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One hyper-parameter, as dim=128; goes before file and preset."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The name in the registry; the kind by default.")
    ] = None,
    activate: Annotated[bool, typer.Option(help="Put the new version into service.")] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the same run.")
    ] = False,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Begin from the active version, or from the one that it is a refit of, with its "
            "hyper-parameters and seed, instead of from nothing.",
        ),
    ] = False,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Then fit once more, to the validation part too, for as many epochs as were best.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fit a model with Ray Train, measure it on the test part, and seal it into a bundle.

    Training stops when NDCG@10 on the validation part stops rising, and the best epoch is kept.
    With --refit that version tells how many epochs are best and is what a later --warm-start
    begins from; the one that goes into service is fitted anew for as many, to all that comes before
    the test part, the newest events included.

      recsys train sasrec --data ./films --workers 2
      recsys train ials --data ./films --set dim=128
      recsys train sasrec --data ./shop --preset short-histories --refit
      recsys train sasrec --data ./films-today --warm-start
    """
    from infra.settings import load_settings
    from recsys.evaluation.report import table
    from recsys.models import presets
    from recsys.registry import Registry
    from services.cluster import cluster

    settings = load_settings()
    name = name or kind
    registry = Registry(settings.models_dir)
    registry.versions(name)  # refuses a name that cannot be one, before hours are spent
    start, base = start_of(registry, name, kind, split) if warm_start else (None, {})
    if preset is not None:
        base |= presets.preset(kind, preset)
    model_config = read_config(kind, config, set_ or [], seed, base)
    run = {
        "protocol": split,
        "workers": workers,
        "gpu": gpu,
        "run_dir": settings.state_dir / "runs" / name,
        "resume": resume,
        "start": start,
    }
    with nullcontext() if workers == 0 else cluster(quiet=True):
        fitted = fit_with_progress(model_config, data, epochs=epochs, **run)
        again = _refit_with_progress(fitted, data, **run) if refit else None
    published = _published(registry, name, data, split, fitted)
    if again is not None:
        fitted = again
        published = _published(registry, name, data, split, again, published.version)
    if activate:
        registry.activate(name, published.version)
    if as_json:
        print_json(
            {
                "name": name,
                "version": published.version,
                "active": activate,
                "best_epoch": fitted.best_epoch,
                "cost": fitted.cost,
                "test": published.test.to_dict(),
            }
        )
        return
    out.print(table({name: published.test}, title="On the test part"))
    out.print(f"{name} {published.version}" + (" is in service." if activate else " is sealed."))


def _published(
    registry: Registry,
    name: str,
    data: Path,
    split: SplitName,
    fitted: FitResult,
    refit_of: str | None = None,
) -> Published:
    from recsys.data.dataset import Dataset
    from recsys.data.split import split_dataset
    from recsys.publish import publish

    with err.status("Measuring on the test part, indexing and sealing"):
        dataset = Dataset.load(data)  # not before: the workers held theirs
        parts = split_dataset(dataset, split)
        return publish(registry, name, dataset, parts, fitted, refit_of=refit_of)


def start_of(registry: Registry, name: str, kind: str, split: str) -> tuple[Start, dict[str, Any]]:
    """What to begin from, and its hyper-parameters: the active version, or the one that it is a
    refit of, since a refit has learnt what the new fit will choose its epochs by.

    It must have been held out from as the new one will be: under another split it has learnt
    events that the new one is measured on.
    """
    from recsys.training.start import Start

    bundle = registry.open_active(name)
    if bundle.manifest.kind != kind:
        raise RecsysError(f"{name} is of the kind {bundle.manifest.kind}, not {kind}")
    if bundle.manifest.split not in (None, split):
        raise RecsysError(
            f"{name} {bundle.version} was fitted with --split {bundle.manifest.split}, and "
            f"has learnt events that --split {split} measures with: give it the same, or train "
            "without --warm-start"
        )
    if bundle.manifest.refit_of is not None:
        bundle = registry.open(f"{name}@{bundle.manifest.refit_of}")
    if bundle.manifest.learnt != "train":
        raise RecsysError(
            f"{name} {bundle.version} has learnt the validation part, by which a fit that began "
            "from it would choose its epochs: train without --warm-start"
        )
    start = Start(f"{name} {bundle.version}", bundle.items, bundle.model.tensors())
    return start, bundle.model.config.model_dump()


def read_config(
    kind: str,
    file: Path | None,
    assignments: list[str],
    seed: int | None,
    base: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """The model's configuration: its defaults, then `base`, a file, name=value assignments and a
    seed."""
    from recsys.models.catalog import kind_of

    values = dict(base or {})
    if file is not None:
        try:
            values |= tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecsysError(f"{file} is not TOML: {error}") from None
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        if not equals:
            raise RecsysError(f"--set {assignment}: write it as name=value, such as dim=128")
        values[field.strip()] = value.strip()
    if seed is not None:
        values["seed"] = seed
    config = kind_of(kind).config
    try:
        return config.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or kind}: {reason(each)}" for each in error.errors()
        )
        raise RecsysError(
            f"the configuration of {kind} is wrong: {wrong} (its fields are "
            f"{', '.join(config.model_fields)})"
        ) from None


def fit_with_progress(config: ModelConfig, data: Path, **options: Any) -> FitResult:
    """`recsys.training.fit.fit` with a bar that shows the epochs and the validation metric."""
    from recsys.training.fit import fit

    with steps(f"Training {config.kind}") as step:
        result = fit(config, data, on_epoch=_told(step), **options)
        step(1, 1, f"best epoch {result.best_epoch + 1} of {len(result.history)}")
    return result


def _refit_with_progress(chosen: FitResult, data: Path, **options: Any) -> FitResult:
    from recsys.training.fit import refit

    with steps(f"Training {chosen.model.config.kind} again") as step:
        result = refit(chosen, data, on_epoch=_told(step), **options)
        step(1, 1, f"{result.best_epoch + 1} epochs, the validation part included")
    return result


def _told(step: Step) -> Callable[[EpochReport], None]:
    def on_epoch(report: EpochReport) -> None:
        quality = "" if report.ndcg is None else f"  validation NDCG@10 {report.ndcg:.4f}"
        said = f"epoch {report.epoch + 1}  loss {report.loss:.4f}{quality}"
        step(report.epoch + 1, report.max_epochs, said)

    return on_epoch
