"""From a Dataset to the folder of an embedding job: its catalogue with what names its contents,
and the plan of what is new among them.

Everything is read in batches and nothing grows with the number of items but files: 16 bytes a
content to find what is alike, 8 an item for where its vector is going to be.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import atomic_folder
from recsys.data.dataset import ITEMS as DATASET_ITEMS
from recsys.data.dataset import ITEMS_SCHEMA, NoDataset, read_info
from recsys.embedding_store import HASH_BYTES, EmbeddingStore
from services.contents import Contents
from services.job_folder import ITEMS, JobFolder, JobSpec, SpaceSpec, row_batches
from services.job_plan import NothingToEmbed, Request, plan

Progress = Callable[[int, int | None], None]
"""Called with how many items were read and how many there are."""


def spool(
    jobs_dir: Path,
    dataset: Path,
    requests: Sequence[Request],
    stores: Mapping[str, EmbeddingStore],
    progress: Progress | None = None,
) -> JobFolder:
    """Write the folder of a new job, whole or not at all.

    stores: by space; what they hold already is not embedded again.
    Raises NoDataset, NothingToEmbed where no item has a content for a space, and Unreached where
    a content cannot be read for now.
    """
    dataset = dataset.absolute()
    info = read_info(dataset)
    if info.items == 0:
        raise NothingToEmbed(f"{dataset} has no items")
    created = datetime.now(UTC)
    folder = JobFolder(jobs_dir / f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
    with atomic_folder(folder.path) as draft_path:
        draft = JobFolder(draft_path)
        contents = Contents(dataset)
        n_items = _write_items(draft, dataset, contents, requests, info.items, progress)
        spaces: list[SpaceSpec] = []
        for request in requests:
            first = sum(each.chunks for each in spaces)
            store = stores[request.space]
            spaces.append(plan(draft, folder, contents, request, store, n_items, first))
        draft.write_spec(
            JobSpec(
                id=folder.id,
                created=created,
                dataset=dataset,
                data_fingerprint=info.fingerprint,
                items=n_items,
                spaces=spaces,
            )
        )
    return folder


def _write_items(
    draft: JobFolder,
    dataset: Path,
    contents: Contents,
    requests: Sequence[Request],
    n_items: int,
    progress: Progress | None,
) -> int:
    """Write the catalogue with the hashes of its contents; returns how many items there are."""
    added = {f"{r.space}_hash": pa.binary(HASH_BYTES) for r in requests}
    added |= {f"{r.space}_problem": pa.string() for r in requests}
    schema = pa.schema([*ITEMS_SCHEMA, *(pa.field(name, type_) for name, type_ in added.items())])
    done = 0
    with pq.ParquetWriter(draft.path / ITEMS, schema, compression="zstd") as writer:
        for batch in _catalogue(dataset):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for request in requests:
                found = contents.hashes(request.space, contents.of(request.space, batch))
                columns[f"{request.space}_hash"], columns[f"{request.space}_problem"] = found
            writer.write_batch(
                pa.record_batch([columns[name] for name in schema.names], schema=schema)
            )
            done += len(batch)
            if progress is not None:
                progress(done, n_items)
    return done


def _catalogue(dataset: Path) -> Iterator[pa.RecordBatch]:
    path = dataset / DATASET_ITEMS
    try:
        for batch in row_batches(path):
            yield batch.select(ITEMS_SCHEMA.names).cast(ITEMS_SCHEMA)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise NoDataset(f"{path} is no catalogue of a Dataset: {error}") from None
