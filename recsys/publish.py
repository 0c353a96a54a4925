"""Publish: what a fit gave becomes a sealed bundle with an index and measured metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.bundle import seal
from recsys.data.dataset import Dataset
from recsys.data.split import Split, split_dataset
from recsys.evaluation.protocol import evaluate
from recsys.evaluation.report import Report
from recsys.models.model import Model
from recsys.registry import Registry
from recsys.retrieval.index import Index, Kind

if TYPE_CHECKING:  # it brings Ray Train along, which indexing anew has no use for
    from recsys.training.fit import FitResult

KS = (10, 20)
"""The cut-offs that every bundle's metrics are reported at."""

QUERIES = 1000
"""Histories of the validation part that the index's recall is measured with."""


@dataclass(frozen=True)
class Published:
    """A new version in the registry, and how it does on the split's test part."""

    version: str
    test: Report


def publish(
    registry: Registry,
    name: str,
    dataset: Dataset,
    split: Split,
    fitted: FitResult,
    *,
    refit_of: str | None = None,
) -> Published:
    """Evaluate on the test part, index the item vectors, seal, and add to the registry.

    refit_of: the version that chose the epochs of `fitted`, which is a refit.

    The new version is not activated. Raises BundleRefused if what was sealed does not verify, and
    RecsysError if the Dataset is not the one that the model was fitted to.
    """
    if dataset.fingerprint != fitted.data:
        raise RecsysError(
            f"{dataset.path} is not the data that {name} was fitted to: it was imported anew "
            "meanwhile. Train again"
        )
    popularity = split.popularity(len(dataset.items), validation_learnt=fitted.learnt_validation)
    test = evaluate(
        fitted.model,
        split.test,
        protocol=split.protocol,
        popularity=popularity,
        learnt="train and validation" if fitted.learnt_validation else "train",
        ks=KS,
    )
    index = Index.build(fitted.model.item_vectors, queries=_queries(fitted.model, split))
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
            started_from=fitted.start,
            refit_of=refit_of,
        ),
    )
    return Published(version, test)


def _queries(model: Model, split: Split) -> NDArray[np.float32] | None:
    """Up to QUERIES of those that will be asked, for the index to be measured with; None where all
    of them are zero."""
    histories = split.validation.histories
    rows = np.random.default_rng(0).permutation(len(histories))[:QUERIES]
    queries = model.query_vectors(histories.take(np.sort(rows)))
    queries = queries[queries.any(axis=1)]
    return queries if len(queries) else None


def reindex(
    registry: Registry,
    name: str,
    dataset: Dataset | None,
    *,
    recall: float,
    exact_below: int,
    kind: Kind = "auto",
) -> tuple[str, Index]:
    """Index the active version's vectors anew; the same model, sealed as a new version.

    dataset: whose histories ask, as when the model was published. A bundle keeps none of them, nor
    their queries, which tell what a user likes. Without it the recall is measured with item
    vectors, which find themselves, and histories may find far less; the description says which.

    The new version is not activated. Raises RecsysError if the name has no active version, or the
    Dataset is not the one that it was fitted to.
    """
    bundle = registry.open(name)
    queries = None
    if dataset is not None:
        if bundle.manifest.data_fingerprint != dataset.fingerprint:
            raise RecsysError(
                f"{dataset.path} is not the data that {name} {bundle.version} was fitted to: give "
                "that, for the index is measured with its histories"
            )
        split = split_dataset(dataset, bundle.manifest.split or "leave_one_out")
        queries = _queries(bundle.model, split)
    index = Index.build(
        bundle.model.item_vectors,
        queries=queries,
        recall=recall,
        exact_below=exact_below,
        kind=kind,
    )
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
            started_from=bundle.manifest.started_from,
            refit_of=bundle.manifest.refit_of,
        ),
    )
    return version, index
