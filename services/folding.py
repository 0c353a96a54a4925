"""Folding: the live catalogue goes into the main indexes, which are built anew and swapped whole.

Deletions and changes cannot be made in an index that is mapped by those who answer from it, and a
graph cannot forget an item at all. So the next version is built beside the one in service, sealed,
activated, and only then do the live items that it holds leave Redis. A crash in between leaves
them in both places, where they are found once. The next index is asked for what this one was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import RecsysError
from infra.settings import Settings
from infra.storage import exclusive
from recsys.content_bundle import CONTENT_SCHEMA, HASH, LIVE, ContentBundle, seal_content
from recsys.registry import Registry, Spaces
from recsys.retrieval.index import Asked, Index
from recsys.sealed_folder import ITEMS
from services.item_schemas import ItemState
from services.job_folder import ITEMS as JOB_ITEMS
from services.live_catalogue import items_table
from services.live_item import LiveItem
from services.live_items import LiveItems

logger = logging.getLogger(__name__)

LOCK = ".folding"
"""In the folder of the spaces; held by whoever makes the next version of one until it is active."""

KEPT = 3
"""Versions of a space that stay when the next one is active: so many of the newest, and so many
that a rollback leads to."""


@dataclass(frozen=True)
class Folded:
    """What a fold did."""

    versions: dict[str, str]
    """The new version of each space."""

    folded: int
    """Live items that are in the main indexes now."""

    left: int
    """Live items that stay, since they are not embedded yet or cannot be."""

    hidden: int
    """Deletions that stay in force."""


@contextmanager
def _alone(spaces: Spaces) -> Iterator[None]:
    """Make the next versions of spaces; raises RecsysError where another process does."""
    spaces.root.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(spaces.root / LOCK):
            yield
    except BlockingIOError:
        raise RecsysError(
            "another process builds the main indexes anew: wait for it to end"
        ) from None


async def fold_live(items: LiveItems, settings: Settings) -> Folded:
    """Fold what is live now, and let go of it. Raises RecsysError where another fold, or a sealing,
    is under way."""
    spaces = Spaces(settings.spaces_dir)
    # Until all is let go of: a sealing puts back what is neither live nor in the next version.
    with _alone(spaces):
        entries = await items.all()
        versions, settled, needless = await asyncio.to_thread(_fold, spaces, settings, entries)
        folded, forgotten = await items.drop(settled), await items.drop(needless)
    live = sum(each.item is not None for each in entries)
    return Folded(versions, folded, live - folded, len(entries) - live - forgotten)


def _fold(
    spaces: Spaces, settings: Settings, entries: Sequence[LiveItem]
) -> tuple[dict[str, str], list[LiveItem], list[LiveItem]]:
    """Build and activate the next version of each active space; returns them, and what may be
    forgotten: live items that every space in which they have a vector holds now, and deletions that
    are needless."""
    bundles = [spaces.open_active(name) for name in spaces.encoders()]
    versions = {bundle.name: _fold_one(spaces, bundle, entries) for bundle in bundles}
    settled = [each for each in entries if _settled(each, bundles)]
    models = Registry(settings.models_dir)
    return versions, settled, _needless(spaces, models, settings.jobs_dir, entries)


def _needless(
    spaces: Spaces, models: Registry, jobs_dir: Path, entries: Sequence[LiveItem]
) -> list[LiveItem]:
    """The deletions of items that nothing knows which is in service or may come into it: no version
    of a space or model, whether active or not, and no job that has not ended."""
    gone = {each.item_id: each for each in entries if each.item is None}
    paths = list(jobs_dir.glob(f"[0-9]*/{JOB_ITEMS}"))
    for registry in (spaces, models):
        for name in registry.names():
            folders = (registry.path(name, version) for version in registry.versions(name))
            paths += [folder / ITEMS for folder in folders]
    for path in paths:
        if not gone:
            break
        try:
            known = pq.read_table(path, columns=["item_id"])["item_id"]
        except FileNotFoundError:  # the job has ended, and its version is among the others
            continue
        except (OSError, pa.ArrowException) as error:
            logger.warning("no deletion is forgotten, since %s cannot be read: %s", path, error)
            return []
        needed = known.filter(pc.is_in(known, value_set=pa.array(gone, known.type)))
        for item_id in needed.to_pylist():
            gone.pop(item_id, None)
    return list(gone.values())


def _settled(entry: LiveItem, bundles: Sequence[ContentBundle]) -> bool:
    """Whether nothing of a live item is outstanding, and some main index holds it."""
    if entry.item is None:
        return False
    states = [_state(entry, bundle) for bundle in bundles]
    return ItemState.PENDING not in states and ItemState.READY in states


def _state(entry: LiveItem, bundle: ContentBundle) -> ItemState:
    """How far a live item, or what was one, is by the encoder of this bundle."""
    if entry.item is None:
        return ItemState.ABSENT
    return entry.state_by(bundle.space, bundle.manifest.fingerprint)


def _fold_one(spaces: Spaces, bundle: ContentBundle, entries: Sequence[LiveItem]) -> str:
    """The next version of one space: what stays, then what came. An item that waits keeps the row
    that it has."""
    states = [(each, _state(each, bundle)) for each in entries]
    came = [each for each, state in states if state is ItemState.READY]
    changed = [each.item_id for each, state in states if state is not ItemState.PENDING]
    going = bundle.items.rows(changed)
    stays = np.ones(len(bundle.items), np.bool_)
    stays[going[going >= 0]] = False
    rows = np.flatnonzero(stays)
    if not came and len(rows) == len(bundle.items):
        return bundle.version
    table = items_table([each.item for each in came if each.item is not None])
    vectors = [each.vectors[bundle.space] for each in came]
    table = table.append_column(HASH, pa.array([v.content_hash for v in vectors], pa.binary(16)))
    table = table.append_column(LIVE, pa.array(np.ones(len(came), np.bool_)))
    catalogue = bundle.catalogue.select(CONTENT_SCHEMA.names).take(pa.array(rows))
    matrix = np.concatenate([bundle.vectors[rows], *(v.vector[None] for v in vectors)])
    if not len(matrix):  # what is deleted stays hidden
        return bundle.version
    index = Index.build(matrix, **bundle.index.asked)
    items = pa.concat_tables([catalogue, table.cast(CONTENT_SCHEMA)])
    version = _add_next(spaces, bundle, items, index)
    spaces.activate(bundle.name, version)
    spaces.prune(bundle.name, KEPT)
    return version


def reindex_space(
    spaces: Spaces, name: str, asked: Asked, *, activate: bool = True
) -> tuple[str, Index]:
    """Index the active version's vectors anew; the same items, sealed as a new version.

    Later versions ask for the same. The recall is measured with item vectors, near which texts and
    pictures lie. Raises RecsysError where the name has no active version, or another process builds
    the main indexes anew.
    """
    with _alone(spaces):
        bundle = spaces.open_active(name)
        index = Index.build(bundle.vectors, **asked)
        version = _add_next(spaces, bundle, bundle.catalogue, index, job=bundle.manifest.job)
        if activate:
            spaces.activate(name, version)
            spaces.prune(name, KEPT)
    return version, index


def _add_next(
    spaces: Spaces, bundle: ContentBundle, items: pa.Table, index: Index, job: str | None = None
) -> str:
    """The version after this one, of the same encoder; not activated."""
    manifest = bundle.manifest
    return spaces.add(
        bundle.name,
        lambda folder: seal_content(
            folder,
            space=manifest.space,
            encoder=manifest.encoder,
            fingerprint=manifest.fingerprint,
            items=items,
            index=index,
            data_fingerprint=manifest.data_fingerprint,
            cost=manifest.cost,
            job=job,
            parent=bundle.version,
        ),
    )
