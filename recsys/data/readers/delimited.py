"""Delimited text: the fields of a block as strings, and the line of every row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.readers.rows import BadRows, BadSource, Rows

NOT_UTF8 = (
    "it is not UTF-8; save the file as UTF-8 (iconv -f latin1 -t utf-8 FILE, if it is Latin-1)"
)

BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())
TEXTS = (*BYTES, pa.string(), pa.large_string(), pa.string_view())


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

    A row of another number of fields, of bytes that are not UTF-8, with a quote that is not
    closed or a carriage return that ends no line is malformed. Empty lines are passed over.
    """
    columns = [name for name in form.names if wanted is None or name in wanted]
    n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    try:
        table = _read(block, form, columns)
    except pa.ArrowInvalid:
        table = None
    # Arrow takes the end of a block for a closing quote, and the number of rows is right then.
    last_line = block.removesuffix(b"\n").rpartition(b"\n")[2]
    if table is not None and len(table) == n_lines and _is_closed(last_line, form):
        lines = first_line + np.arange(n_lines)
        return decoded(Rows(table, lines, source, form.names), bad)
    block, lines = _sound(block, first_line, source, form, bad)
    if not len(lines):
        none = pa.table({name: pa.array([], pa.string()) for name in columns})
        return Rows(none, lines, source, form.names)
    table, skipped = _read_with_care(block, form, columns, f"{source}, from line {first_line} on")
    if len(table) + len(skipped) != len(lines):
        raise BadSource(f"{source}: the quotes do not pair, from line {first_line} on")
    for row, fields in skipped:
        _refuse_width(bad, f"{source}, line {lines[row]}", fields, form)
    lines = np.delete(lines, [row for row, _ in skipped])
    return decoded(Rows(table, lines, source, form.names), bad)


def decoded(rows: Rows, bad: BadRows) -> Rows:
    """The same with text and bytes, and those in lists, as `string`; a row of bytes that are not
    UTF-8 is malformed."""
    columns, good = {}, np.ones(len(rows.table), bool)
    for name in rows.table.column_names:
        column = rows.table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns[name] = column
        within, text, raw = column.type, pa.string(), pa.binary()
        if is_list(column.type):
            within, text, raw = column.type.value_type, pa.list_(text), pa.list_(raw)
        if within not in TEXTS:
            continue
        try:
            columns[name] = column.cast(text)
            if within not in BYTES:  # nobody has checked text that came as such
                columns[name].validate(full=True)
        except pa.ArrowInvalid:
            column = column.cast(raw)
            wrong = _not_utf8(column)
            for row in wrong:
                if good[row]:
                    bad.add(rows.where(row), name, NOT_UTF8)
            good[wrong] = False
            columns[name] = pc.if_else(pa.array(good), column, None).cast(text)
    table = pa.table(columns)
    if not good.all():
        table = table.filter(pa.array(good))
    return Rows(table, rows.lines[good], rows.source, rows.columns, rows.unit)


def is_list(kind: pa.DataType) -> bool:
    found: bool = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return found


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read(block: bytes, form: Format, columns: Sequence[str]) -> pa.Table:
    """The fields as bytes; raises ArrowInvalid if a row has another number of them, or is longer
    than what Arrow gives a thread."""
    size = len(block) + 1 if form.multiline else None
    return pa.csv.read_csv(
        io.BytesIO(block),
        pa.csv.ReadOptions(column_names=list(form.names), block_size=size),
        _parse_options(form),
        _convert_options(form, columns),
    )


