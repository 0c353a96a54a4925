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

ATTRIBUTES = "attributes"
"""The key of an object that takes what else a line holds."""

SAMPLE = 1_000
"""Lines whose keys are the columns of a file, and whose values give the columns their types."""

VALUE, LIST, OBJECT = "a single value", "a list of single values", "an object"
NESTED = "a list of lists or objects"

EXACT = 2.0**53
"""Below it a float is one integer."""


def json_lines(
    member: Member, wanted: Sequence[str], bad: BadRows, meter: Meter, *, others: bool = False
) -> Iterator[Rows]:
    """The wanted columns of those there are.

    others: whether whatever else a line holds in single values, or lists of them, is put into the
    object in its `attributes`, as the values that they are, unless it is there.
    A line that is no JSON object is malformed. A column holds single values, or lists of them, or
    objects, as its first value does, and a line with another of these is malformed; single values
    of several types are text.
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
        if others:
            yield _read_with_care(block, line, member, wanted, columns, bad, others=True)
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
    *,
    others: bool = False,
) -> Rows:
    """Line by line, where Arrow cannot read the block: malformed lines, types that change, keys
    that are not known before."""
    rows, lines = [], []
    for line, text in enumerate(block.split(b"\n"), start=first_line):
        if not text.strip():
            continue
        value = _object(text)
        if isinstance(value, dict):
            rows.append(_with_others(value, names) if others else value)
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


def _with_others(line: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The line with what it holds beside the names in its attributes, unless these are none."""
    others = {
        name: value
        for name, value in line.items()
        if name not in names and _kind(value) in (VALUE, LIST)
    }
    given = line.get(ATTRIBUTES) or {}
    if isinstance(given, str):
        given = _object(given.encode())
    return line | {ATTRIBUTES: others | given} if isinstance(given, dict) else line


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
