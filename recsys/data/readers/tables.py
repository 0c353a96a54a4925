"""CSV, TSV, Parquet and JSON Lines as parts of a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.readers.blocks import Member, Meter, blocks, whole
from recsys.data.readers.delimited import Format, decoded, is_list, is_utf8, parse
from recsys.data.readers.json_lines import json_lines
from recsys.data.readers.json_values import numbers_or_texts
from recsys.data.readers.rows import BadRows, BadSource, Rows

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet")

ROWS = 1_000_000
"""Rows of Parquet that are read together."""


def tables(
    member: Member,
    wanted: Sequence[str],
    bad: BadRows,
    meter: Meter,
    *,
    multiline: bool = False,
    others: bool = False,
) -> Iterator[Rows]:
    """The wanted columns of those there are, a part at a time.

    multiline: whether fields of CSV and TSV may go over several lines; such a file is read whole.
    others: whether all else is read too that is single values or lists of them: other columns, as
    numbers where all of a column of a `multiline` file is; and what else a line of JSON holds, into
    the object in its `attributes`.
    """
    suffix = "." + member.name.rpartition(".")[2].lower()
    if suffix == ".parquet":
        yield from _parquet(member, wanted, bad, meter, others)
    elif suffix in JSON_LINES:
        yield from json_lines(member, wanted, bad, meter, others=others)
    else:
        yield from _delimited(member, DELIMITERS[suffix], wanted, bad, meter, multiline, others)


def _delimited(
    member: Member,
    delimiter: str,
    wanted: Sequence[str],
    bad: BadRows,
    meter: Meter,
    multiline: bool,
    others: bool,
) -> Iterator[Rows]:
    form: Format | None = None
    for line, block in [(1, whole(member))] if multiline else blocks(member, meter):
        if form is None:
            head, _, block = block.partition(b"\n")
            form = Format(_header(head, delimiter, str(member)), delimiter, multiline=multiline)
            line += 1
        if block:
            rows = parse(block, line, str(member), form, bad, None if others else wanted)
            yield replace(rows, table=_with_numbers(rows.table, wanted)) if others else rows


def _with_numbers(table: pa.Table, texts: Sequence[str]) -> pa.Table:
    """The table with all other columns than these as numbers, where they are."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return pa.table(
        {
            name: column if name in texts else numbers_or_texts(column)
            for name, column in columns.items()
        }
    )


def _header(line: bytes, delimiter: str, source: str) -> list[str]:
    if not is_utf8(line):
        raise BadSource(f"{source}, line 1: the header is not UTF-8; save the file as UTF-8")
    text = line.decode().rstrip("\r")
    try:
        names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter), [])]
    except csv.Error as error:
        reason = "lines end in \\r alone; save it with \\n" if "\r" in text else str(error)
        raise BadSource(f"{source}, line 1: the header cannot be read: {reason}") from None
    # Tables with numbered rows are often saved with no name for the numbers.
    names = [name or f"column {number}" for number, name in enumerate(names, start=1)]
    if len(set(names)) < len(names):
        raise BadSource(f"{source}, line 1: every column needs a name of its own, not {names}")
    return names


def _parquet(
    member: Member, wanted: Sequence[str], bad: BadRows, meter: Meter, others: bool
) -> Iterator[Rows]:
    try:
        with member.open() as file:
            parquet = pq.ParquetFile(file if member.inside is None else io.BytesIO(file.read()))
            names = parquet.schema_arrow.names
            if len(set(names)) < len(names):
                raise BadSource(f"{member}: every column needs a name of its own, not {names}")
            columns = [
                field.name
                for field in parquet.schema_arrow
                if field.name in wanted or (others and _is_plain(field.type))
            ]
            done, of = 0, max(parquet.metadata.num_rows, 1)
            for batch in parquet.iter_batches(batch_size=ROWS, columns=columns):
                numbers = np.arange(done + 1, done + len(batch) + 1)
                yield decoded(Rows(pa.table(batch), numbers, str(member), names, "row"), bad)
                done += len(batch)
                meter.add(member.size * done // of - meter.done)
    except (pa.ArrowException, OSError) as error:
        raise BadSource(f"{member} is no Parquet file, or not a whole one: {error}") from None


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column of this type holds truth values, numbers, texts or days and times, or lists
    of them."""
    within = kind.value_type if is_list(kind) else kind
    if pa.types.is_dictionary(within):
        within = within.value_type
    return any(
        test(within)
        for test in (
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_decimal,
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_date,
            pa.types.is_timestamp,
        )
    )
