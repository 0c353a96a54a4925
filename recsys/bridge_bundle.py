"""Bridge bundle: a bridge from content to one version of a model, sealed like a model.

    manifest.json         which model, which encoders, how it measured, the sha256 of every file
    weights.safetensors   the bridge's weights Float32[Dc, D] and intercept Float32[D]

It maps into the space of that version alone, from vectors of those encoders alone and the tags that
it learnt: a model fitted anew or another fingerprint needs another bridge.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from infra.storage import atomic_folder
from recsys.evaluation.report import Report
from recsys.retrieval.bridge import Bridge, Fitted
from recsys.retrieval.tag_columns import with_tags
from recsys.sealed_folder import (
    MANIFEST,
    WEIGHTS,
    BundleRefused,
    SealedManifest,
    check_files,
    read_manifest,
    sealed_files,
    write_manifest,
)

KIND = "bridge"


class Part(BaseModel):
    """The vectors of one space, as the bridge takes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    space: str
    """`text` or `image`."""

    fingerprint: str
    """The encoder's."""

    dim: int
    """The length of its vectors."""


class BridgeManifest(SealedManifest):
    """What a bridge bundle says of itself."""

    model: str
    """The name of the model that it maps into."""

    model_version: str
    """The version of it."""

    parts: list[Part]
    """What it maps, in the order that the vectors are joined in."""

    tags: tuple[str, ...] = ()
    """The tags with a column of their own, in this order behind the vectors."""

    ridge: float
    """λ of the regression."""

    offset: float
    """How far all mapped vectors were moved, so that new items get their share."""

    explained: float
    """Of the variance of scores, the share that left-out items' mapped vectors explain."""

    learnt_items: int
    """The items that it was learnt from."""

    @property
    def content(self) -> str:
        """What it maps, in words."""
        spaces = " + ".join(part.space for part in self.parts)
        return f"{spaces} + {len(self.tags)} tags" if self.tags else spaces


def seal_bridge(
    folder: Path,
    *,
    fitted: Fitted,
    model: str,
    model_version: str,
    parts: Sequence[Part],
    tags: Sequence[str],
    learnt_items: int,
    data_fingerprint: str,
    metrics: Sequence[Report],
    cost: Mapping[str, Any],
) -> BridgeManifest:
    """Write a bridge bundle to `folder`, which must not exist yet; it appears whole or not at all.

    Raises ValueError where the parts and tags are not what the bridge takes.
    """
    bridge = fitted.bridge
    if _dim(parts, tags) != len(bridge.weights):
        dims = [part.dim for part in parts]
        raise ValueError(
            f"the bridge takes {len(bridge.weights)} numbers, the parts have {dims} and "
            f"{len(tags)} tags one each"
        )
    with atomic_folder(folder) as draft:
        save_file({"weights": bridge.weights, "intercept": bridge.intercept}, draft / WEIGHTS)
        manifest = BridgeManifest(
            kind=KIND,
            created=datetime.now(UTC),
            code_version=package_version("recsys"),
            data_fingerprint=data_fingerprint,
            metrics=list(metrics),
            cost=dict(cost),
            model=model,
            model_version=model_version,
            parts=list(parts),
            tags=tuple(tags),
            ridge=fitted.ridge,
            offset=fitted.offset,
            explained=fitted.explained,
            learnt_items=learnt_items,
            files=sealed_files(draft, [WEIGHTS]),
        )
        write_manifest(draft, manifest)
        # safetensors makes a file readable to its owner alone; a service may run as another user.
        (draft / WEIGHTS).chmod(stat.S_IMODE((draft / MANIFEST).stat().st_mode))
    return manifest


@dataclass(frozen=True, eq=False)
class BridgeBundle:
    """An opened bridge bundle."""

    folder: Path
    manifest: BridgeManifest
    bridge: Bridge

    @property
    def name(self) -> str:
        """In a registry, the name that it is kept under: that of its model."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """In a registry, its version."""
        return self.folder.name

    @property
    def fingerprints(self) -> dict[str, str]:
        """By space, the encoder's; the spaces in the order that their vectors are joined in."""
        return {part.space: part.fingerprint for part in self.manifest.parts}

    def map(
        self, vectors: Sequence[NDArray[np.float32]], tags: pa.ChunkedArray
    ) -> NDArray[np.float32]:
        """Float32[M, D] of M items, by their vectors in each of the spaces and their tags."""
        return self.bridge.map(with_tags(vectors, tags, self.manifest.tags))

    @staticmethod
    def manifest_of(folder: Path) -> BridgeManifest:
        """What the bundle in `folder` says of itself, without a look at its weights; raises
        BundleRefused."""
        return read_manifest(folder, BridgeManifest, (KIND,))

    @classmethod
    def open(cls, folder: Path) -> BridgeBundle:
        """The verified bundle in `folder`; raises BundleRefused naming the folder, the file and
        the reason."""
        folder = Path(folder).absolute()
        manifest = cls.manifest_of(folder)
        check_files(folder, manifest, [WEIGHTS])
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise BundleRefused(folder, WEIGHTS, str(error)) from None
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        dim = _dim(manifest.parts, manifest.tags)
        last = shapes.get("intercept", (0,))[-1]
        if shapes != {"weights": (dim, last), "intercept": (last,)}:
            raise BundleRefused(
                folder, WEIGHTS, f"holds {shapes}, no bridge from {dim} numbers as {MANIFEST} says"
            )
        return cls(folder, manifest, Bridge(tensors["weights"], tensors["intercept"]))


def _dim(parts: Sequence[Part], tags: Sequence[str]) -> int:
    return sum(part.dim for part in parts) + len(tags)
