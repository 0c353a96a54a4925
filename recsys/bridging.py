"""Bridging: a model and the content of its items become a sealed and measured bridge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.bridge_bundle import Part, seal_bridge
from recsys.bundle import Bundle
from recsys.content_bundle import ContentBundle
from recsys.data.dataset import Dataset
from recsys.data.histories import Histories
from recsys.data.split import Holdout, split_dataset
from recsys.data.vocabulary import UNKNOWN
from recsys.evaluation.metrics import bootstrap
from recsys.evaluation.report import Estimate, Report
from recsys.models.model import Model
from recsys.registry import Bridges
from recsys.retrieval.bridge import Fitted, fit
from recsys.retrieval.tag_columns import common_tags, with_tags

QUERIES = 500
"""Histories of the training part that the bridge is chosen and calibrated with."""

KS = (10, 50)

_SCORES_AT_ONCE = 2**24
"""Of targets with all items; those of their users are as many at most."""


@dataclass(frozen=True)
class Bridged:
    """A new version in the registry, and how it does."""

    version: str

    left_out: Report
    """Where each target's vector is that of a bridge fitted without it, as if it were new."""

    learnt: Report
    """Where each target has the vector that the model learnt: what no bridge can reach."""

    without_content: int
    """The items that the model never learnt, and that lack the content of one of the spaces or
    more: it goes on without them."""


def bridge(
    bridges: Bridges, bundle: Bundle, spaces: Sequence[ContentBundle], dataset: Dataset
) -> Bridged:
    """Fit a bridge from the spaces, joined in this order, to the bundle; measure, seal and add it
    under the model's name. Where the items have tags, it is from those too.

    The new version is not activated. Raises RecsysError if the Dataset is not the one that the
    model was fitted to, and NoBridge if too few of its items have content.
    """
    if bundle.manifest.data_fingerprint != dataset.fingerprint:
        raise RecsysError(
            f"{dataset.path} is not the data that {bundle.name} {bundle.version} was fitted to: "
            "give that, for the bridge asks as its histories do"
        )
    began = time.perf_counter()
    split = split_dataset(dataset, bundle.manifest.split or "leave_one_out")
    rows, content, tags = _joined(bundle, spaces)
    fitted = learn(bundle.model, bundle.popularity, rows, content, split.train)
    seconds = time.perf_counter() - began
    left_out = np.array(bundle.vectors)
    left_out[rows] = fitted.left_out
    asked = _about(split.test, np.isin(np.arange(len(left_out)), rows) & (bundle.popularity > 0))
    reports = [
        measured(bundle, vectors, asked, split.protocol) for vectors in (left_out, bundle.vectors)
    ]
    version = bridges.add(
        bundle.name,
        lambda folder: seal_bridge(
            folder,
            fitted=fitted,
            model=bundle.name,
            model_version=bundle.version,
            parts=[
                Part(
                    space=each.space,
                    fingerprint=each.manifest.fingerprint,
                    dim=each.vectors.shape[1],
                )
                for each in spaces
            ],
            tags=tags,
            learnt_items=int((bundle.popularity[rows] > 0).sum()),
            data_fingerprint=dataset.fingerprint,
            metrics=reports[:1],
            cost={"wall_s": seconds},
        ),
    )
    as_if_new, as_learnt = reports
    return Bridged(version, as_if_new, as_learnt, _without_content(bundle, spaces))


def learn(
    model: Model,
    counts: NDArray[np.int64],
    rows: NDArray[np.int64],
    content: NDArray[np.float32],
    train: Histories,
) -> Fitted:
    """Fit a bridge to the model from what is known of its items in `rows`.

    counts: Int64[N], the events that each of the model's items was learnt from. content:
    Float32[R, Dc], of the R rows. train: the histories that the model learnt.
    """
    users = np.random.default_rng(0).permutation(np.flatnonzero(train.lengths))[:QUERIES]
    histories = train.take(np.sort(users))
    renamed = np.full(len(counts), -1)
    renamed[rows] = np.arange(len(rows))
    return fit(
        content,
        model.item_vectors[rows],
        counts[rows],
        model.query_vectors(histories),
        histories.renamed(renamed),
    )


