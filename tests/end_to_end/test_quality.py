"""What each kind must reach on real films (MovieLens 100K), fitted as `recsys train` fits it.

Leave one out, full ranking, seen items masked. The floors are a tenth or so below what each reached
in benchmarks/RESULTS.md: less than that is no chance, but something broken.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.dataset import Dataset
from recsys.data.readers import import_dataset
from recsys.data.split import split_dataset
from recsys.evaluation.protocol import evaluate
from recsys.models.catalog import kind_of
from recsys.models.presets import PRESETS
from recsys.training.fit import fit


@pytest.fixture(scope="module")
def films(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "films"
    import_dataset(shared_data / "ml-100k", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "preset", "ndcg"),
    [("ials", None, 0.095), ("gru4rec", None, 0.11), ("sasrec", "long-histories", 0.093)],
)
def test_a_kind_reaches_on_films_what_it_did(
    films: Path, tmp_path: Path, kind: str, preset: str | None, ndcg: float
) -> None:
    config = kind_of(kind).config.model_validate(PRESETS[kind][preset] if preset else {})
    fitted = fit(config, films, run_dir=tmp_path, workers=0)
    dataset = Dataset.load(films)
    split = split_dataset(dataset, "leave_one_out")
    popularity = split.popularity(len(dataset.items), validation_learnt=False)
    report = evaluate(fitted.model, split.test, protocol=split.protocol, popularity=popularity)
    assert report.metrics["ndcg@10"].value > ndcg
