"""The end of an embedding job: its vectors, in the order of the catalogue, become content bundles.

Sealing may be repeated: a version that the job made already is taken as it is.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.settings import Settings
from infra.storage import atomic_file, exclusive_in_turn
from recsys.content_bundle import (
    CONTENT_SCHEMA,
    LIVE,
    ContentBundle,
    seal_content,
)
from recsys.data.dataset import ITEMS_SCHEMA
from recsys.embedding_store import NOWHERE, EmbeddingStore, Vectors, hash_words
from recsys.registry import Spaces
from recsys.retrieval.index import Index
from recsys.sealed_folder import BundleRefused
from services.folding import KEPT, LOCK
from services.item_schemas import Item
from services.job_folder import PROBLEMS_SCHEMA, JobFolder, JobSpec, Report, SpaceReport, SpaceSpec
from services.live_catalogue import items_of
from services.live_items import LiveItems

logger = logging.getLogger(__name__)


async def seal_job(folder: JobFolder, settings: Settings, live: LiveItems) -> Report:
    """Add a content bundle for each space to the registry, activate them, and write the report.
    A space in which no content has a vector stays as it is.

    Live items that another encoder embedded are put back among those that wait to be embedded.
    To be called by one at a time, who holds the folder's `sealing_lock`. Waits while the main
    indexes are built anew for another reason.
    Memory: the vectors and the catalogue, as whoever searches them needs.
    Raises BrokenPart, RedisUnavailable, and BundleRefused where a version in service is damaged.
    """
    report = folder.report()
    if report is None:
        report = await _seal(folder, folder.spec(), settings, live)
        folder.write_report(report)
    return report


async def _seal(folder: JobFolder, spec: JobSpec, settings: Settings, live: LiveItems) -> Report:
    spaces = Spaces(settings.spaces_dir)
    spaces.root.mkdir(parents=True, exist_ok=True)
    reports: dict[str, SpaceReport] = {}
    with (
        atomic_file(folder.problems_path) as file,
        pq.ParquetWriter(file, PROBLEMS_SCHEMA, compression="zstd") as problems,
    ):
        for space in spec.spaces:
            store = EmbeddingStore(settings.embeddings_dir, space.space, space.fingerprint)
            items, vectors, n_problems = await asyncio.to_thread(
                _gather, folder, space, store, problems
            )
            if vectors is None:
                logger.warning(
                    "none of the %d items of the job %s that have a %s could be embedded",
                    *(n_problems, spec.id, space.space),
                )
                reports[space.space] = SpaceReport(problems=n_problems)
                continue
            # Beside a fold, of two versions that came after the same one the first would be lost.
            async with exclusive_in_turn(spaces.root / LOCK):
                reports[space.space] = await _publish(
                    spaces, spec, space, live, items, vectors, n_problems
                )
    return Report(ended=datetime.now(UTC), spaces=reports)


def _gather(
    folder: JobFolder, space: SpaceSpec, store: EmbeddingStore, problems: pq.ParquetWriter
) -> tuple[pa.Table, NDArray[np.float32] | None, int]:
    """The items that have a vector, by CONTENT_SCHEMA, and their vectors Float32[n, D], None where
    there are none; and how many have a content and no vector, which are added to the problems."""
    places = folder.places(space.space)
    source = Vectors(store, folder.parts(space.space))
    tables: list[pa.RecordBatch] = []
    vectors: NDArray[np.float32] | None = None
    start = n = n_problems = 0
    for batch in folder.items():
        here = places[start : start + len(batch)]
        start += len(batch)
        rows = np.flatnonzero(here != NOWHERE)
        hashes = batch[f"{space.space}_hash"].take(pa.array(rows))
        found, failed = source.at(here[rows], hash_words(hashes))
        n_problems += _tell(batch, space.space, rows, failed, problems)
        has = np.ones(len(rows), bool)
        has[list(failed)] = False
        if not has.any():
            continue
        if vectors is None:
            vectors = np.empty((int((places != NOWHERE).sum()), found.shape[1]), np.float32)
        vectors[n : n + int(has.sum())] = found[has]
        n += int(has.sum())
        kept = batch.select(ITEMS_SCHEMA.names).take(pa.array(rows[has]))
        columns = [*kept.columns, hashes.take(pa.array(np.flatnonzero(has)))]
        columns.append(pa.array(np.zeros(len(kept), bool)))
        tables.append(pa.record_batch(columns, schema=CONTENT_SCHEMA))
    found_items = pa.Table.from_batches(tables, CONTENT_SCHEMA)
    return found_items, None if vectors is None else vectors[:n], n_problems


def _tell(
    batch: pa.RecordBatch,
    space: str,
    rows: NDArray[np.int64],
    failed: dict[int, str],
    problems: pq.ParquetWriter,
) -> int:
    """Write down which items have no vector, and why: what could not be read at first, then those
    of the rows that failed. Returns how many."""
    unread = batch.filter(batch[f"{space}_problem"].is_valid())
    failures = batch["item_id"].take(pa.array(rows[list(failed)]))
    ids = pa.concat_arrays([unread["item_id"], failures])
    reasons = pa.concat_arrays(
        [unread[f"{space}_problem"], pa.array(list(failed.values()), pa.string())]
    )
    columns = [ids, pa.repeat(space, len(ids)), reasons]
    problems.write_batch(pa.record_batch(columns, schema=PROBLEMS_SCHEMA))
    return len(ids)


async def _publish(
    spaces: Spaces,
    spec: JobSpec,
    space: SpaceSpec,
    live: LiveItems,
    items: pa.Table,
    vectors: NDArray[np.float32],
    n_problems: int,
) -> SpaceReport:
    """Add the space's next version, unless the job has made it, and activate it once the live items
    that go out of service with the version before are live again."""
    name = space.space
    version = await asyncio.to_thread(_version, spaces, spec, space, items, vectors)
    manifest = spaces.manifest(name, version)
    done = version in spaces.activated(name)  # and what came after it must stay
    going = [] if done else await asyncio.to_thread(_going, spaces, space)
    returned, left = await live.put_back(going)
    if left:
        logger.warning(
            "%d live items are not in the next version of the space %s, since another encoder "
            "embedded them, and there is no room to put them back: put them in again",
            *(left, name),
        )
    if not done:
        await asyncio.to_thread(spaces.activate, name, version)
        await asyncio.to_thread(spaces.prune, name, KEPT)
    logger.info("the job %s became %s %s", spec.id, name, version)
    return SpaceReport(
        version=version,
        items=manifest.index["n"],
        carried=manifest.cost["carried"],
        returned=returned,
        left=left,
        problems=n_problems,
    )


def _version(
    spaces: Spaces,
    spec: JobSpec,
    space: SpaceSpec,
    items: pa.Table,
    vectors: NDArray[np.float32],
) -> str:
    """The version that the job has made of a space, or makes now: what it made beside a later one
    lacks what went into that."""
    name = space.space
    active, activated = spaces.active(name), spaces.activated(name)
    for version in reversed(spaces.versions(name)):
        try:
            manifest = spaces.manifest(name, version)
        except BundleRefused as error:
            logger.warning("%s", error)
            continue
        if manifest.job == spec.id and (version in activated or manifest.parent == active):
            return version
    parent = None if active is None else spaces.open_active(name)
    carried = 0
    if parent is not None and parent.manifest.fingerprint == space.fingerprint:
        live = np.flatnonzero(parent.catalogue[LIVE].to_numpy())
        items, vectors = _with_live(parent, live, items, vectors)
        carried = len(live)
    index = Index.build(vectors, **parent.index.asked) if parent else Index.build(vectors)
    writer = partial(
        seal_content,
        space=name,
        encoder=space.model,
        fingerprint=space.fingerprint,
        items=items,
        index=index,
        data_fingerprint=spec.data_fingerprint,
        cost={"contents": space.contents, "known": space.known, "carried": carried},
        job=spec.id,
        parent=None if parent is None else parent.version,
    )
    return spaces.add(name, writer)


def _going(spaces: Spaces, space: SpaceSpec) -> list[Item]:
    """The live items in the main indexes that have a content for the space, where the version of it
    in service is of another encoder than the next, or there is none."""
    active = spaces.encoders()
    if space.space in active and active[space.space].fingerprint == space.fingerprint:
        return []
    going: dict[str, Item] = {}
    for name in active:
        catalogue = spaces.open_active(name).catalogue
        mask = catalogue[LIVE]
        if space.space == "image":
            mask = pc.and_(mask, catalogue["image"].is_valid())
        going |= {item.item_id: item for item in items_of(catalogue.filter(mask))}
    return list(going.values())


def _with_live(
    parent: ContentBundle,
    live: NDArray[np.int64],
    items: pa.Table,
    vectors: NDArray[np.float32],
) -> tuple[pa.Table, NDArray[np.float32]]:
    """The items and vectors with the live ones of the version before: what was put in over the
    API goes before what the dataset says, as it did while it was in Redis."""
    if not len(live):
        return items, vectors
    theirs = parent.catalogue.select(CONTENT_SCHEMA.names).take(pa.array(live))
    stays = pc.invert(pc.is_in(items["item_id"], value_set=theirs["item_id"].combine_chunks()))
    return (
        pa.concat_tables([items.filter(stays), theirs]),
        np.concatenate([vectors[stays.to_numpy()], parent.vectors[live]]),
    )
