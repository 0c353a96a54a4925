"""A bundle opens as it was sealed, or is refused by name."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.bundle import Bundle, seal
from recsys.data.histories import Histories
from recsys.evaluation.report import Estimate, Report
from recsys.models.catalog import KINDS
from recsys.models.model import Alone, Model
from recsys.retrieval.index import Index
from recsys.sealed_folder import BundleRefused

N_ITEMS = 40
REPORT = Report(
    metrics={"ndcg@10": Estimate(value=0.1, low=0.05, high=0.15)},
    protocol={"split": "a", "users": 9},
)
FILES = ["config.json", "index/{}.faiss", "items.parquet", "vectors/{}.npy", "weights.safetensors"]

Seal = Callable[[Path], object]


def fitted(kind: str) -> Model:
    random = np.random.default_rng(0)
    histories = Histories.of([random.choice(N_ITEMS, 12, replace=False) for _ in range(60)])
    config = KINDS[kind].config()
    fit = KINDS[kind].fit(config, histories, N_ITEMS, Alone(), torch.device("cpu"))
    fit.run_epoch(0)
    return fit.model()


def sealer(model: Model) -> Seal:
    catalogue = pa.table(
        {
            "item_id": [f"i{row}" for row in range(N_ITEMS)],
            "title": [f"Item {row}" for row in range(N_ITEMS)],
            "tags": pa.array([["even"] if row % 2 == 0 else [] for row in range(N_ITEMS)]),
        }
    )
    return lambda folder: seal(
        folder,
        model=model,
        catalogue=catalogue,
        popularity=np.arange(N_ITEMS),
        index=Index.build(model.item_vectors),
        data_fingerprint="data",
        metrics=[REPORT],
        cost={"seconds": 1.5},
        parent="v0001",
    )


@pytest.fixture(scope="module")
def seal_popularity() -> Seal:
    return sealer(fitted("popularity"))


@pytest.fixture
def sealed(seal_popularity: Seal, tmp_path: Path) -> Path:
    folder = tmp_path / "popularity" / "v0002"
    seal_popularity(folder)
    return folder


def refusal(folder: Path, verify: bool = True) -> BundleRefused:
    with pytest.raises(BundleRefused) as caught:
        Bundle.open(folder, verify)
    assert str(folder) in caught.value.message
    return caught.value


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and seal it again, as a forger or another release would."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    del document["seal"]
    change(document)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["seal"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document))


def replace(folder: Path, file: str, write: Callable[[Path], object]) -> None:
    """Put another file in place of a sealed one, and list its size and checksum."""
    path = folder / file
    path.unlink()
    write(path)
    listed = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    rewrite_manifest(folder, lambda document: document["files"].update({file: listed}))


@pytest.mark.parametrize("kind", KINDS)
def test_seal_then_open_is_the_identity_for_every_kind_of_model(kind: str, tmp_path: Path) -> None:
    model = fitted(kind)
    folder = tmp_path / kind / "v0007"
    manifest = sealer(model)(folder)
    bundle = Bundle.open(folder)
    assert bundle.manifest == manifest
    assert (bundle.name, bundle.version) == (kind, "v0007")
    assert bundle.model.config == model.config
    assert bundle.items.to_arrow().to_pylist() == [f"i{row}" for row in range(N_ITEMS)]
    assert bundle.catalogue.column_names == ["item_id", "title", "tags"]
    np.testing.assert_array_equal(bundle.popularity, np.arange(N_ITEMS))
    histories = Histories.of([[3, 1], [], [5]])
    np.testing.assert_array_equal(bundle.model.item_vectors, model.item_vectors)
    np.testing.assert_array_equal(bundle.vectors, model.item_vectors)
    np.testing.assert_array_equal(bundle.index.vectors, model.item_vectors)
    np.testing.assert_array_equal(
        bundle.model.query_vectors(histories), model.query_vectors(histories)
    )


def test_the_manifest_says_where_the_bundle_comes_from(sealed: Path) -> None:
    manifest = Bundle.open(sealed).manifest
    assert manifest.kind == "popularity"
    assert (manifest.data_fingerprint, manifest.parent) == ("data", "v0001")
    assert manifest.metrics == [REPORT]
    assert manifest.cost == {"seconds": 1.5}
    asked = {"promised": 0.95, "exact_below": 100_000, "kind": "auto"}
    assert manifest.index == {"type": "exact", "n": N_ITEMS, "d": 1} | asked
    assert sorted(manifest.files) == [file.format("popularity") for file in FILES]


def test_a_bundle_holds_no_pickle(sealed: Path) -> None:
    suffixes = {path.suffix for path in sealed.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".parquet", ".npy", ".faiss"}


def test_a_bundle_is_never_sealed_over_another(sealed: Path, seal_popularity: Seal) -> None:
    before = (sealed / "manifest.json").read_bytes()
    with pytest.raises(Exception, match="v0002"):
        seal_popularity(sealed)
    assert (sealed / "manifest.json").read_bytes() == before


def test_parts_of_different_items_are_not_sealed(tmp_path: Path) -> None:
    model = fitted("popularity")
    parts: dict[str, Any] = {
        "model": model,
        "catalogue": pa.table({"item_id": ["a"], "title": ["A"]}),
        "popularity": np.arange(N_ITEMS),
        "index": Index.build(model.item_vectors),
        "data_fingerprint": "",
        "metrics": [],
        "cost": {},
    }
    with pytest.raises(ValueError, match="'catalogue': 1"):
        seal(tmp_path / "a", **parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_refused_by_name(sealed: Path, file: str) -> None:
    path = sealed / file.format("popularity")
    os.truncate(path, path.stat().st_size - 1)
    error = refusal(sealed, verify=False)
    assert error.file == file.format("popularity")
    assert "truncated" in error.reason


@pytest.mark.parametrize("file", FILES)
def test_one_altered_bit_is_refused_by_name(sealed: Path, file: str) -> None:
    path = sealed / file.format("popularity")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    error = refusal(sealed)
    assert error.file == file.format("popularity")
    assert "altered" in error.reason


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(sealed: Path, file: str) -> None:
    (sealed / file.format("popularity")).unlink()
    assert refusal(sealed).file == file.format("popularity")


def test_a_file_that_is_not_listed_is_refused(sealed: Path) -> None:
    (sealed / "vectors" / "extra.pkl").write_bytes(b"")
    assert refusal(sealed).file == "vectors/extra.pkl"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none").reason


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"[" * 100_000, b"{}", b'{"format_version": 3}']
)
def test_a_manifest_that_cannot_be_read_is_refused(sealed: Path, content: bytes) -> None:
    (sealed / "manifest.json").write_bytes(content)
    assert refusal(sealed).file == "manifest.json"


def test_an_altered_manifest_is_refused(sealed: Path) -> None:
    path = sealed / "manifest.json"
    path.write_text(path.read_text().replace("0.1,", "0.9,"))
    assert refusal(sealed).reason == "was altered: its seal does not match"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format_version=1), "format version 1"),
        (lambda d: d.update(kind="oracle"), "'oracle'"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.pop("files"), "files"),
        (lambda d: d["files"].update({"../../secret": d["files"]["config.json"]}), "../../secret"),
        (lambda d: d["files"].update({"/etc/passwd": d["files"]["config.json"]}), "/etc/passwd"),
        (lambda d: d["files"].pop("config.json"), "is not listed"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    sealed: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    rewrite_manifest(sealed, change)
    assert reason in refusal(sealed).message


def test_a_link_out_of_the_folder_is_refused(sealed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "config.json"
    (sealed / "config.json").rename(moved)
    (sealed / "config.json").symlink_to(moved)
    error = refusal(sealed)
    assert (error.file, "is a link" in error.reason) == ("config.json", True)


def test_a_linked_folder_is_refused(sealed: Path, tmp_path: Path) -> None:
    (sealed / "vectors").rename(tmp_path / "vectors")
    (sealed / "vectors").symlink_to(tmp_path / "vectors")
    assert refusal(sealed).file == "vectors"


def test_vectors_of_another_shape_are_refused(sealed: Path) -> None:
    file = "vectors/popularity.npy"
    replace(sealed, file, lambda path: np.save(path, np.zeros((N_ITEMS, 2), np.float32)))
    assert refusal(sealed).file == file


def test_pickled_vectors_are_refused(sealed: Path) -> None:
    file = "vectors/popularity.npy"
    replace(sealed, file, lambda path: np.save(path, np.array([{}], object), allow_pickle=True))
    assert refusal(sealed).file == file


def test_weights_of_another_model_are_refused(sealed: Path) -> None:
    replace(sealed, "weights.safetensors", lambda path: path.write_bytes(b"\0" * 64))
    assert refusal(sealed).file == "weights.safetensors"


def test_an_index_over_other_vectors_is_refused(sealed: Path) -> None:
    file = "index/popularity.faiss"
    replace(sealed, file, Index.build(np.ones((N_ITEMS - 1, 1), np.float32)).save)
    assert refusal(sealed).file == file


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({"item_id": ["a"], "title": ["A"], "count": [1]}, "knows 40 items"),
        ({"item_id": ["a"] * 40, "title": ["A"] * 40, "count": [1] * 40}, "stands twice"),
        ({"item_id": ["a"] * 40, "title": ["A"] * 40}, "'count'"),
        ({"item_id": [1] * 40, "title": ["A"] * 40, "count": [1] * 40}, "int64"),
        ({"item_id": ["a"] * 40, "title": [None, *"A" * 39], "count": [1] * 40}, "null"),
    ],
)
def test_items_that_do_not_fit_are_refused(
    sealed: Path, items: dict[str, list[Any]], reason: str
) -> None:
    replace(sealed, "items.parquet", lambda path: pq.write_table(pa.table(items), path))
    assert reason in refusal(sealed).reason


def test_a_config_that_does_not_fit_is_refused(sealed: Path) -> None:
    replace(sealed, "config.json", lambda path: path.write_text('{"depth": 3}'))
    assert refusal(sealed).file == "config.json"
