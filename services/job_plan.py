"""The plan of an embedding job in one space: what is new, cut into chunks, and where the vector of
each item is going to be.

Contents of about the same length come together, for those are encoded fastest. What another job of
the same encoder is going to embed is not cut again: its chunk, the very file, becomes a chunk of
this job too, and makes the same part of the store whichever job comes to it first. A chunk of
pictures holds only where they lie, so it is taken from jobs of the same dataset alone: another one
may be moved or deleted by itself. The same dataset on the same store gives the same chunks.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from encoders.text_input import MAX_TEXT
from infra.errors import RecsysError
from recsys.embedding_store import (
    BLOCK,
    NOWHERE,
    EmbeddingStore,
    Held,
    hash_words,
    owners,
    part_of,
    place,
)
from services.contents import Contents
from services.job_folder import (
    ITEMS,
    TODO_SCHEMA,
    JobFolder,
    NoJob,
    SpaceSpec,
    row_batches,
    todo_header,
)

logger = logging.getLogger(__name__)

CHUNK = {"text": 512, "image": 64}
"""The most contents in a chunk: a few seconds of work for a core."""

CHUNK_BYTES = 8 << 20
"""The most bytes of texts in a chunk."""


class NothingToEmbed(RecsysError):
    """No item has a content for the space."""


@dataclass(frozen=True)
class Request:
    """What a job is asked to do in one space."""

    space: str
    model: str
    fingerprint: str
    chunk: int


def plan(
    draft: JobFolder,
    folder: JobFolder,
    contents: Contents,
    data_fingerprint: str,
    request: Request,
    store: EmbeddingStore,
    n_items: int,
    first: int,
) -> SpaceSpec:
    """Write the job's chunks from the number `first` on, and the places of its items.

    draft: the folder that is going to be `folder`, with the catalogue of n_items items in it.
    data_fingerprint: the Dataset's.
    No other job of the encoder may be planned meanwhile.
    Raises NothingToEmbed where no item has a content.
    """
    space, hash_, problem = request.space, f"{request.space}_hash", f"{request.space}_problem"
    links = draft.path / f"shared-{space}"
    # The store is looked at after it: the files of a job go when all its parts are in the store.
    source = (contents.folder, data_fingerprint)
    linked = _link_shared(folder.path.parent, request, source, links)
    stored = store.parts()
    shared = sorted(linked - set(stored))
    owner_path = draft.path / f"owners-{space}.npy"
    owner = new_array(owner_path, n_items)
    hashes = (batch[hash_] for batch in row_batches(draft.path / ITEMS, [hash_]))
    # Places in the store are the greater ones: where a content is in both, they own it.
    held = chain(_promised(links, shared), store.held(stored, len(shared)))
    n_held = store.count(stored) + sum(pq.read_metadata(links / name).num_rows for name in shared)
    owners(hashes, n_items, held, n_held, owner, draft.path)
    places = new_array(draft.path / f"places-{space}.npy", n_items)
    own: list[str] = []
    example = ""
    start, n_contents, absent, unreadable = 0, 0, 0, 0
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
            chunk = first + len(own)
            own.append(f"{folder.id}-{chunk:06d}")
            draft.write_todo(chunk, table.take(pa.array(rows)), own[-1], contents.folder)
            number = len(shared) + len(stored) + len(own) - 1
            places[start + new[rows]] = place(number, np.arange(len(rows)))
        n_contents += len(new)
        problems = batch[problem].drop_null()
        example = example or (f": {problems[0]}" if len(problems) else "")
        unreadable += len(problems)
        absent += batch[hash_].null_count - len(problems)
        start += len(batch)
    known, used = _resolve(owner, places, len(shared))
    for chunk, number in enumerate(used, first + len(own)):
        path = links / shared[number]
        n_contents += pq.read_metadata(path).num_rows
        draft.adopt_todo(chunk, path)
    if n_contents + known == 0:
        raise NothingToEmbed(
            f"no item of the dataset has {'a picture' if space == 'image' else 'a text'} that can "
            f"be embedded: {absent} have none, {unreadable} have one that is refused{example}"
        )
    owner_path.unlink()
    shutil.rmtree(links)
    draft.write_parts(space, [*shared, *stored, *own])
    return SpaceSpec(
        space=space,
        model=request.model,
        fingerprint=request.fingerprint,
        chunk=request.chunk,
        first=first,
        chunks=len(own) + len(used),
        contents=n_contents,
        known=known,
        absent=absent,
        unreadable=unreadable,
    )


def _link_shared(
    jobs_dir: Path, request: Request, source: tuple[Path, str], links: Path
) -> set[str]:
    """Link the chunks of jobs of the encoder that have not ended into a new folder, each by the
    name of the part that it becomes; returns the names.

    source: the Dataset's folder and fingerprint, which are also another job's if it may share
    pictures."""
    links.mkdir()
    names: set[str] = set()
    for path in sorted(jobs_dir.glob("[0-9]*")):
        job = JobFolder(path)
        try:
            if job.report() is not None:
                continue
            spec = job.spec()
        except NoJob as error:
            logger.warning("%s", error)
            continue
        if request.space == "image" and (spec.dataset, spec.data_fingerprint) != source:
            continue
        for space in spec.spaces:
            if (space.space, space.fingerprint) != (request.space, request.fingerprint):
                continue
            for chunk in range(space.first, space.first + space.chunks):
                link = links / f"{chunk:06d}"
                try:
                    link.hardlink_to(job.todo_path(chunk))
                except FileNotFoundError:
                    break  # it has ended
                try:
                    name = todo_header(link).part
                except NoJob as error:
                    logger.warning("%s", error)
                    link.unlink()
                    continue
                link.rename(links / name)
                link.unlink(missing_ok=True)  # what is the same file already stays as well
                names.add(name)
    return names


def _promised(links: Path, shared: list[str]) -> Iterator[Held]:
    """What the shared chunks are going to hold."""
    for number, name in enumerate(shared):
        hashes = hash_words(pq.read_table(links / name, columns=["hash"])["hash"])
        yield place(number, np.arange(len(hashes))), hashes


def _pieces(contents: pa.ChunkedArray, most: int) -> list[NDArray[np.int64]]:
    """The rows of contents, the shortest first, in few pieces of about the same size, none of them
    with more than `most` rows or CHUNK_BYTES."""
    if len(contents) == 0:
        return []
    sizes = pc.binary_length(contents).to_numpy()
    order = np.argsort(sizes, kind="stable")
    # The first text of a group is counted in part to the one before, and is no longer than may be.
    groups = np.cumsum(sizes[order], dtype=np.int64) // (CHUNK_BYTES - MAX_TEXT)
    pieces: list[NDArray[np.int64]] = []
    for group in np.split(order, np.flatnonzero(np.diff(groups)) + 1):
        pieces += np.array_split(group, -(-len(group) // most))
    return pieces


def _resolve(
    owner: NDArray[np.int64], places: NDArray[np.int64], n_shared: int
) -> tuple[int, list[int]]:
    """Complete the places by those that the owners have; returns how many the store has, and the
    numbers of the shared chunks, of n_shared, that are needed."""
    known, used = 0, set[int]()
    for start in range(0, len(owner), BLOCK):
        own, there = owner[start : start + BLOCK], places[start : start + BLOCK]
        held, alike = own < NOWHERE, own >= 0
        there[alike] = places[own[alike]]
        there[held] = -2 - own[held]
        there[own == NOWHERE] = NOWHERE
        numbers = part_of(there[held])
        known += int((numbers >= n_shared).sum())
        used.update(np.unique(numbers[numbers < n_shared]).tolist())
    return known, sorted(used)


def new_array(path: Path, n: int) -> np.memmap[tuple[int], np.dtype[np.int64]]:
    """Int64[n] in a file."""
    mapped: np.memmap[tuple[int], np.dtype[np.int64]] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.int64, shape=(n,)
    )
    return mapped
