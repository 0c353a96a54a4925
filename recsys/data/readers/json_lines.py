"""JSON Lines: one object a line."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json

from recsys.data.readers.blocks import Member, Meter, blocks
from recsys.data.readers.delimited import NOT_UTF8, is_utf8
from recsys.data.readers.rows import BadRows, Rows

SAMPLE = 1_000
"""Lines whose keys are the columns of a file, and whose values give the columns their types."""


def json_lines(member: Member, wanted: Sequence[str], bad: BadRows, meter: Meter) -> Iterator[Rows]:
    """The wanted columns of those there are.

    A line that is no JSON object is malformed. A column holds one type, or else text.
    """
    schema: pa.Schema | None = None
    columns: list[str] = []
    for line, block in blocks(member, meter):
        if schema is None:
            columns, schema = _sampled(block, wanted)
            if not columns:  # no object at all: this names the first line, or counts them
                _read_with_care(block, line, member, [], columns, bad)
                schema = None
                continue
        n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        try:
            table = _read(block, schema)
        except pa.ArrowInvalid:
            table = None
        if table is not None and len(table) == n_lines and is_utf8(block):
            yield Rows(table, line + np.arange(n_lines), str(member), columns)
        else:
            yield _read_with_care(block, line, member, schema.names, columns, bad)


def _read(block: bytes, schema: pa.Schema) -> pa.Table:
    return pa.json.read_json(
        io.BytesIO(block),
        parse_options=pa.json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="ignore"
        ),
    )


def _sampled(block: bytes, wanted: Sequence[str]) -> tuple[list[str], pa.Schema]:
    """All keys of the first lines, and the types of the wanted ones among them."""
    columns: dict[str, pa.DataType] = {}
    for text in block.split(b"\n", SAMPLE)[:SAMPLE]:
        value = _object(text)
        if isinstance(value, dict):
            for name, field in value.items():
                if columns.get(name) in (None, pa.null()):
                    columns[name] = _type_of(field)
    schema = [(name, kind) for name, kind in columns.items() if name in wanted]
    return list(columns), pa.schema(schema)


def _type_of(field: object) -> pa.DataType:
    match field:
        case None:
            return pa.null()
        case bool():
            return pa.bool_()
        case int():
            return pa.int64()
        case float():
            return pa.float64()
        case _:
            return pa.string()


def _object(text: bytes) -> Any:
    """The JSON value of a line, or the reason why there is none, as an exception."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error


def _read_with_care(
    block: bytes,
    first_line: int,
    member: Member,
    names: Sequence[str],
    columns: Sequence[str],
    bad: BadRows,
) -> Rows:
    """Line by line, where Arrow could not read the block: malformed lines, types that change."""
    rows, lines = [], []
    for line, text in enumerate(block.split(b"\n"), start=first_line):
        if not text.strip():
            continue
        value = _object(text)
        if isinstance(value, dict):
            rows.append(value)
            lines.append(line)
            continue
        reason = "it is not a JSON object"
        if isinstance(value, orjson.JSONDecodeError):
            reason = f"it is not JSON: {value}" if is_utf8(text) else NOT_UTF8
        bad.add(f"{member}, line {line}", "the line", reason)
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    return Rows(table, np.array(lines, np.int64), str(member), columns)


def _column(values: list[Any]) -> pa.Array:
    """An array of their type; of text, if they have several, or are objects, each with keys of
    its own."""
    try:
        array = pa.array(values)
        if not pa.types.is_struct(array.type):
            return array
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    texts = [v if v is None or isinstance(v, str) else orjson.dumps(v).decode() for v in values]
    return pa.array(texts, pa.string())
