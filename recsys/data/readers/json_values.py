"""The values of a column of a table, as JSON has them."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.readers.delimited import is_list

INTEGER, DECIMAL = r"^-?(0|[1-9]\d{0,17})$", r"^-?(0|[1-9]\d{0,17})(\.\d+)?$"
"""How numbers are written. 007 is none but a name."""


def json_values(column: pa.Array) -> list[Any]:
    """Truth values, numbers and texts, or lists of them; None where there is none.

    A 32-bit float is the shortest number that it stands for, days and times are ISO 8601, those of
    a time zone in UTC, and a float that is no number is none.
    """
    kind = column.type.value_type if is_list(column.type) else column.type
    if pa.types.is_dictionary(kind):
        column, kind = _cast(column, kind.value_type), kind.value_type
    if pa.types.is_floating(kind) and kind != pa.float64():
        column = _cast(_cast(column, pa.string()), pa.float64())
    elif pa.types.is_timestamp(kind):  # Python's times have no nanoseconds
        column = _cast(column, pa.timestamp("us", kind.tz))
    values: list[Any] = column.to_pylist()
    if is_list(column.type):
        return [None if each is None else [_value(part) for part in each] for each in values]
    return [_value(each) for each in values]


def numbers_or_texts(column: pa.Array) -> pa.Array:
    """A column of a format that knows text alone: as numbers if all that is there is one, else as
    it is; what is empty is null."""
    column = pc.if_else(pc.equal(column, ""), None, column)
    for written, kind in ((INTEGER, pa.int64()), (DECIMAL, pa.float64())):
        if pc.all(pc.match_substring_regex(column, written)).as_py():
            return column.cast(kind)
    return column


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column, or the lists in it, with values of another type."""
    return column.cast(pa.list_(kind) if is_list(column.type) else kind, safe=False)


def _value(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return float(value)
        case dt.datetime():
            if value.tzinfo is None:
                return value.isoformat()
            return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
        case dt.date():
            return value.isoformat()
        case _:
            return value
