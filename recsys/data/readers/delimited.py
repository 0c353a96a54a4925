"""Delimited text: the fields of a block as strings, and the line of every row."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.readers.rows import BadRows, BadSource, Rows

NOT_UTF8 = (
    "it is not UTF-8; save the file as UTF-8 (iconv -f latin1 -t utf-8 FILE, if it is Latin-1)"
)


@dataclass(frozen=True)
class Format:
    """How the fields of a file are parted."""

    names: Sequence[str]
    """Of the columns."""
    delimiter: str
    """One character."""
    quoted: bool = True
    """Whether a field may stand between double quotes."""
    multiline: bool = False
    """Whether a field between quotes may go over several lines. Then a block must be a file."""


def parse(
    block: bytes,
    first_line: int,
    source: str,
    form: Format,
    bad: BadRows,
    wanted: Sequence[str] | None = None,
) -> Rows:
    """The fields as strings, of the wanted columns or of all.

    A row of another number of fields, of bytes that are not UTF-8 or with a quote that is not
    closed is malformed. Empty lines are passed over.
    """
    columns = [name for name in form.names if wanted is None or name in wanted]
    n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    table, skipped = _read(block, form, columns, threads=True)
    lines = first_line + np.arange(n_lines)
    if skipped or len(table) != n_lines:
        if form.multiline:
            lines = first_line + _first_lines(block)
        else:
            block, lines = _without_open_quotes(block, first_line, source, form, bad)
        table, skipped = _read(block, form, columns, threads=False)
        if len(table) + len(skipped) != len(lines):
            raise BadSource(f"{source}: the quotes do not pair, from line {first_line} on")
        for row, fields in skipped:
            reason = f"it has {fields} fields where {len(form.names)} belong"
            bad.add(f"{source}, line {lines[row]}", "the row", reason)
        lines = np.delete(lines, [row for row, _ in skipped])
    return decoded(Rows(table, lines, source, form.names), bad)


def decoded(rows: Rows, bad: BadRows) -> Rows:
    """The same with strings in place of bytes; a row of bytes that are not UTF-8 is malformed."""
    columns, good = {}, np.ones(len(rows.table), bool)
    for name in rows.table.column_names:
        column = rows.table[name]
        columns[name] = column
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            continue
        try:
            columns[name] = column.cast(pa.string())
        except pa.ArrowInvalid:
            wrong = [row for row in _not_ascii(column) if not is_utf8(column[row].as_py())]
            for row in wrong:
                if good[row]:
                    bad.add(rows.where(row), name, NOT_UTF8)
            good[wrong] = False
            as_text = pc.if_else(pa.array(good), column, None).cast(pa.string())
            columns[name] = as_text
    table = pa.table(columns)
    if not good.all():
        table = table.filter(pa.array(good))
    return Rows(table, rows.lines[good], rows.source, rows.columns, rows.unit)


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read(
    block: bytes, form: Format, columns: Sequence[str], *, threads: bool
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """The rows with the right number of fields; of the others, the row and how many it has. With
    threads nobody knows the row: it is -1."""
    skipped: list[tuple[int, int]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        skipped.append((-1 if row.number is None else row.number - 1, row.actual_columns))
        return "skip"

    table = pa.csv.read_csv(
        io.BytesIO(block),
        read_options=pa.csv.ReadOptions(
            column_names=list(form.names),
            use_threads=threads,
            block_size=len(block) + 1 if form.multiline else None,
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=form.delimiter,
            quote_char='"' if form.quoted else False,
            newlines_in_values=form.multiline,
            invalid_row_handler=note,
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(form.names, pa.binary()),
            include_columns=list(columns),
            strings_can_be_null=False,
        ),
    )
    return table, skipped


def _without_open_quotes(
    block: bytes, first_line: int, source: str, form: Format, bad: BadRows
) -> tuple[bytes, NDArray[np.int64]]:
    """The lines that are neither empty nor hold one end of a pair of quotes without the other,
    and which they are. Reached only where a block holds a malformed row or an empty line."""
    kept, lines = [], []
    mark = re.escape(form.delimiter.encode())
    at_end_of_field = re.compile(b'(^|%b)"|"(%b|\r?$)' % (mark, mark))
    for line, text in enumerate(block.split(b"\n"), start=first_line):
        if text in (b"", b"\r"):
            continue
        if form.quoted and text.count(b'"') % 2 and at_end_of_field.search(text):
            reason = "a quote opens or closes on it without the other"
            bad.add(f"{source}, line {line}", "the row", reason)
            continue
        kept.append(text)
        lines.append(line)
    return b"\n".join(kept) + b"\n", np.array(lines, np.int64)


def _first_lines(block: bytes) -> NDArray[np.int64]:
    """Int64[rows]: the lines, from 0, on which rows begin that may go on over several."""
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    ends_line = text == ord("\n")
    outside_quotes = np.cumsum(text == ord('"')) % 2 == 0
    ends = np.flatnonzero(ends_line & outside_quotes)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lines = np.concatenate([[0], np.cumsum(ends_line)[ends[:-1]]])
    empty = (ends == starts) | ((ends == starts + 1) & (text[starts] == ord("\r")))
    return np.asarray(lines[~empty], np.int64)


def _not_ascii(column: pa.ChunkedArray) -> NDArray[np.int64]:
    found = pc.fill_null(pc.match_substring_regex(column, r"[^\x00-\x7f]"), False)
    return np.flatnonzero(found.to_numpy())
