"""Dataset: events and a catalogue in one folder, the only thing that training reads.

    events.parquet   user_id: string, item_id: string, timestamp: timestamp[ms, UTC],
                     event: string, value: float32
    items.parquet    item_id, title, text, image: string, tags: list<string>,
                     attributes: string (JSON), available: bool
    dataset.json     counts, fingerprint, source

Every item of an event is in items.parquet. A null timestamp means that only the order is known.
An image is a URI; a relative one starts in the Dataset's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import RecsysError
from infra.storage import atomic_folder, sha256
from recsys.data.histories import Histories
from recsys.data.vocabulary import Vocabulary

EVENTS, ITEMS, INFO = "events.parquet", "items.parquet", "dataset.json"

EVENTS_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
        pa.field("event", pa.string()),
        pa.field("value", pa.float32()),
    ]
)

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("image", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("attributes", pa.string()),
        pa.field("available", pa.bool_(), nullable=False),
    ]
)


class NoDataset(RecsysError):
    """A folder that is not a Dataset, or not a whole one."""


class DatasetInfo(BaseModel):
    """What dataset.json says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    users: int
    """Users with at least one event."""
    items: int
    """Items of the catalogue, those without an event included."""
    items_with_events: int
    events: int
    bad_rows: int
    """Malformed rows that the import left out."""
    source: str
    """What it was made from."""
    fingerprint: str
    """Changes with any byte of the events or the items."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A Dataset in memory: 20 bytes an event, up to 80 while it is loaded, and the catalogue."""

    path: Path
    info: DatasetInfo
    users: Vocabulary
    items: Vocabulary
    histories: Histories
    """Row u for user u, oldest first; events of the same time stand as they did in the file."""
    timestamps: NDArray[np.int64] | None
    """Int64[nnz], milliseconds since 1970, beside the histories' items; None where any is null."""
    values: NDArray[np.float32]
    """Float32[nnz], NaN where there is none."""
    catalogue: pa.Table
    """By ITEMS_SCHEMA, row i for item i."""

    @property
    def fingerprint(self) -> str:
        return self.info.fingerprint

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """The Dataset in the folder; raises NoDataset naming what is missing, broken or changed."""
        info = read_info(path)
        try:
            fingerprint = _fingerprint(path)
            catalogue = pq.read_table(path / ITEMS, schema=ITEMS_SCHEMA)
            events = pq.read_table(
                path / EVENTS,
                columns=["user_id", "item_id", "timestamp", "value"],
                read_dictionary=["user_id", "item_id"],
            )
        except (OSError, pa.ArrowException) as error:
            raise NoDataset(f"{path} is not a whole Dataset: {error}") from None
        if fingerprint != info.fingerprint:
            raise NoDataset(
                f"{path / EVENTS} or {path / ITEMS} is not the one that {INFO} describes: it was "
                "changed after the import. Import the data again"
            )
        items = Vocabulary(catalogue["item_id"])
        users, user_rows = _encoded(events["user_id"])
        event_items, item_codes = _encoded(events["item_id"])
        rows_of = items.rows(event_items)
        times = events["timestamp"].cast(pa.int64())
        timestamps = None if times.null_count else np.asarray(times.to_numpy(), np.int64)
        order = _order(user_rows, timestamps)
        values = events["value"].to_numpy().astype(np.float32)
        return cls(
            path=path,
            info=info,
            users=Vocabulary(users),
            items=items,
            histories=Histories.from_lengths(
                np.bincount(user_rows, minlength=len(users)), rows_of[item_codes[order]]
            ),
            timestamps=None if timestamps is None else timestamps[order],
            values=values[order],
            catalogue=catalogue,
        )


def read_info(path: Path) -> DatasetInfo:
    """What dataset.json in the folder says; raises NoDataset."""
    try:
        return DatasetInfo.model_validate_json((path / INFO).read_bytes())
    except FileNotFoundError:
        raise NoDataset(
            f"{path} is no Dataset: it holds no {INFO}. Make one with "
            f"`recsys data import {path} FOLDER`"
        ) from None
    except (OSError, ValidationError) as error:
        raise NoDataset(f"{path / INFO} cannot be read: {error}") from None


