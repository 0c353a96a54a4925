"""Rating bundle: a rating model, sealed in one folder that never changes again.

    manifest.json         what it is, where it comes from, how it measured, the sha256 of every file
    config.json           the model's hyper-parameters
    weights.safetensors   the model's tensors
    items.parquet         item_id and title, row i = item i

It knows items and no user: who is asked about brings ratings along. It has neither vectors nor an
index, for nothing is searched in it, so it is not one of the registry's (`bundle.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.storage import atomic_folder
from recsys.data.vocabulary import Vocabulary
from recsys.evaluation.report import Report
from recsys.models.biased_mf import BiasedMf, BiasedMfConfig
from recsys.models.rating_model import RatingModel
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

FILES = (CONFIG, ITEMS, WEIGHTS)

COLUMNS = {"item_id": pa.string(), "title": pa.string()}
"""What items.parquet has."""


def seal(
    folder: Path,
    *,
    model: RatingModel,
    catalogue: pa.Table,
    data_fingerprint: str,
    metrics: Sequence[Report],
    cost: Mapping[str, Any],
) -> SealedManifest:
    """Write a rating bundle to `folder`, which must not exist yet; it appears whole or not at all.

    catalogue: row i = item i, with the columns `item_id` and `title` at least.
    Raises ValueError where model and catalogue are not of the same items.
    """
    if model.n_items != len(catalogue):
        raise ValueError(f"the model knows {model.n_items} items, the catalogue {len(catalogue)}")
    with atomic_folder(folder) as draft:
        write_model(draft, model)
        write_items(draft, catalogue.select(list(COLUMNS)))
        manifest = SealedManifest(
            kind=type(model.config).kind,
            created=datetime.now(UTC),
            code_version=package_version("recsys"),
            data_fingerprint=data_fingerprint,
            metrics=list(metrics),
            cost=dict(cost),
            files=sealed_files(draft, FILES),
        )
        write_manifest(draft, manifest)
    return manifest


@dataclass(frozen=True, eq=False)
class RatingBundle:
    """An opened rating bundle."""

    folder: Path
    manifest: SealedManifest
    model: RatingModel
    items: Vocabulary
    titles: list[str]
    """Row i = item i."""

    @classmethod
    def open(cls, folder: Path) -> RatingBundle:
        """The rating bundle in `folder`; raises BundleRefused naming the folder, the file and the
        reason."""
        manifest = read_manifest(folder, SealedManifest, (BiasedMfConfig.kind,))
        check_files(folder, manifest, FILES)
        model = read_model(folder, BiasedMfConfig, BiasedMf)
        items, catalogue = read_items(folder, COLUMNS)
        if model.n_items != len(items):
            reason = f"the model knows {model.n_items} items, {ITEMS} lists {len(items)}"
            raise BundleRefused(folder, WEIGHTS, reason)
        return cls(folder, manifest, model, items, catalogue["title"].to_pylist())
