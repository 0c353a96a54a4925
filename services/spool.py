"""From a Dataset to the folder of an embedding job: its catalogue with what names its contents,
and the plan of what is new among them.

Everything is read in batches and nothing grows with the number of items but files: 16 bytes a
content to find what is alike, 8 an item for where its vector is going to be.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import atomic_folder
from recsys.data.dataset import ITEMS as DATASET_ITEMS
from recsys.data.dataset import ITEMS_SCHEMA, NoDataset, read_info
from recsys.embedding_store import HASH_BYTES, EmbeddingStore, owners
from services.contents import Contents, content_hash
from services.job_folder import ITEMS, JobFolder, JobSpec, SpaceSpec, row_batches
from services.job_plan import NothingToEmbed, Request, new_array, plan

NAMED = 5
"""The most items that an error names."""

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
    Raises NoDataset, also where an item stands twice in it, NothingToEmbed where no item has a
    content for a space, and Unreached where a content cannot be read for now.
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
        _check_ids(dataset / DATASET_ITEMS, draft_path)
        n_items = _write_items(draft, dataset, contents, requests, info.items, progress)
        spaces: list[SpaceSpec] = []
        for request in requests:
            first = sum(each.chunks for each in spaces)
            store = stores[request.space]
            spaces.append(
                plan(draft, folder, contents, info.fingerprint, request, store, n_items, first)
            )
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


def _check_ids(path: Path, scratch: Path) -> None:
    """Raise NoDataset unless each row of the catalogue is another item.

    scratch: a folder with room for 32 bytes an item."""

    def ids() -> Iterator[pa.Array]:
        with _reading(path):
            for batch in row_batches(path, ["item_id"]):
                yield batch["item_id"].cast(pa.string())

    repeated: list[str] = []
    with _reading(path):
        n_rows = pq.read_metadata(path).num_rows
    with TemporaryDirectory(dir=scratch) as folder:
        first = new_array(Path(folder) / "first.npy", n_rows)
        owners(map(_id_hashes, ids()), n_rows, iter(()), 0, first, Path(folder))
        start = 0
        for batch in ids():
            if batch.null_count:
                raise NoDataset(f"{path} has an item without an id: give it one")
            again = first[start : start + len(batch)] != start + np.arange(len(batch))
            repeated += batch.filter(pa.array(again)).to_pylist()
            start += len(batch)
    if repeated:
        named = ", ".join(map(repr, sorted(set(repeated))[:NAMED]))
        raise NoDataset(
            f"{path} has items in more than one row, such as {named}: leave one row of each, and "
            "import the data again"
        )


def _id_hashes(ids: pa.Array) -> pa.Array:
    hashes = [None if each is None else content_hash(each.encode()) for each in ids.to_pylist()]
    return pa.array(hashes, pa.binary(HASH_BYTES))


def _catalogue(dataset: Path) -> Iterator[pa.RecordBatch]:
    path = dataset / DATASET_ITEMS
    with _reading(path):
        for batch in row_batches(path):
            yield batch.select(ITEMS_SCHEMA.names).cast(ITEMS_SCHEMA)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise NoDataset(f"{path} is no catalogue of a Dataset: {error}") from None
