"""Data with a structure to find, and a registry of models fitted on it, for all that serves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from recsys.bundle import seal
from recsys.data.histories import Histories
from recsys.evaluation.report import Estimate, Report
from recsys.models.catalog import KINDS
from recsys.models.model import Alone, Model
from recsys.registry import Registry
from recsys.retrieval.index import Index

GENRES = ("comedy", "drama", "western")
PER_GENRE = 30


@dataclass(frozen=True)
class Planted:
    """90 items of three genres, and 240 users who each keep to one genre.

    Item `comedy-0` .. `western-29`, each with its genre as a tag; the lower its number, the more
    often it is touched, and nobody touched the last of each genre. `drama-3` is not available.
    """

    histories: Histories
    catalogue: pa.Table
    unavailable: str = "drama-3"
    untouched: str = "western-29"

    @property
    def ids(self) -> list[str]:
        """Row by row."""
        ids: list[str] = self.catalogue["item_id"].to_pylist()
        return ids

    @property
    def popularity(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.bincount(self.histories.items, minlength=len(self.catalogue))


def plant() -> Planted:
    random = np.random.default_rng(0)
    weights = 1 / np.arange(3, PER_GENRE + 2)
    weights /= weights.sum()
    histories = [
        random.choice(PER_GENRE - 1, 12, replace=False, p=weights) + PER_GENRE * (user % 3)
        for user in range(240)
    ]
    ids = [f"{genre}-{n}" for genre in GENRES for n in range(PER_GENRE)]
    catalogue = pa.table(
        {
            "item_id": ids,
            "title": [item_id.replace("-", " ").title() for item_id in ids],
            "tags": [[item_id.split("-")[0]] for item_id in ids],
            "available": [item_id != "drama-3" for item_id in ids],
        }
    )
    return Planted(Histories.of(histories), catalogue)


def fill(registry: Registry, planted: Planted) -> Registry:
    """Every kind of model, fitted on the planted data, active under its kind's name."""
    for kind in KINDS:
        add_fitted(registry, kind, planted)
    return registry


def add_fitted(registry: Registry, kind: str, planted: Planted, ndcg: float | None = None) -> str:
    """Fit, add and activate one more version, and return it; `ndcg` is what it says it measured."""
    reports = (
        [] if ndcg is None else [Report(metrics={"ndcg@10": Estimate(value=ndcg)}, protocol={})]
    )
    model = _fit(kind, planted.histories, len(planted.catalogue))
    version = registry.add(
        kind,
        lambda folder: seal(
            folder,
            model=model,
            catalogue=planted.catalogue,
            popularity=planted.popularity,
            index=Index.build(model.item_vectors),
            data_fingerprint="planted",
            metrics=reports,
            cost={},
        ),
    )
    registry.activate(kind, version)
    return version


def _fit(kind: str, histories: Histories, n_items: int) -> Model:
    fit = KINDS[kind].fit(KINDS[kind].config(), histories, n_items, Alone(), torch.device("cpu"))
    for epoch in range(min(fit.max_epochs, 3)):
        fit.run_epoch(epoch)
    return fit.model()
