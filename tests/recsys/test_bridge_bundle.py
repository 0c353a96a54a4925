"""A bridge bundle opens as it was sealed, or is refused by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from recsys.bridge_bundle import BridgeBundle, BridgeManifest, Part, seal_bridge
from recsys.evaluation.report import Estimate, Report
from recsys.registry import Bridges, Registry
from recsys.retrieval.bridge import Bridge, Fitted
from recsys.sealed_folder import BundleRefused, sealed_files, write_manifest

REPORT = Report(metrics={"recall@10": Estimate(value=0.25, low=0.2, high=0.3)}, protocol={})
PARTS = [Part(space="text", fingerprint="t", dim=3), Part(space="image", fingerprint="i", dim=2)]
FILES = ["weights.safetensors", "manifest.json"]


@pytest.fixture
def fitted() -> Fitted:
    rng = np.random.default_rng(0)
    weights, intercept = rng.normal(size=(5, 4)), rng.normal(size=4)
    bridge = Bridge(weights.astype(np.float32), intercept.astype(np.float32))
    left_out = np.zeros((7, 4), np.float32)
    return Fitted(bridge, left_out, ridge=10.0, offset=0.5, explained=0.3)


def sealed_at(
    folder: Path, fitted: Fitted, parts: list[Part] = PARTS, tags: Sequence[str] = ()
) -> BridgeManifest:
    return seal_bridge(
        folder,
        fitted=fitted,
        model="ials",
        model_version="v0003",
        parts=parts,
        tags=tags,
        learnt_items=7,
        data_fingerprint="data",
        metrics=[REPORT],
        cost={"wall_s": 1.5},
    )


@pytest.fixture
def sealed(fitted: Fitted, tmp_path: Path) -> Path:
    sealed_at(tmp_path / "bridge", fitted)
    return tmp_path / "bridge"


def tags_of(tags: list[list[str] | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(tags, pa.list_(pa.string()))])


def refusal(folder: Path) -> BundleRefused:
    with pytest.raises(BundleRefused) as caught:
        BridgeBundle.open(folder)
    assert str(folder) in caught.value.message
    return caught.value


def test_seal_then_open_is_the_identity(fitted: Fitted, tmp_path: Path) -> None:
    manifest = sealed_at(tmp_path / "bridge", fitted)
    bundle = BridgeBundle.open(tmp_path / "bridge")
    assert bundle.manifest == manifest == BridgeBundle.manifest_of(tmp_path / "bridge")
    content = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    mapped = bundle.map([content[:, :3], content[:, 3:]], tags_of([None] * 6))
    np.testing.assert_array_equal(mapped, fitted.bridge.map(content))


def test_tags_come_behind_the_vectors_and_unknown_ones_are_ignored(
    fitted: Fitted, tmp_path: Path
) -> None:
    sealed_at(tmp_path / "bridge", fitted, PARTS[:1], ["drama", "western"])
    bundle = BridgeBundle.open(tmp_path / "bridge")
    vectors = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    mapped = bundle.map([vectors], tags_of([["western"], None, ["sequel", "drama"], []]))
    columns = np.array([[0, 1], [0, 0], [1, 0], [0, 0]], np.float32)
    np.testing.assert_array_equal(mapped, fitted.bridge.map(np.hstack([vectors, columns])))


def test_it_says_what_it_is_from(fitted: Fitted, tmp_path: Path) -> None:
    assert sealed_at(tmp_path / "without", fitted).content == "text + image"
    manifest = sealed_at(tmp_path / "with", fitted, PARTS[:1], ["drama", "western"])
    assert manifest.content == "text + 2 tags"


def test_it_says_what_it_maps_from_and_to(sealed: Path) -> None:
    bundle = BridgeBundle.open(sealed)
    assert list(bundle.fingerprints.items()) == [("text", "t"), ("image", "i")]
    assert (bundle.manifest.model, bundle.manifest.model_version) == ("ials", "v0003")
    assert bundle.manifest.metrics == [REPORT]


def test_all_of_it_may_be_read_by_whoever_may_read_one_file(sealed: Path) -> None:
    assert len({path.stat().st_mode for path in sealed.iterdir()}) == 1


def test_parts_of_other_dimensions_are_not_sealed(fitted: Fitted, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes 5 numbers, the parts have \[3\] and 1 tags"):
        sealed_at(tmp_path / "bridge", fitted, PARTS[:1], ["drama"])
    assert not (tmp_path / "bridge").exists()


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


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_by_name(sealed: Path, file: str) -> None:
    (sealed / file).unlink()
    assert refusal(sealed).file == file


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": np.zeros((4, 4), np.float32), "intercept": np.zeros(4, np.float32)},
        {"weights": np.zeros((5, 4), np.float32), "intercept": np.zeros(3, np.float32)},
        {"weights": np.zeros((5, 4), np.float32)},
    ],
)
def test_weights_that_do_not_fit_the_parts_are_refused(
    sealed: Path, tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> None:
    manifest = BridgeBundle.manifest_of(sealed)
    save_file(tensors, sealed / "weights.safetensors")
    files = sealed_files(sealed, ["weights.safetensors"])
    write_manifest(sealed, manifest.model_copy(update={"files": files}))
    assert "no bridge from 5 numbers" in refusal(sealed).reason


def test_a_model_is_not_taken_for_a_bridge(registry: Registry) -> None:
    assert "'ials', which is none of bridge" in refusal(registry.path("ials", "v0001")).reason


def test_a_registry_of_bridges_adds_activates_and_opens(fitted: Fitted, tmp_path: Path) -> None:
    bridges = Bridges(tmp_path)
    version = bridges.add("ials", lambda folder: sealed_at(folder, fitted))
    bridges.activate("ials", version)
    bundle = bridges.open("ials")
    assert (bundle.name, bundle.version) == ("ials", "v0001")
    assert bridges.manifest("ials", version) == bundle.manifest
