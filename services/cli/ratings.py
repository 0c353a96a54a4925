"""`recsys ratings`: predict what users would rate items, and measure how far off that is."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from infra.errors import RecsysError
from services.cli.console import AsJson, bar, err, out, print_json
from services.cli.options import typed_as

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recsys.data.dataset import Dataset
    from recsys.data.ratings import Ratings
    from recsys.evaluation.ratings import Predictor
    from recsys.models.biased_mf import BiasedMfConfig
    from recsys.rating_bundle import RatingBundle

NAME = "ratings"
app = typer.Typer(
    help="Predict what users would rate items, by biased matrix factorisation.",
    no_args_is_help=True,
)

Data = Annotated[Path, typer.Argument(help="A folder in the Dataset format, with ratings.")]
Dim = Annotated[
    int | None, typer.Option(help="Length of a vector; 0 for the biases alone, 32 by default.")
]
Regularization = Annotated[
    float | None,
    typer.Option(help="More holds users and items closer to the mean; 1.2 by default."),
]


@app.command()
def train(
    data: Data,
    output: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.")],
    dim: Dim = None,
    regularization: Regularization = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same model; 0 by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a model to all ratings, measure it by 5-fold cross-validation, and seal it into a folder.

    To recommend, train ials or sasrec: they learn from which items are touched at all, and rank
    better for it.

      recsys ratings train ./films --output ./film-ratings
    """
    import torch

    from recsys.data.dataset import Dataset
    from recsys.data.ratings import Ratings
    from recsys.evaluation.ratings import cross_validate
    from recsys.evaluation.report import table
    from recsys.models.biased_mf import BiasedMf
    from recsys.rating_bundle import seal
    from recsys.training.cost import Meter

    config = _config(dim, regularization, seed)
    if output.exists():  # told before the work is done
        raise RecsysError(f"{output} exists already: name another folder, or delete it first")
    dataset = Dataset.load(data)
    ratings, n_items = Ratings.of_dataset(dataset), len(dataset.items)
    started = time.monotonic()
    with err.status("Fitting"), Meter(torch.device("cpu"), counts_processors=False) as meter:
        model = BiasedMf.fit(config, ratings, n_items)
        used = meter.read()
    cost = {
        "wall_s": time.monotonic() - started,
        "core_s": used.core_seconds,
        "peak_rss_mb": used.peak_rss_mb,
    }
    with bar("Measuring") as progress:
        report = cross_validate(_fitted(config, n_items), ratings, progress=progress)
    manifest = seal(
        output,
        model=model,
        catalogue=dataset.catalogue,
        data_fingerprint=dataset.fingerprint,
        metrics=[report],
        cost=cost,
    )
    if as_json:
        print_json({"path": str(output), **manifest.model_dump(mode="json")})
        return
    out.print(table({config.kind: report}, title="On ratings held out"))
    folder, source = escape(str(output)), escape(str(data))
    then = f"recsys ratings predict {folder} --data {source} --user …"
    out.print(f"{folder} is sealed: next, [bold]{then}[/]", soft_wrap=True)


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="What `recsys ratings train` wrote.")],
    data: Annotated[
        Path, typer.Option(help="The Dataset with the user's ratings; it may be a newer one.")
    ],
    user: Annotated[str, typer.Option(help="The user's id.")],
    item: Annotated[
        list[str] | None, typer.Option(help="An item's id; give it repeatedly.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="How many items where none is named; 10, or all of fewer."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a user would rate some items, or the available ones not yet rated that would get most.

    The model knows no user: what the Dataset has of this one's ratings is all that counts. An item
    that the user rated is shown with that rating, which the prediction has learnt from.

      recsys ratings predict ./film-ratings --data ./films --user 42 -k 5
      recsys ratings predict ./film-ratings --data ./films --user 42 --item 50 --item 172
    """
    from recsys.data.dataset import Dataset
    from recsys.data.histories import Histories
    from recsys.rating_bundle import RatingBundle

    if item and k is not None:
        raise typer.BadParameter("give either --item or -k, not both")
    bundle = RatingBundle.open(folder)
    dataset = Dataset.load(data)
    rated, unrated = _of_user(user, dataset, bundle)
    asked = _rows(item, bundle) if item else unrated
    predicted = bundle.model.predict(rated, Histories.of([asked]))
    if not item:
        best = np.argsort(-predicted, kind="stable")[: k or 10]
        asked, predicted = asked[best], predicted[best]
    given = dict(zip(rated.histories.items.tolist(), rated.values, strict=True))
    rows: list[dict[str, Any]] = [
        {
            "item_id": item_id,
            "title": bundle.titles[row],
            "predicted": prediction,
            "rated": given.get(row),
        }
        for item_id, row, prediction in zip(
            bundle.items.ids(asked), asked.tolist(), predicted, strict=True
        )
    ]
    if as_json:
        print_json({"user_id": user, "ratings": len(given), "items": rows})
        return
    _print_predictions(rows)
    known = f"ratings known of user {user}: {len(given):,}"
    out.print(
        known + ("" if given else ", so anybody would be told the same"), style="dim", markup=False
    )


@app.command()
def evaluate(
    data: Data,
    leave_last_out: Annotated[
        bool,
        typer.Option("--leave-last-out", help="Predict each user's last rating from all others."),
    ] = False,
    dim: Dim = None,
    regularization: Regularization = None,
    as_json: AsJson = False,
) -> None:
    """How far predicted ratings are from those given, beside the mean of all; writes nothing.

    By 5-fold cross-validation: each rating is predicted once, by a model that has not seen it.
    Each value stands above its 95 % bootstrap interval over users. Settings that are chosen by
    such a value make it a little too good.

      recsys ratings evaluate ./films
      recsys ratings evaluate ./films --dim 64 --leave-last-out
    """
    from recsys.data.dataset import Dataset
    from recsys.data.ratings import Ratings
    from recsys.evaluation import ratings as protocols
    from recsys.evaluation.report import table

    config = _config(dim, regularization, None)
    dataset = Dataset.load(data)
    ratings = Ratings.of_dataset(dataset)
    predictors = {
        "mean of all": protocols.mean_of_all,
        config.kind: _fitted(config, len(dataset.items)),
    }
    with bar("Measuring") as progress:
        cross_validate = partial(protocols.cross_validate, progress=progress)
        measure = protocols.leave_last_out if leave_last_out else cross_validate
        reports = {name: measure(predict, ratings) for name, predict in predictors.items()}
    if as_json:
        print_json({name: report.to_dict() for name, report in reports.items()})
    else:
        out.print(table(reports))


def _config(dim: int | None, regularization: float | None, seed: int | None) -> BiasedMfConfig:
    """The defaults, but for what was typed."""
    from recsys.models.biased_mf import BiasedMfConfig

    typed = {"dim": dim, "regularization": regularization, "seed": seed}
    with typed_as(**{field: f"--{field}" for field in typed}):
        return BiasedMfConfig.model_validate(
            {field: value for field, value in typed.items() if value is not None}
        )


def _fitted(config: BiasedMfConfig, n_items: int) -> Predictor:
    """Fits a model to what is known and asks it."""
    from recsys.models.biased_mf import BiasedMf

    return lambda known, asked: BiasedMf.fit(config, known, n_items).predict(known, asked)


def _of_user(
    user: str, dataset: Dataset, bundle: RatingBundle
) -> tuple[Ratings, NDArray[np.int64]]:
    """What the user rated, and the rows of the available items that the user did not; both in the
    bundle's rows, so without items that it does not know."""
    from recsys.data.histories import Histories
    from recsys.data.ratings import Ratings
    from recsys.data.vocabulary import UNKNOWN

    (number,) = dataset.users.rows([user]).tolist()
    if number == UNKNOWN:
        raise RecsysError(
            f"{dataset.path} has no user {user!r}: give a user_id of its events, or import data "
            "with some of that user's ratings"
        )
    row_of = bundle.items.rows(dataset.items.to_arrow())
    ratings = Ratings.known(dataset).slice(number, number + 1)
    rows = row_of[ratings.histories.items]
    known = rows != UNKNOWN
    if not known.all():
        err.print(
            f"[yellow]note:[/] {np.sum(~known)} of the user's ratings are left out: the model was "
            "trained before there were those items"
        )
    rated = Ratings(Histories.of([rows[known]]), ratings.values[known])
    available = row_of[dataset.catalogue["available"].to_numpy()]
    return rated, np.setdiff1d(available, [UNKNOWN, *rated.histories.items])


def _rows(items: list[str], bundle: RatingBundle) -> NDArray[np.int64]:
    from recsys.data.vocabulary import UNKNOWN

    rows = bundle.items.rows(items)
    if UNKNOWN in rows:
        unknown = ", ".join(
            repr(item) for item, row in zip(items, rows, strict=True) if row == UNKNOWN
        )
        raise RecsysError(
            f"{bundle.folder} knows no item {unknown}: give an item_id of its items.parquet, or "
            "train again on data that have it"
        )
    return rows


def _print_predictions(rows: list[dict[str, Any]]) -> None:
    with_rated = any(row["rated"] is not None for row in rows)
    table = Table(box=box.SIMPLE)
    table.add_column("title")
    table.add_column("item")
    table.add_column("predicted", justify="right")
    if with_rated:
        table.add_column("rated", justify="right")
    for row in rows:
        rated = "" if row["rated"] is None else f"{row['rated']:g}"
        cells = (escape(row["title"]), escape(row["item_id"]), f"{row['predicted']:.2f}")
        table.add_row(*cells, *([rated] if with_rated else []))
    out.print(table)
