"""Rows from elsewhere become events, and a malformed one is named or counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.dataset import EVENTS_SCHEMA

OnBadRow = Literal["reject", "skip"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes read and how many there are."""

MILLISECONDS_FROM = 1e11
"""A numeric timestamp below this is in seconds (until the year 5138), else in milliseconds."""

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


class BadSource(RecsysError):
    """A file or folder that cannot be read as what it should be."""


class BadRow(RecsysError):
    """A malformed row; its message names the file, the line, the field and the reason."""


@dataclass
class BadRows:
    """What is done with malformed rows: the first is raised, or all are counted."""

    on_bad_row: OnBadRow = "reject"
    count: int = field(default=0, init=False)

    def add(self, source: str, line: int, name: str, reason: str, count: int = 1) -> None:
        """Raise BadRow for this row, or count it (and `count - 1` more of its kind)."""
        if self.on_bad_row == "reject":
            raise BadRow(
                f"{source}, line {line}, {name}: {reason}. Mend the row, or leave malformed rows "
                "out with --on-bad-row skip"
            )
        self.count += count


class RowChecks:
    """Finds the malformed rows of one table, column by column, and leaves them out."""

    def __init__(self, table: pa.Table, source: str, lines: NDArray[np.int64], bad: BadRows):
        """lines: Int64[n], the line in the source that each row came from."""
        self._table, self._source, self._lines, self._bad = table, source, lines, bad
        self._good = np.ones(len(table), bool)

    def text(self, name: str) -> pa.Array:
        """The column as strings; empty and null ones are malformed."""
        column = self._table[name].combine_chunks()
        if not pa.types.is_string(column.type):
            column = column.cast(pa.string())
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
        self._refuse(name, empty, column, "it is empty")
        return column

    def number(self, name: str) -> pa.Array:
        """The column as finite float64; a null stays one."""
        column = self._table[name].combine_chunks()
        numbers = self._cast(name, column)
        wrong = pc.fill_null(pc.invert(pc.is_finite(numbers)), False)
        self._refuse(name, wrong, column, "it is not a finite number")
        return numbers

    def moment(self, name: str) -> pa.Array:
        """The column as milliseconds since 1970: numbers (see MILLISECONDS_FROM) or ISO 8601."""
        column = self._table[name].combine_chunks()
        if pa.types.is_timestamp(column.type):
            return column.cast(pa.timestamp("ms"), safe=False).cast(EVENTS_SCHEMA.field(2).type)
        if pa.types.is_string(column.type) and _looks_iso(column):
            return self._iso(name, column)
        numbers = self.number(name)
        seconds = pc.less(pc.abs(numbers), MILLISECONDS_FROM)
        milliseconds = pc.if_else(seconds, pc.multiply(numbers, 1000.0), numbers)
        too_large = pc.fill_null(pc.greater(pc.abs(milliseconds), 2.0**52), False)
        self._refuse(name, too_large, column, "it is no time that a calendar has")
        whole = pc.round(pc.if_else(too_large, 0.0, milliseconds)).cast(pa.int64(), safe=False)
        return whole.cast(EVENTS_SCHEMA.field(2).type)

    def keep(self, columns: dict[str, pa.Array]) -> pa.Table:
        """The columns without the malformed rows."""
        table = pa.table(columns)
        return table if self._good.all() else table.filter(pa.array(self._good))

    def _cast(self, name: str, column: pa.Array) -> pa.Array:
        try:
            return column.cast(pa.float64())
        except pa.ArrowInvalid:
            number = pc.fill_null(pc.match_substring_regex(column, NUMBER), True)
            self._refuse(name, pc.invert(number), column, "it is not a number")
            return pc.if_else(number, column, None).cast(pa.float64())

    def _iso(self, name: str, column: pa.Array) -> pa.Array:
        """A time without an offset is in UTC, a day without a time its first moment."""
        day = pc.equal(pc.utf8_length(column), 10)
        timed = pc.if_else(day, pc.binary_join_element_wise(column, "T00:00:00", ""), column)
        zoned = pc.match_substring_regex(timed, r"(Z|[+-]\d\d:?\d\d)$")
        utc = pc.if_else(zoned, timed, pc.binary_join_element_wise(timed, "Z", ""))
        exact = pa.timestamp("ns", tz="UTC")
        try:
            times = utc.cast(exact)
        except pa.ArrowInvalid:
            right = pa.array([_is_time(value) for value in utc.to_pylist()])
            self._refuse(name, pc.invert(right), column, "it is no ISO 8601 time")
            times = pc.if_else(right, utc, None).cast(exact)
        return times.cast(EVENTS_SCHEMA.field(2).type, safe=False)

    def _refuse(self, name: str, wrong: pa.Array, column: pa.Array, reason: str) -> None:
        mask = wrong.to_numpy(zero_copy_only=False).astype(bool) & self._good
        if not mask.any():
            return
        first = int(np.argmax(mask))
        value = column[first].as_py()
        shown = "" if value in (None, "") else f" ({str(value)[:60]!r})"
        self._bad.add(self._source, int(self._lines[first]), name, reason + shown, int(mask.sum()))
        self._good &= ~mask


def events(
    user_ids: pa.Array,
    item_ids: pa.Array,
    timestamps: pa.Array | None = None,
    values: pa.Array | None = None,
    kinds: pa.Array | None = None,
) -> dict[str, pa.Array]:
    """Columns by EVENTS_SCHEMA; what is not given is null, and the kind of event is `view`."""
    n = len(user_ids)
    return {
        "user_id": user_ids,
        "item_id": item_ids,
        "timestamp": pa.nulls(n, EVENTS_SCHEMA.field(2).type) if timestamps is None else timestamps,
        "event": pa.repeat("view", n) if kinds is None else kinds,
        "value": pa.nulls(n, pa.float32()) if values is None else values.cast(pa.float32()),
    }


def _is_time(text: str | None) -> bool:
    """Whether Arrow reads the text as a time; asked only where it could not read them all."""
    try:
        pa.scalar(text).cast(pa.timestamp("ns", tz="UTC"))
    except pa.ArrowInvalid:
        return False
    return True


def _looks_iso(column: pa.Array) -> bool:
    present = column.drop_null()
    return len(present) > 0 and "-" in (present[0].as_py() or "")[1:]
