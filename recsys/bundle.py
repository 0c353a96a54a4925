"""Bundle: all that a model needs to serve, sealed in one folder that never changes again.

    manifest.json         what it is, where it comes from, how it measured, the sha256 of every file
    config.json           the model's hyper-parameters
    weights.safetensors   the model's tensors
    items.parquet         the catalogue, row i = item i, and how often each item was touched
    vectors/<kind>.npy    Float32[N, D], the item vectors
    index/<kind>.faiss    the index over them

No file is a pickle, and none is read before its checksum is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.storage import atomic_folder
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.evaluation.protocol import Learnt
from recsys.evaluation.report import Report
from recsys.models.catalog import KINDS, kind_of
from recsys.models.model import Model
from recsys.retrieval.index import Index
from recsys.sealed_folder import (
    CONFIG,
    ITEMS,
    WEIGHTS,
    BundleRefused,
    SealedManifest,
    check_files,
    read_items,
    read_manifest,
    read_model,
    sealed_files,
    write_items,
    write_manifest,
    write_model,
)

COUNT = "count"
"""The column of items.parquet that the catalogue does not have."""

COLUMNS = {"item_id": pa.string(), "title": pa.string(), COUNT: pa.int64()}
"""What items.parquet must have."""


class Manifest(SealedManifest):
    """What a bundle says of itself. The kind of its model is also the name of its space."""

    parent: str | None
    """The version that it came after."""

    started_from: str | None
    """The fitted model that its training began from; None for one that began from nothing."""

    refit_of: str | None = None
    """The version that it is a refit of: that one's validation chose the epochs, and this one was
    fitted for as many to the validation part too. None for any other."""

    index: dict[str, Any]
    """The index's type and parameters, and the recall that was measured."""

    @property
    def learnt(self) -> Learnt:
        """The parts of the split that the model was fitted to, as it was measured."""
        stated = {report.protocol.get("learnt") for report in self.metrics}
        return "train and validation" if "train and validation" in stated else "train"

    @property
    def split(self) -> str | None:
        """How the events were split for the fit, as it was measured; None if it was not."""
        stated = [report.protocol.get("split") for report in self.metrics]
        return str(stated[0]) if stated else None


def seal(
    folder: Path,
    *,
    model: Model,
    catalogue: pa.Table,
    popularity: NDArray[np.int64],
    index: Index,
    data_fingerprint: str,
    metrics: Sequence[Report],
    cost: Mapping[str, Any],
    parent: str | None = None,
    started_from: str | None = None,
    refit_of: str | None = None,
) -> Manifest:
    """Write a bundle to `folder`, which must not exist yet; it appears whole or not at all.

    catalogue: row i = item i, with the columns `item_id` and `title` at least.
    popularity: Int64[N], how often each item stands in the training histories.
    Raises ValueError where model, catalogue, popularity and index are not of the same items.
    """
    kind, vectors = type(model.config).kind, model.item_vectors
    sizes = {
        "model": len(vectors),
        "catalogue": len(catalogue),
        "popularity": len(popularity),
        "index": len(index),
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the parts of a bundle must be of the same items, but hold {sizes}")
    if not np.array_equal(index.vectors, vectors):
        raise ValueError("the index must be over the model's item vectors, and is not")
    items = catalogue.append_column(COUNT, pa.array(popularity, pa.int64()))
    with atomic_folder(folder) as draft:
        (draft / "vectors").mkdir()
        (draft / "index").mkdir()
        write_model(draft, model)
        write_items(draft, items)
        np.save(draft / _vectors_path(kind), vectors, allow_pickle=False)
        index.save(draft / _index_path(kind))
        manifest = Manifest(
            kind=kind,
            created=datetime.now(UTC),
            code_version=package_version("recsys"),
            data_fingerprint=data_fingerprint,
            parent=parent,
            started_from=started_from,
            refit_of=refit_of,
            metrics=list(metrics),
            cost=dict(cost),
            index=index.description,
            files=sealed_files(draft, _expected(kind)),
        )
        write_manifest(draft, manifest)
    return manifest


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle. Vectors and index are mapped: opened twice on a machine, held once."""

    folder: Path
    manifest: Manifest
    model: Model
    index: Index
    items: Vocabulary
    catalogue: pa.Table
    """Row i = item i; the columns of the dataset's catalogue."""

    popularity: NDArray[np.int64]
    """Int64[N], how often each item stands in the training histories."""

    vectors: NDArray[np.float32]
    """Float32[N, D], read-only."""

    @property
    def name(self) -> str:
        """In a registry, the name that it is kept under."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """In a registry, its version."""
        return self.folder.name

    def never_learnt(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Bool[n]: which of the items stand in no training history, be they in its catalogue or
        not; what vector the model has of such a one says nothing of it."""
        rows = self.items.rows(ids)
        new: NDArray[np.bool_] = (rows == UNKNOWN) | (self.popularity[rows] == 0)
        return new

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> Bundle:
        """The bundle in `folder`.

        verify: read every file once more for its checksum; leave it out only where that was done
        and the folder could not be written to since.
        Raises BundleRefused naming the folder, the file and the reason.
        """
        folder = Path(folder).absolute()
        manifest = read_manifest(folder, Manifest, tuple(KINDS))
        kind = kind_of(manifest.kind)
        check_files(folder, manifest, _expected(manifest.kind), verify)
        model = read_model(folder, kind.config, kind.model)
        items, catalogue = read_items(folder, COLUMNS)
        vectors = _read_vectors(folder, manifest.kind)
        index = _read_index(folder, manifest)
        n, shape = len(items), model.item_vectors.shape
        if shape[0] != n:
            raise BundleRefused(
                folder, WEIGHTS, f"the model knows {shape[0]} items, {ITEMS} lists {n}"
            )
        if vectors.shape != shape:
            raise BundleRefused(
                folder,
                _vectors_path(manifest.kind),
                f"has the shape {list(vectors.shape)}, the model's vectors {list(shape)}",
            )
        if (len(index), index.dimension) != shape:
            raise BundleRefused(
                folder,
                _index_path(manifest.kind),
                f"is over {len(index)} vectors of dimension {index.dimension}, "
                f"the model's are {list(shape)}",
            )
        return cls(
            folder=folder,
            manifest=manifest,
            model=model,
            index=index,
            items=items,
            catalogue=catalogue.drop_columns([COUNT]),
            popularity=catalogue[COUNT].to_numpy(),
            vectors=vectors,
        )


def _vectors_path(kind: str) -> str:
    return f"vectors/{kind}.npy"


def _index_path(kind: str) -> str:
    return f"index/{kind}.faiss"


def _expected(kind: str) -> set[str]:
    return {CONFIG, WEIGHTS, ITEMS, _vectors_path(kind), _index_path(kind)}


def _read_vectors(folder: Path, kind: str) -> NDArray[np.float32]:
    path = _vectors_path(kind)
    try:
        vectors = np.load(folder / path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BundleRefused(folder, path, str(error)) from None
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise BundleRefused(folder, path, f"is {vectors.dtype}{list(vectors.shape)}")
    loaded: NDArray[np.float32] = vectors
    return loaded


def _read_index(folder: Path, manifest: Manifest) -> Index:
    path = _index_path(manifest.kind)
    try:
        return Index.load(folder / path, manifest.index)
    except (ValueError, KeyError) as error:
        raise BundleRefused(folder, path, str(error)) from None
