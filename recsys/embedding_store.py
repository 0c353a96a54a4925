"""Embedding store: the vectors of contents by what the contents are, one folder an encoder.

    <root>/<space>-<fingerprint>/<part>.arrow    hash: binary(16), vector: list<float32>[D],
                                                 problem: string

A part is what one chunk of a job became, row i = content i: a vector, or the problem why there is
none. It is written whole or not at all and never changed; a chunk that is done twice gives the same
part. Parts are mapped, not read: 16 bytes of a content are looked at to know that it is there.

A place says where a vector is: the number of a part in some list of them, then the row in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import RecsysError
from infra.storage import atomic_file

HASH_BYTES = 16
"""The first bytes of a content's SHA-256: of 10 billion contents no two are alike but with a
probability of 10^-19."""

NOWHERE = -1
"""The place of what has no vector."""

BUCKET = 1 << 17
"""About how many contents are looked at together to find those that are alike."""

BLOCK = 1 << 16
"""Rows that are read at a time."""

_SUFFIX = ".arrow"
_ROW_BITS = 32

Held = tuple[NDArray[np.int64], NDArray[np.uint64]]
"""Places Int64[m], and the hashes UInt64[m, 2] of the contents whose vectors are there, or will
be."""

_CLAIM = np.dtype([("high", "<u8"), ("low", "<u8"), ("order", "<i8")])
"""Somebody has a content: a row of the job, or, below zero, a place."""


class BrokenPart(RecsysError):
    """A file of the store that is not as it was written."""


class Part:
    """The vectors of one chunk."""

    def __init__(self, path: Path) -> None:
        """Map the file; raises BrokenPart."""
        try:
            with pa.memory_map(str(path)) as file:
                table = pa.ipc.open_file(file).read_all().combine_chunks()
            hashes, vectors, problems = (
                table[name].chunk(0) for name in ("hash", "vector", "problem")
            )
        except (pa.ArrowException, KeyError, IndexError) as error:
            raise BrokenPart(
                f"{path} is not as an embedding job wrote it ({error}): delete it, and embed again"
            ) from None
        self.has_vector: NDArray[np.bool_] = vectors.is_valid().to_numpy(zero_copy_only=False)
        """Bool[n]."""

        dim = vectors.type.list_size
        flat = vectors.values.to_numpy().reshape(-1, dim)
        self.vectors: NDArray[np.float32] = flat[vectors.offset : vectors.offset + len(vectors)]
        """Float32[n, D]; anything where there is none."""

        self.hashes: NDArray[np.uint64] = _words(hashes)
        """UInt64[n, 2]."""

        self.problems: pa.Array = problems
        """String[n], null where there is a vector."""


class EmbeddingStore:
    """All parts of one encoder."""

    def __init__(self, root: Path, space: str, fingerprint: str) -> None:
        self.folder = root / f"{space}-{fingerprint}"

    def parts(self) -> list[str]:
        """The names of the parts, sorted."""
        names = (path.name for path in self.folder.glob(f"*{_SUFFIX}"))
        return sorted(name.removesuffix(_SUFFIX) for name in names)

    def path(self, part: str) -> Path:
        return self.folder / f"{part}{_SUFFIX}"

    def open(self, part: str) -> Part | None:
        """The part, None if it is not there; raises BrokenPart."""
        path = self.path(part)
        return Part(path) if path.exists() else None

    def held(self, parts: Sequence[str], first: int = 0) -> Iterator[Held]:
        """Which contents have a vector in the parts, which are numbered from `first` on."""
        for number, name in enumerate(parts, first):
            part = self.open(name)
            if part is not None:
                rows = np.flatnonzero(part.has_vector)
                yield place(number, rows), part.hashes[rows]

    def count(self, parts: Sequence[str]) -> int:
        """How many contents are in the parts, those without a vector included."""
        return sum(len(part.hashes) for part in map(self.open, parts) if part)

    def write(
        self,
        part: str,
        hashes: pa.Array,
        vectors: NDArray[np.float32],
        problems: Mapping[int, str],
    ) -> None:
        """Write a part, durably.

        hashes: Binary(16)[n]. vectors: Float32[n, D]. problems: why a row has no vector.
        """
        n, dim = vectors.shape
        missing = np.zeros(n, bool)
        missing[list(problems)] = True
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        told = [problems.get(row) for row in range(n)] if problems else [None] * n
        columns = {
            "hash": hashes.cast(pa.binary(HASH_BYTES)),
            "vector": pa.FixedSizeListArray.from_arrays(flat, dim, mask=pa.array(missing)),
            "problem": pa.array(told, pa.string()),
        }
        table = pa.table(columns)
        with atomic_file(self.path(part)) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=n or None)


class Vectors:
    """The vectors at places, of which the parts are few at a time: what is near each other in a
    catalogue is near each other in the store."""

    def __init__(self, store: EmbeddingStore, parts: Sequence[str]) -> None:
        self._parts = parts
        self._store = store
        self._open = lru_cache(maxsize=64)(self._opened)

    def _opened(self, number: int) -> Part:
        part = self._store.open(self._parts[number])
        if part is None:
            raise BrokenPart(
                f"{self._store.path(self._parts[number])} is not there any more: embed again"
            )
        return part

    def at(
        self, places: NDArray[np.int64], hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Float32[n, D] and, by row, why it has none.

        places: Int64[n], none of them NOWHERE. hashes: UInt64[n, 2], of what must be there; raises
        BrokenPart where it is something else.
        """
        numbers, rows = part_of(places), places & ((1 << _ROW_BITS) - 1)
        order = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order])) + 1
        vectors: NDArray[np.float32] | None = None
        problems: dict[int, str] = {}
        for group in np.split(order, bounds) if len(order) else ():
            number = int(numbers[group[0]])
            part = self._open(number)
            taken = rows[group]
            if (taken >= len(part.hashes)).any() or (part.hashes[taken] != hashes[group]).any():
                raise BrokenPart(
                    f"{self._store.path(self._parts[number])} holds other contents than it did: "
                    "embed again"
                )
            if vectors is None:
                vectors = np.zeros((len(places), part.vectors.shape[1]), np.float32)
            has = part.has_vector[taken]
            vectors[group[has]] = part.vectors[taken[has]]
            reasons = part.problems.take(pa.array(taken[~has])).to_pylist()
            problems.update(zip(group[~has].tolist(), reasons, strict=True))
        return np.zeros((0, 0), np.float32) if vectors is None else vectors, problems


