"""From a Dataset to the folder of an embedding job: what is new in it, cut into chunks.

Everything is read in batches and nothing grows with the number of items but files: 16 bytes a
content to find what is alike, 8 an item for where its vector is going to be. Contents of about the
same length come together, for those are encoded fastest. The same dataset on the same store gives
the same chunks.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from encoders.item_text import item_texts
from infra.errors import RecsysError
from infra.roots import Roots, Unreadable
from infra.storage import atomic_folder
from recsys.data.dataset import ITEMS as DATASET_ITEMS
from recsys.data.dataset import ITEMS_SCHEMA, NoDataset, read_info
from recsys.embedding_store import (
    BLOCK,
    HASH_BYTES,
    NOWHERE,
    EmbeddingStore,
    owners,
    place,
)
from services.job_folder import (
    ITEMS,
    TODO_SCHEMA,
    JobFolder,
    JobSpec,
    SpaceSpec,
    part_name,
    row_batches,
)

CHUNK = {"text": 512, "image": 64}
"""The most contents in a chunk: a few seconds of work for a core."""

MAX_PICTURE = 20 << 20
"""Bytes of the largest picture of an item that is read, by a job or put in over the API."""

READERS = 8
"""Pictures that are read at the same time."""

Progress = Callable[[int, int | None], None]
"""Called with how many items were read and how many there are."""


class NothingToEmbed(RecsysError):
    """No item has a content for the space."""


@dataclass(frozen=True)
class Request:
    """What a job is asked to do in one space."""

    space: str
    model: str
    fingerprint: str
    chunk: int


class Contents:
    """The contents of catalogue rows: texts, and pictures by their URIs."""

    def __init__(self, folder: Path) -> None:
        """folder: the Dataset's, from which pictures are read."""
        self._folder = folder

    @cached_property
    def _roots(self) -> Roots:
        return Roots([self._folder])

    def of(self, space: str, batch: pa.RecordBatch) -> pa.Array:
        """String[n]: an item's text, or its picture's URI; null where it has none."""
        if space == "text":
            return item_texts(pa.table(batch))
        return batch["image"]

    def read(self, space: str, content: str) -> bytes:
        """What is encoded; raises Unreadable."""
        return content.encode() if space == "text" else self._roots.read(content, MAX_PICTURE)

    def hashes(self, space: str, contents: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Binary(16)[n], and String[n] why there is none where a content cannot be read."""
        look = partial(self._look, space)
        if space == "text":
            looks = [look(each) for each in contents.to_pylist()]
        else:
            with ThreadPoolExecutor(READERS) as pool:
                looks = list(pool.map(look, contents.to_pylist()))
        found, problems = zip(*looks, strict=True) if looks else ((), ())
        return pa.array(found, pa.binary(HASH_BYTES)), pa.array(problems, pa.string())

    def _look(self, space: str, content: str | None) -> tuple[bytes | None, str | None]:
        if content is None:
            return None, None
        try:
            return content_hash(self.read(space, content)), None
        except Unreadable as error:
            return None, error.message


def content_hash(content: bytes) -> bytes:
    """What names a content: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(content).digest()[:HASH_BYTES]


def spool(
    jobs_dir: Path,
    dataset: Path,
    requests: Sequence[Request],
    stores: Mapping[str, EmbeddingStore],
    progress: Progress | None = None,
) -> JobFolder:
    """Write the folder of a new job, whole or not at all.

    stores: by space; what they hold already is not embedded again.
    Raises NoDataset, and NothingToEmbed where no item has a content for a space.
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
            spaces.append(_plan(draft, folder.id, contents, request, store, n_items, first))
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


def _plan(
    draft: JobFolder,
    job: str,
    contents: Contents,
    request: Request,
    store: EmbeddingStore,
    n_items: int,
    first: int,
) -> SpaceSpec:
    """Cut what is new into chunks from the number `first` on, and write where each item's vector
    is going to be."""
    space, hash_, problem = request.space, f"{request.space}_hash", f"{request.space}_problem"
    parts = store.parts()
    owner_path = draft.path / f"owners-{space}.npy"
    owner = _new_array(owner_path, n_items)
    hashes = (batch[hash_] for batch in row_batches(draft.path / ITEMS, [hash_]))
    owners(hashes, n_items, store, parts, owner, draft.path)
    places = _new_array(draft.path / f"places-{space}.npy", n_items)
    start, chunks, n_contents, absent, unreadable = 0, 0, 0, 0, 0
    for batch in draft.items():
        new = np.flatnonzero(owner[start : start + len(batch)] == start + np.arange(len(batch)))
        table = pa.table(
            {
                "hash": batch[hash_].take(pa.array(new)),
                "content": contents.of(space, batch).take(pa.array(new)),
                "item_id": batch["item_id"].take(pa.array(new)),
            },
            schema=TODO_SCHEMA,
        )
        for rows in _pieces(table["content"], request.chunk):
            chunk = first + chunks
            draft.write_todo(chunk, table.take(pa.array(rows)))
            places[start + new[rows]] = place(len(parts) + chunks, np.arange(len(rows)))
            chunks += 1
        n_contents += len(new)
        unreadable += len(batch) - batch[problem].null_count
        absent += batch[hash_].null_count - (len(batch) - batch[problem].null_count)
        start += len(batch)
    known = _resolve(owner, places)
    if n_contents + known == 0:
        raise NothingToEmbed(
            f"no item of the dataset has {'a picture' if space == 'image' else 'a text'} that can "
            f"be read: {absent} have none, {unreadable} could not be read"
        )
    owner_path.unlink()
    draft.write_parts(space, [*parts, *(part_name(job, first + i) for i in range(chunks))])
    return SpaceSpec(
        space=space,
        model=request.model,
        fingerprint=request.fingerprint,
        chunk=request.chunk,
        first=first,
        chunks=chunks,
        contents=n_contents,
        known=known,
        absent=absent,
        unreadable=unreadable,
    )


def _pieces(contents: pa.ChunkedArray, most: int) -> list[NDArray[np.int64]]:
    """The rows of contents, the shortest first, in as few pieces of about the same size as may
    be."""
    if len(contents) == 0:
        return []
    order = np.argsort(pc.binary_length(contents).to_numpy(), kind="stable")
    return np.array_split(order, -(-len(order) // most))


def _resolve(owner: NDArray[np.int64], places: NDArray[np.int64]) -> int:
    """Complete the places by those that the owners have; returns how many the store has."""
    known = 0
    for start in range(0, len(owner), BLOCK):
        own, there = owner[start : start + BLOCK], places[start : start + BLOCK]
        stored, shared = own < NOWHERE, own >= 0
        there[shared] = places[own[shared]]
        there[stored] = -2 - own[stored]
        there[own == NOWHERE] = NOWHERE
        known += int(stored.sum())
    return known


def _new_array(path: Path, n: int) -> np.memmap[tuple[int], np.dtype[np.int64]]:
    """Int64[n] in a file."""
    mapped: np.memmap[tuple[int], np.dtype[np.int64]] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.int64, shape=(n,)
    )
    return mapped
