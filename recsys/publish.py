"""Publish: what a fit gave becomes a sealed bundle with an index and measured metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.bundle import seal
from recsys.data.dataset import Dataset
from recsys.data.split import Split
from recsys.evaluation.protocol import evaluate
from recsys.evaluation.report import Report
from recsys.registry import Registry
from recsys.retrieval.index import Index
from recsys.training.fit import FitResult

KS = (10, 20)
"""The cut-offs that every bundle's metrics are reported at."""


@dataclass(frozen=True)
class Published:
    """A new version in the registry, and how it does on the split's test part."""

    version: str
    test: Report


def publish(
    registry: Registry, name: str, dataset: Dataset, split: Split, fitted: FitResult
) -> Published:
    """Evaluate on the test part, index the item vectors, seal, and add to the registry.

    The new version is not activated. Raises BundleRefused if what was sealed does not verify.
    """
    popularity = np.bincount(split.train.items, minlength=len(dataset.items))
    test = evaluate(fitted.model, split.test, protocol=split.protocol, popularity=popularity, ks=KS)
    index = Index.build(fitted.model.item_vectors)
    version = registry.add(
        name,
        lambda folder: seal(
            folder,
            model=fitted.model,
            catalogue=dataset.catalogue,
            popularity=popularity,
            index=index,
            data_fingerprint=dataset.fingerprint,
            metrics=[test],
            cost=fitted.cost,
            parent=registry.active(name),
        ),
    )
    return Published(version, test)


def reindex(registry: Registry, name: str, *, recall: float, exact_below: int) -> tuple[str, Index]:
    """Index the active version's vectors anew; the same model, sealed as a new version.

    The new version is not activated. Raises RecsysError if the name has no active version.
    """
    bundle = registry.open(name)
    index = Index.build(bundle.model.item_vectors, recall=recall, exact_below=exact_below)
    version = registry.add(
        name,
        lambda folder: seal(
            folder,
            model=bundle.model,
            catalogue=bundle.catalogue,
            popularity=bundle.popularity,
            index=index,
            data_fingerprint=bundle.manifest.data_fingerprint,
            metrics=bundle.manifest.metrics,
            cost=bundle.manifest.cost,
            parent=bundle.version,
        ),
    )
    return version, index
