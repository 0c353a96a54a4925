"""What lies in the folder of an embedding job, `<state>/jobs/<id>/`.

    job.json               what is to be done: `JobSpec`
    items.parquet          the dataset's catalogue, and for each space `<space>_hash` of the content
                           or `<space>_problem` why it cannot be read; neither where there is none
    todo/000123.parquet    chunk 123: hash, content (the text, the picture's URI), item_id; and what
                           part of the store it becomes. Jobs that share a chunk share the file
    places-<space>.npy     Int64[N]: where the vector of each item is going to be
    parts-<space>.json     the parts of the store that places count
    report.json            how it ended: `Report`
    problems.parquet       item_id, space, reason: what has no vector

The folder appears whole, before Redis knows of the job. Once the job has ended, what was written
of its size is deleted: job.json, the report, the problems, and the small files of those who worked
on it are left.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import RecsysError
from infra.storage import UNFINISHED, atomic_file, exclusive
from recsys.embedding_store import HASH_BYTES

SPEC, ITEMS, REPORT, PROBLEMS = "job.json", "items.parquet", "report.json", "problems.parquet"

ROWS = 1 << 14
"""Items that are in memory together."""

TODO_SCHEMA = pa.schema(
    [
        pa.field("hash", pa.binary(HASH_BYTES), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
    ]
)

PART, DATASET = b"part", b"dataset"
"""What the metadata of a chunk's file says beside."""

PROBLEMS_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("item_id", "space", "reason")]
)

_ID = re.compile(r"[0-9a-f-]{1,40}")


class NoJob(RecsysError):
    """There is no such job, or its files are not whole."""


class SpaceSpec(BaseModel):
    """What is to be embedded in one space."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    space: str
    """`text` or `image`."""

    model: str
    """The encoder's, as it was asked for; a folder's whole path."""

    fingerprint: str
    """The encoder's."""

    chunk: int
    """The most contents in a chunk."""

    first: int
    """Its chunks are those from this number on."""

    chunks: int
    contents: int
    """In all its chunks."""

    known: int
    """Items whose content was embedded before."""

    absent: int
    """Items that have no such content."""

    unreadable: int
    """Items whose content could not be read, or is none, such as an empty text."""


class JobSpec(BaseModel):
    """What an embedding job is to do; never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str
    created: datetime
    """UTC."""

    dataset: Path
    """The Dataset's folder, where relative URIs of pictures start."""

    data_fingerprint: str
    items: int
    spaces: list[SpaceSpec]

    @property
    def chunks(self) -> int:
        return sum(each.chunks for each in self.spaces)

    @property
    def contents(self) -> int:
        """To be embedded."""
        return sum(each.contents for each in self.spaces)

    def space_of(self, chunk: int) -> SpaceSpec:
        """The space that a chunk is of."""
        return next(s for s in self.spaces if s.first <= chunk < s.first + s.chunks)


class SpaceReport(BaseModel):
    """How a job ended in one space."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    version: str | None = None
    """The content bundle that it became; None where no content has a vector, and the one before
    stays in service."""

    items: int = 0
    """That have a vector in it."""

    carried: int = 0
    """Of these, live items of the version before."""

    returned: int = 0
    """Live items that are not in it, since another encoder embedded them, and were put back among
    those that wait to be embedded."""

    left: int = 0
    """Such items for which there was no room."""

    problems: int
    """Items that have a content and no vector."""


class Report(BaseModel):
    """How a job ended."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ended: datetime
    spaces: dict[str, SpaceReport]


@dataclass(frozen=True)
class TodoHeader:
    """What a chunk is for."""

    part: str
    """The part of the store that it becomes."""

    dataset: Path
    """Where relative URIs of pictures start."""