class DatasetWriter:
    """Writes events batch by batch; memory is bounded by the number of users and items."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = pq.ParquetWriter(folder / EVENTS, EVENTS_SCHEMA, compression="zstd")
        self._users = pa.array([], pa.string())
        self._items = pa.array([], pa.string())
        self.n_events = 0

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add events by EVENTS_SCHEMA."""
        table = pa.table(batch).cast(EVENTS_SCHEMA)
        self._writer.write_table(table)
        self.n_events += len(table)
        self._users = _union(self._users, table["user_id"])
        self._items = _union(self._items, table["item_id"])

    def close(self, catalogue: pa.Table | None, source: str, bad_rows: int) -> DatasetInfo:
        """Write the catalogue, completed by the items that only events name, and dataset.json."""
        self._writer.close()
        items = complete_catalogue(catalogue, self._items)
        pq.write_table(items, self._folder / ITEMS, compression="zstd")
        info = DatasetInfo(
            users=len(self._users),
            items=len(items),
            items_with_events=len(self._items),
            events=self.n_events,
            bad_rows=bad_rows,
            source=source,
            fingerprint=_fingerprint(self._folder),
        )
        (self._folder / INFO).write_text(info.model_dump_json(indent=2), encoding="utf-8")
        return info


def write_dataset(
    path: Path,
    event_batches: Iterable[pa.RecordBatch | pa.Table],
    catalogue: pa.Table | None,
    source: str,
) -> DatasetInfo:
    """Write a Dataset folder, whole or not at all.

    event_batches: by EVENTS_SCHEMA, in the order that breaks ties of time. catalogue: by
    ITEMS_SCHEMA, or None. Raises FileExistsError if the folder exists.
    """
    with atomic_folder(path) as folder:
        writer = DatasetWriter(folder)
        for batch in event_batches:
            writer.write(batch)
        return writer.close(catalogue, source, bad_rows=0)


def complete_catalogue(catalogue: pa.Table | None, event_items: pa.Array) -> pa.Table:
    """The catalogue, then the items that only events name, each titled by its id.

    Raises ValueError if an id of the catalogue is null or stands twice.
    """
    known = ITEMS_SCHEMA.empty_table() if catalogue is None else catalogue.cast(ITEMS_SCHEMA)
    Vocabulary(known["item_id"])
    is_new = pc.invert(pc.is_in(event_items, value_set=known["item_id"].combine_chunks()))
    new = event_items.filter(is_new)
    nulls = {name: pa.nulls(len(new), ITEMS_SCHEMA.field(name).type) for name in ITEMS_SCHEMA.names}
    added = nulls | {
        "item_id": new,
        "title": new,
        "available": pa.repeat(True, len(new)),
    }
    return pa.concat_tables([known, pa.table(added, schema=ITEMS_SCHEMA)]).combine_chunks()


def _fingerprint(folder: Path) -> str:
    digests = (sha256(folder / name) for name in (EVENTS, ITEMS))
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:32]


def _union(known: pa.Array, column: pa.ChunkedArray) -> pa.Array:
    """The known ids, then the new ones in order of first appearance."""
    return pc.unique(pa.chunked_array([known, column.unique()]))


def _encoded(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """The distinct ids in order of first appearance, and for each row which it is."""
    whole = column.unify_dictionaries().combine_chunks()
    return whole.dictionary, np.asarray(whole.indices.to_numpy(), np.int32)


def _order(user_rows: NDArray[np.int32], timestamps: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The events by user, then by time if there is any, then as they came."""
    if timestamps is None or len(timestamps) == 0:
        return np.argsort(user_rows, kind="stable")
    oldest, newest = int(timestamps.min()), int(timestamps.max())
    span = newest - oldest + 1
    if (int(user_rows.max()) + 1) * span > np.iinfo(np.int64).max:
        return np.lexsort((timestamps, user_rows))
    # One number for both sorts several times faster than two keys do.
    return np.argsort(user_rows * np.int64(span) + (timestamps - oldest), kind="stable")
