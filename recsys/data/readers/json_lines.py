"""JSON Lines: one object a line."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from recsys.data.readers.blocks import Member, Meter, blocks
from recsys.data.readers.delimited import NOT_UTF8, is_utf8
from recsys.data.readers.rows import BadRows, Rows

SAMPLE = 1_000
"""Lines whose keys are the columns of a file, and whose values give the columns their types."""

VALUE, LIST, OBJECT = "a single value", "a list of single values", "an object"
NESTED = "a list of lists or objects"

EXACT = 2.0**53
"""Below it a float is one integer."""


def json_lines(
    member: Member, wanted: Sequence[str], bad: BadRows, meter: Meter, *, others: bool = False
) -> Iterator[Rows]:
    """The wanted columns of those there are; and all others, if asked for, that hold single values
    or lists of them in the first lines.

    A line that is no JSON object is malformed. A column holds single values, or lists of them, or
    objects, as its first value does, and a line with another of these is malformed; single values
    of several types are text.
    """
    schema: pa.Schema | None = None
    columns: list[str] = []
    for line, block in blocks(member, meter):
        if schema is None:
            columns, schema = _sampled(block, wanted, others)
            if not columns:  # no object at all: this names the first line, or counts them
                _read_with_care(block, line, member, [], columns, bad)
                schema = None
                continue
        n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        try:
            table = _read(block, schema)
        except pa.ArrowInvalid:
            table = None
        if table is not None and len(table) == n_lines and _is_exact(table) and is_utf8(block):
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


def _sampled(block: bytes, wanted: Sequence[str], others: bool) -> tuple[list[str], pa.Schema]:
    """All keys of the first lines, and the types of those among them that are read."""
    columns: dict[str, pa.DataType] = {}
    nested: set[str] = set()
    for text in block.split(b"\n", SAMPLE)[:SAMPLE]:
        value = _object(text)
        if isinstance(value, dict):
            for name, field in value.items():
                if columns.get(name) in (None, pa.null()):
                    columns[name] = _type_of(field)
                if _kind(field) in (OBJECT, NESTED):
                    nested.add(name)
    read = [name for name in columns if name in wanted or (others and name not in nested)]
    schema = [(name, columns[name]) for name in read]
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
        case list():
            return pa.list_(pa.string())
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
    good = np.ones(len(rows), bool)
    arrays = {}
    for name in names:
        arrays[name], wrong = _column([row.get(name) for row in rows])
        for row, reason in wrong.items():
            if good[row]:
                bad.add(f"{member}, line {lines[row]}", name, reason)
                good[row] = False
    table = pa.table(arrays).filter(pa.array(good))
    return Rows(table, np.array(lines, np.int64)[good], str(member), columns)


def _column(values: list[Any]) -> tuple[pa.Array, dict[int, str]]:
    """An array of their type, or of text; and of the malformed ones, the row and the reason."""
    kinds = [_kind(value) for value in values]
    first = next((kind for kind in kinds if kind not in (None, NESTED)), VALUE)
    wrong = {
        row: f"it is {kind} where the column holds {first}"
        for row, kind in enumerate(kinds)
        if kind not in (None, first)
    }
    values = [None if row in wrong else value for row, value in enumerate(values)]
    if first != OBJECT:  # objects have keys of their own each
        try:
            return pa.array(values), wrong
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    if first == LIST:
        texts = [None if value is None else [_text(part) for part in value] for value in values]
        return pa.array(texts, pa.list_(pa.string())), wrong
    inexact = [row for row, value in enumerate(values) if _is_inexact(value)]
    wrong |= dict.fromkeys(inexact, "it is a number that 64 bits do not hold; write it as text")
    return pa.array([_text(value) for value in values], pa.string()), wrong


def _kind(value: object) -> str | None:
    match value:
        case None:
            return None
        case dict():
            return OBJECT
        case list():
            return NESTED if any(isinstance(part, dict | list) for part in value) else LIST
        case _:
            return VALUE


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _is_exact(table: pa.Table) -> bool:
    """Whether no float may stand for an integer that it does not hold."""
    floats = [column for column in table.columns if pa.types.is_floating(column.type)]
    return not any(pc.any(pc.greater_equal(pc.abs(f), EXACT)).as_py() for f in floats)


def _is_inexact(value: object) -> bool:
    """Whether it may have been an integer of more than 64 bits, which orjson makes a float."""
    return isinstance(value, float) and abs(value) >= EXACT