AnyFile = TypeVar("AnyFile", JobSpec, Report)


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def named(cls, jobs_dir: Path, job: str) -> JobFolder:
        """The folder of the job of that id, which may come from anywhere; raises NoJob if it is no
        id."""
        if not _ID.fullmatch(job):
            raise NoJob(f"{job!r} is no job: `recsys jobs list` shows those that there are")
        return cls(jobs_dir / job)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def sealing_lock(self) -> Path:
        """Held by whoever seals the job."""
        return self.path / ".sealing"

    @property
    def problems_path(self) -> Path:
        """By PROBLEMS_SCHEMA: which items have a content and no vector."""
        return self.path / PROBLEMS

    def spec(self) -> JobSpec:
        """What is to be done; raises NoJob."""
        spec = self._read(SPEC, JobSpec)
        if spec is None:
            raise NoJob(
                f"there is no job {self.id!r} in {self.path.parent}: `recsys jobs list` shows "
                "those that there are. A worker must have the submitter's state folder"
            )
        return spec

    def report(self) -> Report | None:
        """How it ended, None while it has not; raises NoJob if that cannot be read."""
        return self._read(REPORT, Report)

    def write_spec(self, spec: JobSpec) -> None:
        (self.path / SPEC).write_text(spec.model_dump_json(indent=2) + "\n", "utf-8")

    def write_report(self, report: Report) -> None:
        with atomic_file(self.path / REPORT, "w") as file:
            file.write(report.model_dump_json(indent=2) + "\n")

    def problems(self) -> list[dict[str, str]]:
        """The rows of PROBLEMS."""
        rows: list[dict[str, str]] = pq.read_table(self.problems_path).to_pylist()
        return rows

    def todo_path(self, chunk: int) -> Path:
        return self.path / "todo" / f"{chunk:06d}.parquet"

    def write_todo(self, chunk: int, contents: pa.Table, part: str, dataset: Path) -> None:
        """contents: by TODO_SCHEMA."""
        path = self.todo_path(chunk)
        path.parent.mkdir(exist_ok=True)
        header = {PART: part.encode(), DATASET: str(dataset).encode()}
        pq.write_table(contents.replace_schema_metadata(header), path)

    def adopt_todo(self, chunk: int, path: Path) -> None:
        """Take the file of another job's chunk for one of this job."""
        self.todo_path(chunk).parent.mkdir(exist_ok=True)
        path.rename(self.todo_path(chunk))

    def todo(self, chunk: int) -> tuple[TodoHeader, pa.Table]:
        """What the chunk is for, and its contents by TODO_SCHEMA; raises NoJob if that cannot be
        read."""
        path = self.todo_path(chunk)
        header = todo_header(path)
        try:
            return header, pq.read_table(path, schema=TODO_SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise NoJob(f"chunk {chunk} of the job {self.id} cannot be read: {error}") from None

    def items(self) -> Iterator[pa.RecordBatch]:
        """The catalogue with its hashes, ROWS at a time."""
        return row_batches(self.path / ITEMS)

    def places(self, space: str) -> NDArray[np.int64]:
        """Int64[N], mapped: where the vector of each item is going to be."""
        mapped: NDArray[np.int64] = np.load(self.path / f"places-{space}.npy", mmap_mode="r")
        return mapped

    def write_parts(self, space: str, parts: list[str]) -> None:
        (self.path / f"parts-{space}.json").write_text(json.dumps(parts), "utf-8")

    def parts(self, space: str) -> list[str]:
        parts: list[str] = json.loads((self.path / f"parts-{space}.json").read_bytes())
        return parts

    def tidy(self) -> None:
        """Remove what is of no use once the job has ended."""
        shutil.rmtree(self.path / "todo", ignore_errors=True)
        for path in (self.path / ITEMS, *self.path.glob("p*-*.*")):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder, at once for all; raises BlockingIOError while the job is sealed."""
        with exclusive(self.sealing_lock):
            gone = self.path.rename(self.path.with_name(UNFINISHED + self.id))
        shutil.rmtree(gone)

    def _read(self, name: str, kind: type[AnyFile]) -> AnyFile | None:
        path = self.path / name
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise NoJob(
                f"{path} cannot be read: {error}. What its job embedded is kept without it: remove "
                "the folder, and embed again"
            ) from None


def sweep(jobs_dir: Path) -> None:
    """Delete what was left half written, or half deleted, by whoever was killed over it. Nobody may
    write a new job, or remove one, meanwhile."""
    for path in jobs_dir.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def row_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, ROWS at a time, of row groups of whatever size."""
    # Read ahead, a row group would be in memory as a whole.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        yield from file.iter_batches(ROWS, columns=columns, use_threads=False)


def todo_header(path: Path) -> TodoHeader:
    """What the file of a chunk says it is for; raises NoJob if it cannot be read."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return TodoHeader(metadata[PART].decode(), Path(metadata[DATASET].decode()))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise NoJob(f"the chunk in {path} cannot be read: {error}") from None
