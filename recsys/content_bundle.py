"""Content bundle: a catalogue and the vectors of its contents in one space, sealed like a model.

    manifest.json          what it is, which encoder made it, the sha256 of every file
    items.parquet          the catalogue, row i = item i, the hash of each content, who is live
    index/<space>.faiss    the index over Float32[N, D], the unit vectors themselves among it

It holds those items of a catalogue whose content could be encoded, all by one encoder: vectors of
two fingerprints are never in one bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.storage import atomic_folder
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.vocabulary import Vocabulary
from recsys.retrieval.index import Index
from recsys.sealed_folder import (
    ITEMS,
    BundleRefused,
    SealedManifest,
    check_files,
    read_items,
    read_manifest,
    sealed_files,
    write_items,
    write_manifest,
)

KIND = "content"

HASH = "content_hash"
"""The column of items.parquet with the first 16 bytes of the SHA-256 of what was encoded."""

LIVE = "live"
"""The column that says whether an item was put in over the API, and is not the dataset's."""

CONTENT_SCHEMA = pa.schema(
    [
        *ITEMS_SCHEMA,
        pa.field(HASH, pa.binary(16), nullable=False),
        pa.field(LIVE, pa.bool_(), nullable=False),
    ]
)
"""The columns of items.parquet."""


class ContentManifest(SealedManifest):
    """What a content bundle says of itself."""

    space: str
    """`text` or `image`."""

    encoder: str
    """The encoder's model, as it was asked for; queries are encoded by it."""

    fingerprint: str
    """The encoder's; a query encoded by another has no place here."""

    job: str | None
    """The embedding job that it is the result of."""

    parent: str | None
    """The version that it came after."""

    index: dict[str, Any]
    """The index's type and parameters, and the recall that was measured."""


def seal_content(
    folder: Path,
    *,
    space: str,
    encoder: str,
    fingerprint: str,
    items: pa.Table,
    index: Index,
    data_fingerprint: str,
    cost: Mapping[str, Any],
    job: str | None = None,
    parent: str | None = None,
) -> ContentManifest:
    """Write a content bundle to `folder`, which must not exist yet; it appears whole or not at all.

    items: by CONTENT_SCHEMA, row i = vector i of the index.
    Raises ValueError where items and index are not of the same items.
    """
    if len(items) != len(index):
        raise ValueError(f"there are {len(items)} items, and {len(index)} vectors in the index")
    with atomic_folder(folder) as draft:
        (draft / "index").mkdir()
        write_items(draft, items.select(CONTENT_SCHEMA.names).cast(CONTENT_SCHEMA))
        index.save(draft / _index_path(space))
        manifest = ContentManifest(
            kind=KIND,
            created=datetime.now(UTC),
            code_version=package_version("recsys"),
            data_fingerprint=data_fingerprint,
            metrics=[],
            cost=dict(cost),
            space=space,
            encoder=encoder,
            fingerprint=fingerprint,
            job=job,
            parent=parent,
            index=index.description,
            files=sealed_files(draft, _expected(space)),
        )
        write_manifest(draft, manifest)
    return manifest


@dataclass(frozen=True, eq=False)
class ContentBundle:
    """An opened content bundle. Its index is mapped: opened twice on a machine, held once."""

    folder: Path
    manifest: ContentManifest
    index: Index
    items: Vocabulary
    catalogue: pa.Table
    """Row i = item i, by CONTENT_SCHEMA."""

    @property
    def space(self) -> str:
        return self.manifest.space

    @property
    def name(self) -> str:
        """In a registry, the name that it is kept under."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """In a registry, its version."""
        return self.folder.name

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Float32[N, D], of unit length; a view that must not outlive the bundle."""
        return self.index.vectors

    @staticmethod
    def manifest_of(folder: Path) -> ContentManifest:
        """What the bundle in `folder` says of itself; raises BundleRefused."""
        return read_manifest(folder, ContentManifest, (KIND,))

    @classmethod
    def open(cls, folder: Path) -> ContentBundle:
        """The verified bundle in `folder`; raises BundleRefused naming the folder, the file and
        the reason."""
        folder = Path(folder).absolute()
        manifest = cls.manifest_of(folder)
        check_files(folder, manifest, _expected(manifest.space))
        columns = {field.name: field.type for field in CONTENT_SCHEMA if not field.nullable}
        items, catalogue = read_items(folder, columns)
        path = _index_path(manifest.space)
        try:
            index = Index.load(folder / path, manifest.index)
        except (ValueError, KeyError) as error:
            raise BundleRefused(folder, path, str(error)) from None
        if len(index) != len(items):
            raise BundleRefused(
                folder, path, f"is over {len(index)} vectors, {ITEMS} lists {len(items)} items"
            )
        return cls(folder, manifest, index, items, catalogue)


def _index_path(space: str) -> str:
    return f"index/{space}.faiss"


def _expected(space: str) -> set[str]:
    return {ITEMS, _index_path(space)}