def _joined(
    bundle: Bundle, spaces: Sequence[ContentBundle]
) -> tuple[NDArray[np.int64], NDArray[np.float32], list[str]]:
    """The model's rows that have content in every space, their contents side by side, and the tags
    that have a column among them."""
    ids = bundle.items.to_arrow()
    at = np.stack([space.items.rows(ids) for space in spaces])
    rows = np.flatnonzero((at != UNKNOWN).all(axis=0))
    vectors = [space.vectors[found[rows]] for space, found in zip(spaces, at, strict=True)]
    tags = spaces[0].catalogue["tags"].take(pa.array(at[0][rows]))
    columns = common_tags(tags.filter(pa.array(bundle.popularity[rows] > 0)))
    return rows, with_tags(vectors, tags, columns), columns


def _without_content(bundle: Bundle, spaces: Sequence[ContentBundle]) -> int:
    """Of the items of the model and of all spaces, those never learnt that some space lacks."""
    ids = [each.to_arrow() for each in (bundle.items, *(space.items for space in spaces))]
    new = pc.unique(pa.concat_arrays(ids))
    new = new.filter(pa.array(bundle.never_learnt(new)))
    lacking = np.any([space.items.rows(new) == UNKNOWN for space in spaces], axis=0)
    return int(lacking.sum())


def _about(holdout: Holdout, items: NDArray[np.bool_]) -> Holdout:
    """The holdout's targets among the items, and the users who have one."""
    kept = items[holdout.targets.items]
    counts = np.bincount(holdout.targets.rows()[kept], minlength=len(holdout.users))
    some = np.flatnonzero(counts)
    targets = Histories.from_lengths(counts[some], holdout.targets.items[kept])
    return Holdout(holdout.users[some], holdout.histories.take(some), targets)


def measured(bundle: Bundle, vectors: NDArray[np.float32], asked: Holdout, protocol: str) -> Report:
    """Recall where each target alone, one by one, has its vector of `vectors` Float32[N, D] instead
    of the one that the model learnt.

    protocol: the split's name, as the report shall state it. Memory beside the vectors is bounded,
    however many targets a user has. Raises RecsysError where nobody is asked.
    """
    n_users, n_items = len(asked.users), len(vectors)
    if n_users == 0:
        raise RecsysError(f"no event held out of {bundle.name} is of an item that has content")
    places = []
    user_of = asked.targets.rows()
    at_once = max(1, _SCORES_AT_ONCE // n_items)
    for start in range(0, len(user_of), at_once):
        item = asked.targets.items[start : start + at_once]
        users, user = np.unique(user_of[start : start + at_once], return_inverse=True)
        histories = asked.histories.take(users)
        queries = bundle.model.query_vectors(histories)
        scores = queries @ bundle.vectors.T
        scores[histories.rows(), histories.items] = -np.inf
        own = np.einsum("td,td->t", queries[user], vectors[item])
        better = (scores[user] > own[:, None]).sum(axis=1)
        places.append(better - (scores[user, item] > own))
    place, per_user = np.concatenate(places), asked.targets.lengths
    recalls = np.stack([np.bincount(user_of, place < k, n_users) / per_user for k in KS], axis=1)
    low, high = bootstrap(recalls)
    return Report(
        metrics={
            f"recall@{k}": Estimate(value=float(mean), low=float(least), high=float(most))
            for k, mean, least, most in zip(KS, recalls.mean(axis=0), low, high, strict=True)
        },
        protocol={
            "split": f"{protocol}, of items with content",
            "learnt": bundle.manifest.learnt,
            "ranking": "full catalogue",
            "seen_masked": True,
            "users": n_users,
            "items": n_items,
            "targets": len(place),
            "interval": "95% bootstrap over users, 1000 resamples",
        },
    )