def place(number: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of rows in the part of that number."""
    return (np.int64(number) << _ROW_BITS) | rows


def part_of(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the part that each place is in."""
    return places >> _ROW_BITS


def hash_words(hashes: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """UInt64[n, 2] of Binary(16)[n] without nulls."""
    if isinstance(hashes, pa.ChunkedArray):
        hashes = hashes.combine_chunks()
    return _words(hashes)


def owners(
    batches: Iterator[pa.Array],
    n_rows: int,
    held: Iterator[Held],
    n_held: int,
    out: NDArray[np.int64],
    scratch: Path,
) -> None:
    """Find for each row who has its content: a place where it is held, or the first row with the
    same.

    batches: Binary(16), null where a row has no content, n_rows of them in all. held: about n_held
    contents in all.
    out: Int64[n_rows], may be a mapped file. Gets the first row with the same content; or, if it is
    held, -2 less the greatest place where it is; or NOWHERE.
    scratch: a folder with room for 24 bytes a content.

    All of them are compared and nothing of that size is in memory: whose hashes are alike meet in
    one of many buckets, files that are looked at one by one.
    """
    n_buckets = 1 + (n_rows + n_held) // BUCKET
    with tempfile.TemporaryDirectory(dir=scratch) as folder, ExitStack() as stack:
        buckets = [Path(folder) / str(i) for i in range(n_buckets)]
        files = [stack.enter_context(path.open("wb")) for path in buckets]

        def put(hashes: NDArray[np.uint64], order: NDArray[np.int64]) -> None:
            claims = np.empty(len(hashes), _CLAIM)
            claims["high"], claims["low"], claims["order"] = hashes[:, 0], hashes[:, 1], order
            which = claims["high"] % np.uint64(n_buckets)
            claims, which = claims[(by := np.argsort(which, kind="stable"))], which[by]
            ends = np.searchsorted(which, np.arange(n_buckets + 1, dtype=np.uint64))
            for file, begin, end in zip(files, ends[:-1], ends[1:], strict=True):
                claims[begin:end].tofile(file)

        for places, hashes in held:
            put(hashes, -2 - places)
        start = 0
        for batch in batches:
            out[start : start + len(batch)] = NOWHERE
            valid = batch.is_valid().to_numpy(zero_copy_only=False)
            put(hash_words(batch.drop_null()), start + np.flatnonzero(valid))
            start += len(batch)
        for file, path in zip(files, buckets, strict=True):
            file.close()
            _settle(np.fromfile(path, _CLAIM), out)


def _settle(claims: NDArray[np.void], out: NDArray[np.int64]) -> None:
    """Of those who have the same content the least owns it: a place before any row."""
    claims = claims[np.lexsort((claims["order"], claims["low"], claims["high"]))]
    other = np.ones(len(claims), bool)
    other[1:] = (claims["high"][1:] != claims["high"][:-1]) | (
        claims["low"][1:] != claims["low"][:-1]
    )
    owner = claims["order"][np.flatnonzero(other)[np.cumsum(other) - 1]]
    mine = claims["order"] >= 0
    out[claims["order"][mine]] = owner[mine]


def _words(hashes: pa.Array) -> NDArray[np.uint64]:
    buffer = hashes.buffers()[1]
    if buffer is None:
        return np.zeros((0, 2), np.uint64)
    words = np.frombuffer(buffer, "<u8").reshape(-1, 2)
    return words[hashes.offset : hashes.offset + len(hashes)]
