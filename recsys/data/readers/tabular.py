"""CSV, TSV, Parquet and JSON Lines with a column mapping."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.data.readers.blocks import Member, Meter, blocks, parse, split_list
from recsys.data.readers.catalogue import catalogue
from recsys.data.readers.rows import BadRows, BadSource, RowChecks, events

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet")

TAG_SEPARATOR = "|"
"""What parts the tags of an item in CSV and TSV."""


@dataclass(frozen=True)
class Columns:
    """What the columns of an events file are called. The last three may be missing in it, if
    they are not named."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    value: str = "value"
    event: str = "event"


class Tabular:
    """Reads one events file."""

    def __init__(self, member: Member, columns: Columns) -> None:
        self._member = member
        self._columns = columns
        self.size = member.size

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Every row as an event."""
        source, names = str(self._member), self._columns
        for table, lines in _tables(self._member, bad, meter):
            self._check(table.column_names)
            checks = RowChecks(table, source, lines, bad)
            present = set(table.column_names)
            columns = events(
                checks.text(names.user_id),
                checks.text(names.item_id),
                checks.moment(names.timestamp) if names.timestamp in present else None,
                checks.number(names.value) if names.value in present else None,
                checks.text(names.event) if names.event in present else None,
            )
            yield checks.keep(columns)

    def _check(self, present: Sequence[str]) -> None:
        defaults = asdict(Columns())
        for field, name in asdict(self._columns).items():
            needed = field in ("user_id", "item_id") or name != defaults[field]
            if needed and name not in present:
                option = f"--{field.removesuffix('_id')} COLUMN"
                raise BadSource(
                    f"{self._member} has no column {name!r}; its columns are "
                    f"{', '.join(present)}. Say which one it is with {option}"
                )

    def catalogue(self, bad: BadRows) -> pa.Table | None:
        """An events file brings none."""
        return None


def read_catalogue(member: Member, bad: BadRows) -> pa.Table:
    """A file of items: item_id, and what there is of title, text, image, tags, attributes and
    available. Raises BadSource if it has no item_id or one of them twice."""
    parts, all_lines = [], []
    for table, lines in _tables(member, bad, Meter(None, member.size)):
        if "item_id" not in table.column_names:
            raise BadSource(
                f"{member} has no column 'item_id'; its columns are {', '.join(table.column_names)}"
            )
        checks = RowChecks(table, str(member), lines, bad)
        columns = {"item_id": checks.text("item_id")}
        columns["line"] = pa.array(lines)
        for name in ("title", "text", "image", "attributes"):
            if name in table.column_names:
                values = table[name].combine_chunks().cast(pa.string())
                columns[name] = pc.if_else(pc.equal(values, ""), None, values)
        if "tags" in table.column_names:
            tags = table["tags"].combine_chunks()
            is_text = pa.types.is_string(tags.type)
            columns["tags"] = split_list(tags, TAG_SEPARATOR) if is_text else tags
        if "available" in table.column_names:
            columns["available"] = table["available"].combine_chunks().cast(pa.bool_())
        kept = checks.keep(columns)
        all_lines += kept["line"].to_pylist()
        parts.append(kept.drop_columns("line"))
    whole = pa.concat_tables(parts).combine_chunks()
    return catalogue(
        {name: whole[name].combine_chunks() for name in whole.column_names}, str(member), all_lines
    )


def _tables(
    member: Member, bad: BadRows, meter: Meter
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    """Tables of a file's rows, each with their lines Int64[n]; rows of Parquet count from 1."""
    suffix = "." + member.name.rpartition(".")[2].lower()
    if suffix == ".parquet":
        yield from _parquet(member, meter)
    elif suffix in JSON_LINES:
        yield from _json_lines(member, bad, meter)
    else:
        yield from _delimited(member, DELIMITERS[suffix], bad, meter)


def _delimited(
    member: Member, delimiter: str, bad: BadRows, meter: Meter
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    names: list[str] = []
    for line, block in blocks(member, meter):
        if not names:
            head, _, block = block.partition(b"\n")
            names, line = _header(head, delimiter, str(member)), line + 1
        if block:
            yield parse(block, line, source=str(member), names=names, delimiter=delimiter, bad=bad)


def _header(line: bytes, delimiter: str, source: str) -> list[str]:
    try:
        text = line.decode().rstrip("\r")
    except UnicodeDecodeError:
        raise BadSource(f"{source}, line 1: the header is not UTF-8; convert the file") from None
    names = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=delimiter), [])]
    if len(set(names)) < len(names) or not all(names):
        raise BadSource(f"{source}, line 1: every column needs a name of its own, not {names}")
    return names


def _parquet(member: Member, meter: Meter) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    try:
        with member.open() as file:
            parquet = pq.ParquetFile(file if member.inside is None else io.BytesIO(file.read()))
            row = 1
            for batch in parquet.iter_batches(batch_size=1_000_000):
                yield pa.table(batch), np.arange(row, row + len(batch))
                row += len(batch)
                meter.add(member.size * len(batch) // max(1, parquet.metadata.num_rows))
    except pa.ArrowInvalid as error:
        raise BadSource(f"{member} is no Parquet file, or not a whole one: {error}") from None


def _json_lines(
    member: Member, bad: BadRows, meter: Meter
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    for line, block in blocks(member, meter):
        lines = line + np.arange(block.count(b"\n") + (not block.endswith(b"\n")))
        try:
            table = _read_json(block)
            whole = len(table) == len(lines)
        except pa.ArrowInvalid:
            whole = False
        if not whole:
            block, lines = _well_formed(block, line, str(member), bad)
            if len(lines) == 0:
                continue
            try:
                table = _read_json(block)
            except pa.ArrowInvalid as error:
                raise BadSource(
                    f"{member}: a field changes its type between the lines from {line} on: {error}"
                ) from None
        yield table, lines


def _read_json(block: bytes) -> pa.Table:
    options = pa.json.ReadOptions(block_size=len(block) + 1)
    return pa.json.read_json(io.BytesIO(block), read_options=options)


def _well_formed(
    block: bytes, first_line: int, source: str, bad: BadRows
) -> tuple[bytes, NDArray[np.int64]]:
    """The lines that hold one JSON object each; reached only where some do not."""
    kept, lines = [], []
    for number, text in enumerate(block.split(b"\n"), start=first_line):
        if not text.strip():
            continue
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            bad.add(source, number, "the line", f"it is not JSON: {error}")
            continue
        if not isinstance(value, dict):
            bad.add(source, number, "the line", "it is not a JSON object")
            continue
        kept.append(text)
        lines.append(number)
    return b"\n".join(kept) + b"\n", np.array(lines, np.int64)
