"""A rating bundle opens as it was sealed, or is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from recsys.bundle import Bundle
from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.evaluation.report import Estimate, Report
from recsys.models.biased_mf import BiasedMf, BiasedMfConfig
from recsys.rating_bundle import FILES, RatingBundle, seal
from recsys.registry import Registry
from recsys.sealed_folder import BundleRefused, SealedManifest, sealed_files, write_manifest

N_ITEMS = 6
CATALOGUE = pa.table(
    {
        "item_id": [f"i{row}" for row in range(N_ITEMS)],
        "title": [f"Item {row}" for row in range(N_ITEMS)],
        "available": [True] * N_ITEMS,
    }
)
REPORT = Report(
    metrics={"rmse": Estimate(value=0.9, low=0.8, high=1.0)},
    protocol={"split": "a", "users": 9, "ratings": 99},
)


@pytest.fixture(scope="module")
def model() -> BiasedMf:
    random = np.random.default_rng(0)
    rated = Ratings.of(
        [[(item, random.uniform(1, 5)) for item in random.permutation(6)[:4]] for _ in range(20)]
    )
    return BiasedMf.fit(BiasedMfConfig(dim=2, seed=3), rated, N_ITEMS)


def sealed_at(folder: Path, model: BiasedMf) -> SealedManifest:
    return seal(
        folder,
        model=model,
        catalogue=CATALOGUE,
        data_fingerprint="data",
        metrics=[REPORT],
        cost={"wall_s": 1.5},
    )


@pytest.fixture
def sealed(model: BiasedMf, tmp_path: Path) -> Path:
    folder = tmp_path / "ratings"
    sealed_at(folder, model)
    return folder


def refusal(folder: Path) -> BundleRefused:
    with pytest.raises(BundleRefused) as caught:
        RatingBundle.open(folder)
    assert str(folder) in caught.value.message
    return caught.value


def test_seal_then_open_is_the_identity(model: BiasedMf, tmp_path: Path) -> None:
    manifest = sealed_at(tmp_path / "ratings", model)
    bundle = RatingBundle.open(tmp_path / "ratings")
    assert bundle.manifest == manifest
    assert bundle.model.config == model.config
    assert bundle.items.to_arrow().to_pylist() == CATALOGUE["item_id"].to_pylist()
    assert bundle.titles == CATALOGUE["title"].to_pylist()
    rated, asked = Ratings.of([[(0, 5.0), (3, 1.0)], []]), Histories.of([range(N_ITEMS)] * 2)
    assert (bundle.model.predict(rated, asked) == model.predict(rated, asked)).all()


def test_the_manifest_says_where_the_bundle_comes_from(sealed: Path) -> None:
    manifest = RatingBundle.open(sealed).manifest
    assert (manifest.kind, manifest.data_fingerprint) == ("biased_mf", "data")
    assert (manifest.metrics, manifest.cost) == ([REPORT], {"wall_s": 1.5})
    assert sorted(manifest.files) == sorted(FILES)


def test_all_of_it_may_be_read_by_whoever_may_read_one_file(sealed: Path) -> None:
    assert len({path.stat().st_mode for path in sealed.iterdir()}) == 1


def test_it_is_never_sealed_over_another(sealed: Path, model: BiasedMf) -> None:
    before = (sealed / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError):
        sealed_at(sealed, model)
    assert (sealed / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("file", FILES)
def test_one_altered_bit_is_refused_by_name(sealed: Path, file: str) -> None:
    content = bytearray((sealed / file).read_bytes())
    content[len(content) // 2] ^= 1
    (sealed / file).write_bytes(content)
    assert refusal(sealed).file == file


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_refused_by_name(sealed: Path, file: str) -> None:
    os.truncate(sealed / file, 10)
    assert refusal(sealed).file == file


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(sealed: Path, file: str) -> None:
    (sealed / file).unlink()
    assert refusal(sealed).file == file


def test_an_altered_manifest_is_refused(sealed: Path) -> None:
    path = sealed / "manifest.json"
    path.write_text(path.read_text().replace("0.9,", "0.1,"))
    assert refusal(sealed).reason == "was altered: its seal does not match"


def test_a_file_that_is_not_listed_is_refused(sealed: Path) -> None:
    (sealed / "model.pkl").write_bytes(b"")
    assert refusal(sealed).file == "model.pkl"


def test_a_bundle_that_recommends_and_one_of_ratings_are_not_taken_for_each_other(
    sealed: Path, registry: Registry
) -> None:
    assert "'ials', which is none of biased_mf" in refusal(registry.path("ials", "v0001")).reason
    with pytest.raises(BundleRefused, match="'biased_mf', which is none of popularity, ials"):
        Bundle.open(sealed)


def reseal(folder: Path, manifest: SealedManifest) -> None:
    """List the files as they are now, as a forger would."""
    files = sealed_files(folder, FILES)
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def test_model_and_items_of_different_sizes_are_neither_sealed_nor_opened(
    sealed: Path, model: BiasedMf, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="the model knows 6 items, the catalogue 2"):
        seal(
            tmp_path / "other",
            model=model,
            catalogue=CATALOGUE.slice(0, 2),
            data_fingerprint="",
            metrics=[],
            cost={},
        )
    assert not (tmp_path / "other").exists()
    manifest = RatingBundle.open(sealed).manifest
    pq.write_table(CATALOGUE.slice(0, 2), sealed / "items.parquet")
    reseal(sealed, manifest)
    assert refusal(sealed).reason == "the model knows 6 items, items.parquet lists 2"


def test_weights_that_do_not_fit_the_config_are_refused(sealed: Path, model: BiasedMf) -> None:
    manifest = RatingBundle.open(sealed).manifest
    tensors = dict(model.tensors()) | {"item_vectors": np.zeros((N_ITEMS, 3), np.float32)}
    save_file(tensors, sealed / "weights.safetensors")
    reseal(sealed, manifest)
    error = refusal(sealed)
    assert (error.file, "item_vectors has shape" in error.reason) == ("weights.safetensors", True)
