"""Publishing: what a fit gave becomes a version that says where it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.errors import RecsysError
from recsys.data.dataset import Dataset
from recsys.data.split import split_dataset
from recsys.models.ials import IalsConfig
from recsys.publish import publish, reindex
from recsys.registry import Registry
from recsys.retrieval.index import Index
from recsys.training.fit import FitResult, fit
from tests.bazaar import bazaar, stock


@pytest.fixture(scope="module")
def fitted(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return fit(IalsConfig(dim=8), ring, run_dir=tmp_path_factory.mktemp("run"), workers=0, epochs=2)


def test_a_published_version_tells_its_data_cost_measure_and_parent(
    ring: Path, fitted: FitResult, tmp_path: Path
) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path)
    split = split_dataset(dataset, "leave_one_out")
    first = publish(registry, "ials", dataset, split, fitted)
    assert registry.active("ials") is None
    registry.activate("ials", first.version)
    second = registry.open(f"ials@{publish(registry, 'ials', dataset, split, fitted).version}")
    manifest = second.manifest
    assert manifest.data_fingerprint == dataset.fingerprint
    assert manifest.cost == fitted.cost
    assert manifest.metrics == [first.test]
    assert manifest.parent == first.version
    assert manifest.started_from is None
    np.testing.assert_array_equal(second.popularity.sum(), len(split.train.items))


def test_a_version_tells_the_fitted_model_that_its_training_began_from(
    ring: Path, fitted: FitResult, tmp_path: Path
) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path)
    warm = replace(fitted, start="ials v0001")
    split = split_dataset(dataset, "leave_one_out")
    version = publish(registry, "ials", dataset, split, warm).version
    assert registry.open(f"ials@{version}").manifest.started_from == "ials v0001"


def test_a_version_that_learnt_the_validation_part_says_so_and_counts_it(
    ring: Path, fitted: FitResult, tmp_path: Path
) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path)
    split = split_dataset(dataset, "leave_one_out")
    version = publish(registry, "ials", dataset, split, replace(fitted, learnt_validation=True))
    bundle = registry.open(f"ials@{version.version}")
    assert version.test.protocol["learnt"] == "train and validation"
    assert bundle.popularity.sum() == len(split.before_test.items)


def test_a_model_of_other_data_is_not_published(
    ring: Path, fitted: FitResult, tmp_path: Path
) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path)
    elsewhere = replace(fitted, data="of other data")
    with pytest.raises(RecsysError, match="is not the data that ials was fitted to"):
        publish(registry, "ials", dataset, split_dataset(dataset, "leave_one_out"), elsewhere)
    assert registry.versions("ials") == []


def test_an_index_made_anew_is_another_version_of_the_same_model(
    ring: Path, fitted: FitResult, tmp_path: Path
) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path)
    split = split_dataset(dataset, "leave_one_out")
    registry.activate("ials", publish(registry, "ials", dataset, split, fitted).version)
    version, index = reindex(registry, "ials", None, recall=0.9, exact_below=10)
    before, after = registry.open("ials"), registry.open(f"ials@{version}")
    assert before.version != version
    assert after.manifest.parent == before.version
    assert after.manifest.index == index.description
    np.testing.assert_array_equal(after.model.item_vectors, before.model.item_vectors)


def test_indexing_anew_takes_the_kind_that_is_asked_for(
    ring: Path, fitted: FitResult, tmp_path: Path
) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path)
    split = split_dataset(dataset, "leave_one_out")
    registry.activate("ials", publish(registry, "ials", dataset, split, fitted).version)
    _, index = reindex(registry, "ials", None, recall=0.9, exact_below=10, kind="exact")
    assert (index.description["type"], index.description["kind"]) == ("exact", "exact")


def test_an_index_made_anew_keeps_its_promise_to_histories(tmp_path: Path) -> None:
    dataset, registry = bazaar(tmp_path / "data"), Registry(tmp_path / "models")
    stock(registry, dataset)
    version, made = reindex(registry, "ials", dataset, recall=0.9, exact_below=10, kind="ivf_sq8")
    assert made.description["measured_with"] == "600 given queries"
    bundle = registry.open(f"ials@{version}")
    queries = bundle.model.query_vectors(split_dataset(dataset, "leave_one_out").test.histories)
    tenth = np.sort(queries @ bundle.vectors.T, axis=1)[:, -10, None]
    assert np.mean(bundle.index.search(queries, 10)[0] >= tenth - 1e-5) >= 0.88


def test_an_index_made_anew_without_histories_says_what_its_recall_is_of(tmp_path: Path) -> None:
    dataset, registry = bazaar(tmp_path / "data"), Registry(tmp_path / "models")
    stock(registry, dataset)
    _, made = reindex(registry, "ials", None, recall=0.9, exact_below=10, kind="ivf_sq8")
    said = "1000 vectors of the index, which find themselves"
    assert made.description["measured_with"] == said


def test_an_index_is_not_measured_with_the_histories_of_other_data(
    ring: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "models")
    stock(registry, bazaar(tmp_path / "data"))
    with pytest.raises(RecsysError, match="is not the data that ials v0001 was fitted to"):
        reindex(registry, "ials", Dataset.load(ring), recall=0.9, exact_below=10)


def test_an_index_of_items_that_nobody_touched_is_exact_and_says_why() -> None:
    index = Index.build(np.zeros((200, 4), np.float32), exact_below=100)
    assert index.description["type"] == "exact"
    assert "recall" in index.description["why"]
    index = Index.build(np.eye(200, 4, dtype=np.float32), exact_below=100)
    assert index.search(np.ones((1, 4), np.float32), 3)[1].shape == (1, 3)
