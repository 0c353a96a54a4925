"""Text from a file, a folder or a zip, in blocks of whole lines with their line numbers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.readers.rows import BadRows, BadSource, Progress

BLOCK = 32 * 2**20
"""Bytes that are parsed together: what bounds the memory of an import."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Member:
    """One file, as it lies or in a zip."""

    path: Path
    inside: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name if self.inside else self.path.name

    def __str__(self) -> str:
        return f"{self.path}:{self.inside}" if self.inside else str(self.path)

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        if self.inside is None:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.inside).file_size

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes; raises BadSource if the zip is broken."""
        if self.inside is None:
            with self.path.open("rb") as file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.inside) as file:
                yield file
        except (zipfile.BadZipFile, EOFError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
            raise BadSource(f"{self} is broken: {error}; fetch it again") from None


def members(source: Path) -> dict[str, Member]:
    """The files of a folder, of a zip (in whatever folder they are inside it), or the file itself,
    by name. Raises BadSource if there is nothing there or the zip is broken."""
    if not source.exists():
        raise BadSource(f"{source}: there is no such file or folder")
    if source.is_dir():
        return {path.name: Member(path) for path in sorted(source.iterdir()) if path.is_file()}
    if source.suffix != ".zip":
        return {source.name: Member(source)}
    try:
        with zipfile.ZipFile(source) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise BadSource(
            f"{source} is no zip, or not a whole one: {error}; fetch it again"
        ) from None
    return {PurePosixPath(name).name: Member(source, name) for name in names}


@dataclass
class Meter:
    """Tells a progress callback of the bytes read over several files."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, n_bytes: int) -> None:
        self.done += n_bytes
        if self.progress is not None:
            self.progress(self.done, self.total)


def blocks(member: Member, meter: Meter | None = None) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each with the number of its first line, counted from 1.

    Raises BadSource if the file is empty.
    """
    line, rest = 1, b""
    with member.open() as file:
        while chunk := file.read(BLOCK):
            if meter is not None:
                meter.add(len(chunk))
            if line == 1 and not rest:
                chunk = chunk.removeprefix(BOM)
            end = chunk.rfind(b"\n") + 1
            if end == 0:
                rest += chunk
                continue
            block, rest = rest + chunk[:end], chunk[end:]
            yield line, block
            line += block.count(b"\n")
    if rest:
        yield line, rest
    elif line == 1:
        raise BadSource(f"{member} is empty")


def parse(
    block: bytes,
    first_line: int,
    *,
    source: str,
    names: Sequence[str],
    delimiter: str,
    bad: BadRows,
    quoted: bool = True,
) -> tuple[pa.Table, NDArray[np.int64]]:
    """The fields of a block as strings, and the line of each row Int64[n].

    A row of another number of fields or of bytes that are not UTF-8 is malformed.
    """
    skipped: list[tuple[int | None, int]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        skipped.append((row.number, row.actual_columns))
        return "skip"

    def read(*, threads: bool) -> pa.Table:
        skipped.clear()
        return pa.csv.read_csv(
            io.BytesIO(block),
            read_options=pa.csv.ReadOptions(column_names=list(names), use_threads=threads),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False
            ),
        )

    table = read(threads=True)
    if skipped:
        table = read(threads=False)  # only one thread knows the numbers of the rows
    rows_skipped = np.array([int(number or 1) for number, _ in skipped], np.int64)
    for number, (_, fields) in zip(rows_skipped, skipped, strict=True):
        bad.add(
            source,
            first_line + int(number) - 1,
            "the row",
            f"it has {fields} fields where {len(names)} belong",
        )
    n = len(table) + len(skipped)
    lines = first_line + np.setdiff1d(np.arange(n), rows_skipped - 1, assume_unique=True)
    return _decoded(table, lines, source, bad)


def _decoded(
    table: pa.Table, lines: NDArray[np.int64], source: str, bad: BadRows
) -> tuple[pa.Table, NDArray[np.int64]]:
    try:
        return table.cast(pa.schema([(name, pa.string()) for name in table.column_names])), lines
    except pa.ArrowInvalid:
        good = np.ones(len(table), bool)
        for name in table.column_names:
            for i, value in enumerate(table[name].to_pylist()):
                if good[i] and not _is_utf8(value):
                    reason = "it is not UTF-8; convert the file (iconv -f latin1 -t utf-8)"
                    bad.add(source, int(lines[i]), name, reason)
                    good[i] = False
        kept = table.filter(pa.array(good))
        return kept.cast(pa.schema([(n, pa.string()) for n in kept.column_names])), lines[good]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def strings(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.string())


def split_list(column: pa.Array, separator: str) -> pa.Array:
    """Each text split into a list; an empty or null text gives an empty list."""
    filled = pc.fill_null(column, "")
    parts = pc.split_pattern(filled, separator)
    return pc.if_else(pc.equal(filled, ""), pa.scalar([], pa.list_(pa.string())), parts)
