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

import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from infra.errors import RecsysError
from infra.storage import atomic_folder, sha256
from recsys.data.vocabulary import Vocabulary
from recsys.evaluation.protocol import Learnt
from recsys.evaluation.report import Report
from recsys.models.catalog import KINDS, UnknownKind, kind_of
from recsys.models.model import Model
from recsys.retrieval.index import Index

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
ITEMS = "items.parquet"

COUNT = "count"
"""The column of items.parquet that the catalogue does not have."""


class BundleRefused(RecsysError):
    """A bundle is not as it was sealed, or not one that this release reads."""

    def __init__(self, folder: Path, file: str, reason: str) -> None:
        super().__init__(f"the bundle {folder} is refused: {file}: {reason}")
        self.folder = folder
        self.file = file
        self.reason = reason


class SealedFile(BaseModel):
    """A file as it was sealed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a bundle says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[2] = 2
    """Of the folder's layout; another one is refused."""

    kind: str
    """The kind of model, which is also the name of its space."""

    created: datetime
    """UTC."""

    code_version: str
    """The release that sealed it."""

    data_fingerprint: str
    """Of the dataset that it was fitted on."""

    parent: str | None
    """The version that it came after."""

    started_from: str | None
    """The fitted model that its training began from; None for one that began from nothing."""

    refit_of: str | None = None
    """The version that it is a refit of: that one's validation chose the epochs, and this one was
    fitted for as many to the validation part too. None for any other."""

    metrics: list[Report]
    """What was measured, each with its protocol."""

    cost: dict[str, Any]
    """What the fit took."""

    index: dict[str, Any]
    """The index's type and parameters, and the recall that was measured."""

    files: dict[str, SealedFile]
    """Every file but the manifest, by its path in the folder."""

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
        (draft / CONFIG).write_text(model.config.model_dump_json(indent=2) + "\n", "utf-8")
        tensors = {name: np.ascontiguousarray(t) for name, t in model.tensors().items()}
        save_file(tensors, draft / WEIGHTS)
        pq.write_table(items, draft / ITEMS, compression="zstd")
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
            files={
                path: SealedFile(bytes=(draft / path).stat().st_size, sha256=sha256(draft / path))
                for path in sorted(_expected(kind))
            },
        )
        document = manifest.model_dump(mode="json")
        document["seal"] = _seal_of(document)
        (draft / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
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

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> Bundle:
        """The bundle in `folder`.

        verify: read every file once more for its checksum; leave it out only where that was done
        and the folder could not be written to since.
        Raises BundleRefused naming the folder, the file and the reason.
        """
        folder = Path(folder).absolute()
        manifest = _read_manifest(folder)
        _check_files(folder, manifest, verify)
        model = _read_model(folder, manifest.kind)
        items = _read_items(folder)
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
        try:
            vocabulary = Vocabulary(items["item_id"])
        except ValueError as error:
            raise BundleRefused(folder, ITEMS, str(error)) from None
        return cls(
            folder=folder,
            manifest=manifest,
            model=model,
            index=index,
            items=vocabulary,
            catalogue=items.drop_columns([COUNT]),
            popularity=items[COUNT].to_numpy(),
            vectors=vectors,
        )


def _vectors_path(kind: str) -> str:
    return f"vectors/{kind}.npy"


def _index_path(kind: str) -> str:
    return f"index/{kind}.faiss"


def _expected(kind: str) -> set[str]:
    return {CONFIG, WEIGHTS, ITEMS, _vectors_path(kind), _index_path(kind)}


def _seal_of(document: Mapping[str, Any]) -> str:
    """The sha256 of a manifest without its seal, so that it too cannot change unnoticed."""
    rest = {key: value for key, value in document.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleRefused(folder, MANIFEST, "is a link; a bundle holds its files itself")
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleRefused(folder, MANIFEST, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise BundleRefused(folder, MANIFEST, f"is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BundleRefused(folder, MANIFEST, "is not a JSON object")
    if document.get("format_version") != FORMAT_VERSION:
        raise BundleRefused(
            folder,
            MANIFEST,
            f"has the format version {document.get('format_version')!r}, and this release reads "
            f"{FORMAT_VERSION}; open it with the release that wrote it "
            f"({document.get('code_version')!r})",
        )
    if document.pop("seal", None) != _seal_of(document):
        raise BundleRefused(folder, MANIFEST, "was altered: its seal does not match")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleRefused(folder, MANIFEST, f"{where}: {first['msg']}") from None
    if manifest.kind not in KINDS:
        raise BundleRefused(
            folder,
            MANIFEST,
            f"is of the kind {manifest.kind!r}, and this release knows {', '.join(KINDS)}",
        )
    return manifest


def _check_files(folder: Path, manifest: Manifest, verify: bool) -> None:
    """Refuse a file that is missing, unexpected, a link, of another size or of another sha256."""
    expected = _expected(manifest.kind)
    for path in sorted(manifest.files.keys() ^ expected):
        reason = "is not listed" if path in expected else f"lists {path!r}, no part of a bundle"
        raise BundleRefused(folder, path if path in expected else MANIFEST, reason)
    present = set()
    for entry in sorted(folder.rglob("*")):
        path, mode = entry.relative_to(folder).as_posix(), entry.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise BundleRefused(folder, path, "is a link; a bundle holds its files itself")
        if stat.S_ISREG(mode):
            present.add(path)
        elif not stat.S_ISDIR(mode):
            raise BundleRefused(folder, path, "is neither a file nor a folder")
    for path in sorted((present - {MANIFEST}) ^ expected):
        raise BundleRefused(folder, path, "is missing" if path in expected else "is not listed")
    for path, sealed in manifest.files.items():
        size = (folder / path).stat().st_size
        if size != sealed.bytes:
            verb = "truncated" if size < sealed.bytes else "altered"
            raise BundleRefused(
                folder, path, f"was {verb}: {size} bytes, sealed with {sealed.bytes}"
            )
        if verify and sha256(folder / path) != sealed.sha256:
            raise BundleRefused(folder, path, "was altered: its sha256 does not match")


def _read_model(folder: Path, kind: str) -> Model:
    try:
        config = kind_of(kind).config.model_validate_json((folder / CONFIG).read_bytes())
    except (ValidationError, UnknownKind) as error:
        raise BundleRefused(folder, CONFIG, str(error)) from None
    try:
        return kind_of(kind).model.restore(config, load_file(folder / WEIGHTS))
    except (SafetensorError, ValueError) as error:
        raise BundleRefused(folder, WEIGHTS, str(error)) from None


def _read_items(folder: Path) -> pa.Table:
    try:
        items = pq.read_table(folder / ITEMS)
    except pa.ArrowException as error:
        raise BundleRefused(folder, ITEMS, str(error)) from None
    types = {"item_id": pa.string(), "title": pa.string(), COUNT: pa.int64()}
    for column, expected in types.items():
        if column not in items.column_names:
            raise BundleRefused(folder, ITEMS, f"lacks the column {column!r}")
        if items.schema.field(column).type != expected:
            found = items.schema.field(column).type
            raise BundleRefused(folder, ITEMS, f"{column!r} is {found}, not {expected}")
        if items[column].null_count:
            raise BundleRefused(folder, ITEMS, f"{column!r} is null in some row")
    return items


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
