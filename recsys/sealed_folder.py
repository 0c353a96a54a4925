"""Sealed folders: a model in files that never change again, and a manifest that shows it.

    manifest.json         what it is, where it comes from, how it measured, the sha256 of every file
    config.json           the model's hyper-parameters
    weights.safetensors   the model's tensors
    items.parquet         the items, row i = item i

What else there is, the kind of folder says (`bundle.py`, `rating_bundle.py`). No file is a pickle,
and none is read before its checksum is.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from infra.errors import RecsysError
from infra.storage import sha256
from recsys.data.vocabulary import Vocabulary
from recsys.evaluation.report import Report
from recsys.models.model import Model, ModelConfig
from recsys.models.rating_model import RatingModel

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
ITEMS = "items.parquet"


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


class SealedManifest(BaseModel):
    """What every sealed folder says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[3] = 3
    """Of the folder's layout; another one is refused."""

    kind: str
    """The kind of model."""

    created: datetime
    """UTC."""

    code_version: str
    """The release that sealed it."""

    data_fingerprint: str
    """Of the dataset that it was fitted on."""

    metrics: list[Report]
    """What was measured, each with its protocol."""

    cost: dict[str, Any]
    """What the fit took."""

    files: dict[str, SealedFile]
    """Every file but the manifest, by its path in the folder."""


AnyManifest = TypeVar("AnyManifest", bound=SealedManifest)
AnyModel = TypeVar("AnyModel", Model, RatingModel)


def write_model(draft: Path, model: Model | RatingModel) -> None:
    """Write its hyper-parameters and its tensors."""
    (draft / CONFIG).write_text(model.config.model_dump_json(indent=2) + "\n", "utf-8")
    tensors = {name: np.ascontiguousarray(t) for name, t in model.tensors().items()}
    save_file(tensors, draft / WEIGHTS)
    # It would be readable to its owner alone (safetensors issue 782), and the bundle of no use to
    # a service that runs as another user.
    (draft / WEIGHTS).chmod(stat.S_IMODE((draft / CONFIG).stat().st_mode))


def write_items(draft: Path, items: pa.Table) -> None:
    """Write the items, row i = item i."""
    pq.write_table(items, draft / ITEMS, compression="zstd")


def sealed_files(draft: Path, paths: Collection[str]) -> dict[str, SealedFile]:
    """The size and the sha256 of each file, as a manifest lists them."""
    return {
        path: SealedFile(bytes=(draft / path).stat().st_size, sha256=sha256(draft / path))
        for path in sorted(paths)
    }


def write_manifest(draft: Path, manifest: SealedManifest) -> None:
    """Write the manifest, with a checksum of its own."""
    document = manifest.model_dump(mode="json")
    document["seal"] = _seal_of(document)
    (draft / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def read_manifest(folder: Path, manifest: type[AnyManifest], kinds: Sequence[str]) -> AnyManifest:
    """The folder's manifest; raises BundleRefused unless it is whole and of one of the kinds."""
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
    if (kind := document.get("kind")) not in kinds:
        raise BundleRefused(
            folder, MANIFEST, f"is of the kind {kind!r}, which is none of {', '.join(kinds)}"
        )
    try:
        return manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleRefused(folder, MANIFEST, f"{where}: {first['msg']}") from None


def check_files(
    folder: Path, manifest: SealedManifest, expected: Collection[str], verify: bool = True
) -> None:
    """Refuse a file that is missing, unexpected, a link, of another size or of another sha256.

    verify: read every file for its sha256; the rest is seen without.
    """
    for path in sorted(manifest.files.keys() ^ set(expected)):
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
    for path in sorted((present - {MANIFEST}) ^ set(expected)):
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


def read_model(folder: Path, config: type[ModelConfig], model: type[AnyModel]) -> AnyModel:
    """The model; raises BundleRefused where the hyper-parameters or tensors do not fit it."""
    try:
        read = config.model_validate_json((folder / CONFIG).read_bytes())
    except ValidationError as error:
        raise BundleRefused(folder, CONFIG, str(error)) from None
    try:
        return model.restore(read, load_file(folder / WEIGHTS))
    except (SafetensorError, ValueError) as error:
        raise BundleRefused(folder, WEIGHTS, str(error)) from None


def read_items(folder: Path, types: Mapping[str, pa.DataType]) -> tuple[Vocabulary, pa.Table]:
    """The items' ids and all that is known of them, which must have a value in every row of these
    columns, `item_id` among them."""
    try:
        items = pq.read_table(folder / ITEMS)
    except pa.ArrowException as error:
        raise BundleRefused(folder, ITEMS, str(error)) from None
    for column, expected in types.items():
        if column not in items.column_names:
            raise BundleRefused(folder, ITEMS, f"lacks the column {column!r}")
        if items.schema.field(column).type != expected:
            found = items.schema.field(column).type
            raise BundleRefused(folder, ITEMS, f"{column!r} is {found}, not {expected}")
        if items[column].null_count:
            raise BundleRefused(folder, ITEMS, f"{column!r} is null in some row")
    try:
        return Vocabulary(items["item_id"]), items
    except ValueError as error:
        raise BundleRefused(folder, ITEMS, str(error)) from None


def _seal_of(document: Mapping[str, Any]) -> str:
    """The sha256 of a manifest without its seal, so that it too cannot change unnoticed."""
    rest = {key: value for key, value in document.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
