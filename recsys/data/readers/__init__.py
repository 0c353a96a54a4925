"""Readers: other people's layouts become a Dataset, streaming and column by column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from infra.errors import RecsysError
from infra.storage import atomic_folder
from recsys.data.dataset import INFO, DatasetInfo, DatasetWriter
from recsys.data.readers.blocks import Member, Meter, members
from recsys.data.readers.catalogue import read_catalogue
from recsys.data.readers.movielens import MovieLens, layout_of
from recsys.data.readers.rows import BadRow, BadRows, BadSource, OnBadRow, Progress
from recsys.data.readers.sequences import Sequences, sequence_file_of
from recsys.data.readers.tables import SUFFIXES
from recsys.data.readers.tabular import Columns, Tabular

__all__ = ["BadRow", "BadSource", "Columns", "Reader", "detect", "import_dataset"]


class Reader(Protocol):
    """One layout of events and a catalogue."""

    size: int
    """Bytes of events."""

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Events by EVENTS_SCHEMA."""
        ...

    def catalogue(self, bad: BadRows) -> pa.Table | None:
        """Items by ITEMS_SCHEMA, where the layout has them."""
        ...


def detect(source: Path, columns: Columns | None = None) -> Reader:
    """The reader for what lies at `source`; raises BadSource saying what was looked for.

    columns: makes it a table; without, or with the default names, the layout is recognised.
    """
    files = members(source)
    if INFO in files:
        raise BadSource(f"{source} is a Dataset already: there is nothing to import")
    layout = layout_of(files)
    if layout is not None and columns in (None, Columns()):
        return MovieLens(files, layout)
    tables = [member for name, member in files.items() if name.lower().endswith(SUFFIXES)]
    if len(tables) == 1:
        return Tabular(tables[0], columns or Columns())
    sequences = sequence_file_of(files)
    if sequences is not None:
        return Sequences(files, sequences)
    raise BadSource(
        f"{source} is in no layout that is known. Looked for MovieLens (u.data, ratings.csv or "
        "ratings.dat), one file of sequences (lines of `user item` or `user item item …`, .txt), "
        f"and one table ({', '.join(SUFFIXES)}); there is {', '.join(sorted(files)) or 'nothing'}"
    )


def import_dataset(
    source: Path,
    destination: Path,
    *,
    columns: Columns | None = None,
    catalogue: Path | None = None,
    on_bad_row: OnBadRow = "reject",
    progress: Progress | None = None,
) -> DatasetInfo:
    """Read a layout (see `detect`) into a Dataset folder, whole or not at all.

    columns: what the columns of a table are called. catalogue: a table of the items, in place of
    the one that the layout brings. Memory is bounded by the catalogue, the number of users and a
    block of the file. Raises BadRow, BadSource, and RecsysError if the destination exists.
    """
    bad = BadRows(on_bad_row)
    reader = detect(source, columns)
    meter = Meter(progress, reader.size)
    try:
        with atomic_folder(destination) as folder:
            writer = DatasetWriter(folder)
            for table in reader.events(bad, meter):
                writer.write(table)
            if writer.n_events == 0:
                left_out = f": all {bad.count} rows were malformed" if bad.count else ""
                raise BadSource(f"{source} holds no event{left_out}")
            items = reader.catalogue(bad)
            if catalogue is not None:
                items = read_catalogue(_one_table(catalogue), bad)
            return writer.close(items, source.name, bad.count)
    except FileExistsError:
        raise RecsysError(
            f"{destination} exists already: choose another folder, or delete it first"
        ) from None


def _one_table(path: Path) -> Member:
    files = members(path)
    if len(files) != 1 or not path.name.lower().endswith(SUFFIXES):
        raise BadSource(f"{path} is no table of items ({', '.join(SUFFIXES)})")
    return next(iter(files.values()))