def _read_with_care(
    block: bytes, form: Format, columns: Sequence[str], where: str
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """The rows with the right number of fields; of the others, the row and how many it has."""
    skipped: list[tuple[int, int]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        skipped.append((row.number - 1, row.actual_columns))
        return "skip"

    # Only one thread numbers the rows that it leaves out.
    read = pa.csv.ReadOptions(
        column_names=list(form.names), block_size=len(block) + 1, use_threads=False
    )
    try:
        table = pa.csv.read_csv(
            io.BytesIO(block),
            read,
            _parse_options(form, invalid_row_handler=note),
            _convert_options(form, columns),
        )
    except pa.ArrowInvalid as error:
        raise BadSource(f"{where}: {error}") from None
    return table, skipped


def _parse_options(form: Format, **options: Any) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(
        delimiter=form.delimiter,
        quote_char='"' if form.quoted else False,
        newlines_in_values=form.multiline,
        **options,
    )


def _convert_options(form: Format, columns: Sequence[str]) -> pa.csv.ConvertOptions:
    return pa.csv.ConvertOptions(
        column_types=dict.fromkeys(form.names, pa.binary()),
        include_columns=list(columns),
        strings_can_be_null=False,
    )


def _sound(
    block: bytes, first_line: int, source: str, form: Format, bad: BadRows
) -> tuple[bytes, NDArray[np.int64]]:
    """The rows that Arrow can take one by one, and on which lines they begin. Reached only where
    a block holds a malformed row, an empty line or one that is very long."""
    if _is_plain(block, form):
        return block, first_line + _lines_with_text(block)
    kept, lines = [], []
    mark = re.escape(form.delimiter.encode())
    at_end_of_field = re.compile(b'(^|%b)"|"(%b|$)' % (mark, mark))
    for line, text in _rows_apart(block, first_line, source, form):
        odd = form.quoted and not form.multiline and text.count(b'"') % 2
        if (odd and at_end_of_field.search(text)) or not _is_closed(text, form):
            reason = "a quote opens or closes on it without the other"
            bad.add(f"{source}, line {line}", "the row", reason)
            continue
        if b"\r" in text and _fields(text, form) is None:
            bad.add(f"{source}, line {line}", "the row", "a carriage return stands within it")
            continue
        if not text.isascii() and not is_utf8(text):
            # Arrow cannot tell of a row that it leaves out and cannot decode.
            fields = _fields(text, form)
            if fields is not None and fields != len(form.names):
                _refuse_width(bad, f"{source}, line {line}", fields, form)
                continue
        kept.append(text)
        lines.append(line)
    return b"\n".join(kept) + b"\n", np.array(lines, np.int64)


def _is_closed(row: bytes, form: Format) -> bool:
    """Whether no quote is open at the end of a row. One opens a field at its start alone, and
    what follows the one that closes it is text."""
    if not form.quoted or b'"' not in row:
        return True
    mark = re.escape(form.delimiter.encode())
    field = b'(?:"(?:[^"]++|"")*+"|(?!"))[^%b]*+' % mark
    return re.fullmatch(b"%b(?:%b%b)*+" % (field, mark, field), row) is not None


def _is_plain(block: bytes, form: Format) -> bool:
    """Whether every line is a row or empty, and can be decoded: then nothing need be apart."""
    return (
        block.isascii()
        and not (form.quoted and b'"' in block)
        and block.count(b"\r") == block.count(b"\r\n")
    )


def _lines_with_text(block: bytes) -> NDArray[np.int64]:
    """Int64[rows]: the lines, from 0, that are not empty."""
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    empty = (ends == starts) | ((ends == starts + 1) & (text[starts] == ord("\r")))
    return np.flatnonzero(~empty)


def _refuse_width(bad: BadRows, where: str, fields: int, form: Format) -> None:
    bad.add(where, "the row", f"it has {fields} fields where {len(form.names)} belong")


def _fields(row: bytes, form: Format) -> int | None:
    """How many fields a row has; None where a carriage return breaks it outside of quotes."""
    reader = csv.reader(
        [row.decode("latin1")],
        delimiter=form.delimiter,
        quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE,
    )
    try:
        return len(next(reader))
    except csv.Error:
        return None


def _rows_apart(
    block: bytes, first_line: int, source: str, form: Format
) -> Iterator[tuple[int, bytes]]:
    """Each row that is not empty, without its end of line, and the line on which it begins."""
    rows: list[bytes] = block.removesuffix(b"\n").split(b"\n")
    lines: Sequence[int] = range(first_line, first_line + len(rows))
    if form.multiline:
        rows, lines = _joined(rows, lines)
        if rows[-1].count(b'"') % 2:
            raise BadSource(f"{source}: the quotes do not pair, from line {lines[-1]} on")
    for line, row in zip(lines, rows, strict=True):
        row = row.removesuffix(b"\r")
        if row:
            yield line, row


def _joined(texts: Sequence[bytes], lines: Sequence[int]) -> tuple[list[bytes], list[int]]:
    """The texts with those in one that a quote holds together, and the line of each."""
    within = np.cumsum([text.count(b'"') for text in texts]) % 2 == 1
    starts: list[int] = np.flatnonzero(np.concatenate([[True], ~within[:-1]])).tolist()
    stops = [*starts[1:], len(texts)]
    rows = [b"\n".join(texts[i:j]) for i, j in zip(starts, stops, strict=True)]
    return rows, [lines[i] for i in starts]


def _not_utf8(column: pa.ChunkedArray) -> list[int]:
    """The rows whose bytes, or some in whose lists, are not UTF-8."""
    if is_list(column.type):
        lists = enumerate(column.to_pylist())
        return [
            row for row, parts in lists if not all(is_utf8(part or b"") for part in parts or ())
        ]
    found = pc.fill_null(pc.match_substring_regex(column, r"[^\x00-\x7f]"), False)
    not_ascii: list[int] = np.flatnonzero(found.to_numpy()).tolist()
    return [row for row in not_ascii if not is_utf8(column[row].as_py())]
