"""Rows from elsewhere become events, and a malformed one is named or counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""A numeric timestamp below this is in seconds (until the year 5138), else in milliseconds
(from March 1973)."""

MOMENT = EVENTS_SCHEMA.field("timestamp").type

YEAR_1, YEAR_10000 = -62_135_596_800_000, 253_402_300_800_000
"""In milliseconds since 1970: no event was before the one or is after the other."""

LARGEST_VALUE = float(np.finfo(np.float32).max)

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"

STARTS_AS_ISO = r"^\d{4}-"

_LEAP = r"(1[7-9]|2[01])(0[48]|[2468][048]|[13579][26])|2000"
_DAY = (
    r"((1[7-9]|2[01])[0-9][0-9]-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|"
    rf"(0[13578]|1[02])-31)|({_LEAP})-02-29)"
)
ISO_8601 = (
    rf"^{_DAY}[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{{1,9}})?)?"
    r"(Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)$"
)
"""The days that there are from 1700 to 2199, with a time and an offset."""


class BadSource(RecsysError):
    """A file or folder that cannot be read as what it should be."""


class BadRow(RecsysError):
    """A malformed row; its message names the file, the line, the field and the reason."""


@dataclass
class BadRows:
    """What is done with malformed rows: the first is raised, or all are counted."""

    on_bad_row: OnBadRow = "reject"
    count: int = field(default=0, init=False)

    def add(self, where: str, name: str, reason: str, count: int = 1) -> None:
        """Raise BadRow for this row, or count it (and `count - 1` more of its kind).

        where: the file and the line in it; name: the field."""
        if self.on_bad_row == "reject":
            raise BadRow(
                f"{where}, {name}: {reason}. Mend the row, or leave malformed rows "
                "out with --on-bad-row skip"
            )
        self.count += count


@dataclass(frozen=True)
class Rows:
    """A part of a file, parsed: n rows that know where they came from."""

    table: pa.Table
    """What was asked for of the columns there are."""
    lines: NDArray[np.int64]
    """Int64[n]: the line of each row in the file, or its number where there are no lines."""
    source: str
    """The file."""
    columns: Sequence[str]
    """The names of all columns of the file."""
    unit: Literal["line", "row"] = "line"

    def where(self, row: int) -> str:
        """The file and the line of a row, for messages."""
        return f"{self.source}, {self.unit} {self.lines[row]}"


class RowChecks:
    """Finds the malformed rows column by column, and leaves them out."""

    def __init__(self, rows: Rows, bad: BadRows):
        self._rows, self._bad = rows, bad
        self._good = np.ones(len(rows.table), bool)

    def text(self, name: str) -> pa.Array:
        """The column as strings; empty, null and NaN ones are malformed, and floats so large that
        several integers are one."""
        raw = self._column(name)
        column = self._cast(name, raw, pa.string())
        if pa.types.is_floating(raw.type):
            self.refuse(name, pc.invert(pc.is_finite(raw)), "it is not a finite number")
            exact = 2.0 ** (np.finfo(raw.type.to_pandas_dtype()).nmant + 1)
            inexact = pc.greater_equal(pc.abs(raw.cast(pa.float64())), exact)
            self.refuse(name, inexact, "it is a number too large to be exact; write it as text")
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
        self.refuse(name, empty, "it is empty")
        return column

    def number(self, name: str) -> pa.Array:
        """The column as finite numbers that a float32 holds; what is empty is null."""
        numbers = self._numbers(name, self._column(name))
        too_large = pc.greater(pc.abs(numbers), LARGEST_VALUE)
        self.refuse(name, too_large, "it is too large for a 32-bit float")
        return pc.if_else(too_large, None, numbers).cast(pa.float32())

    def moment(self, name: str) -> pa.Array:
        """The column as times: numbers (see MILLISECONDS_FROM), ISO 8601 (in UTC where it does
        not say), both in one column if need be, or times and days already. Empty ones are
        malformed."""
        column = self._column(name)
        if pa.types.is_temporal(column.type):
            times = self._cast(name, column, pa.timestamp("ms")).cast(pa.int64())
            moments = self._in_calendar(name, times)
        elif pa.types.is_string(column.type) and not _all_numbers(column):
            is_iso = pc.match_substring_regex(column, STARTS_AS_ISO)
            numbers = self._since_1970(name, pc.if_else(is_iso, None, column))
            moments = pc.coalesce(self._iso(name, pc.if_else(is_iso, column, None)), numbers)
        else:
            moments = self._since_1970(name, column)
        self.refuse(name, pc.is_null(moments), "it is empty")
        return moments

    def _since_1970(self, name: str, column: pa.Array) -> pa.Array:
        numbers = self._numbers(name, column)
        seconds = pc.less(pc.abs(numbers), MILLISECONDS_FROM)
        return self._in_calendar(
            name, pc.round(pc.if_else(seconds, pc.multiply(numbers, 1000.0), numbers))
        )

    def _in_calendar(self, name: str, milliseconds: pa.Array) -> pa.Array:
        outside = pc.or_(pc.less(milliseconds, YEAR_1), pc.greater(milliseconds, YEAR_10000))
        self.refuse(
            name,
            outside,
            "it is no time that a calendar has; times are seconds or milliseconds since 1970",
        )
        return pc.if_else(outside, None, milliseconds).cast(pa.int64()).cast(MOMENT)

    def refuse(self, name: str, wrong: pa.Array, reason: str) -> None:
        """Rows where `wrong` is true are malformed; where it is null they are not."""
        mask = pc.fill_null(wrong, False).to_numpy(zero_copy_only=False).astype(bool) & self._good
        if not mask.any():
            return
        first = int(np.argmax(mask))
        value = self._rows.table[name][first]
        value = value.cast(pa.string()) if pa.types.is_temporal(value.type) else value
        shown = "" if value.as_py() in (None, "") else f" ({str(value)[:60]!r})"
        self._bad.add(self._rows.where(first), name, reason + shown, int(mask.sum()))
        self._good &= ~mask

    def keep(self, columns: dict[str, pa.Array]) -> pa.Table:
        """The columns without the malformed rows."""
        table = pa.table(columns)
        return table if self._good.all() else table.filter(pa.array(self._good))

    def _column(self, name: str) -> pa.Array:
        column = self._rows.table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column

    def _cast(self, name: str, column: pa.Array, to: pa.DataType) -> pa.Array:
        try:
            return column.cast(to, safe=False)
        except pa.ArrowNotImplementedError:
            raise BadSource(
                f"{self._rows.source}: the column {name!r} holds {column.type}, which cannot be "
                f"read as {to}"
            ) from None

    def _numbers(self, name: str, column: pa.Array) -> pa.Array:
        """The column as finite float64; what is empty is null."""
        if pa.types.is_string(column.type):  # a cast that fails costs a microsecond a value
            column = pc.if_else(pc.equal(column, ""), None, column)
        try:
            numbers = self._cast(name, column, pa.float64())
        except pa.ArrowInvalid:
            is_number = pc.match_substring_regex(column, NUMBER)
            wrong = pc.and_not(pc.not_equal(pc.utf8_trim_whitespace(column), ""), is_number)
            self.refuse(name, wrong, "it is not a number")
            trimmed = pc.utf8_trim_whitespace(pc.if_else(is_number, column, None))
            return trimmed.cast(pa.float64())
        self.refuse(name, pc.invert(pc.is_finite(numbers)), "it is not a finite number")
        return pc.if_else(pc.is_finite(numbers), numbers, None)

    def _iso(self, name: str, column: pa.Array) -> pa.Array:
        """A time without an offset is in UTC, a day without a time its first moment."""
        day = pc.equal(pc.utf8_length(column), 10)
        timed = pc.if_else(day, pc.binary_join_element_wise(column, "T00:00:00", ""), column)
        zoned = pc.match_substring_regex(timed, r":.*(Z|[+-]\d\d(:?\d\d)?)$")
        utc = pc.if_else(zoned, timed, pc.binary_join_element_wise(timed, "Z", ""))
        exact = pa.timestamp("ns", tz="UTC")
        try:
            times = utc.cast(exact)
        except pa.ArrowInvalid:
            right = pc.match_substring_regex(utc, ISO_8601)
            self.refuse(name, pc.invert(right), "it is no ISO 8601 time")
            times = pc.if_else(right, utc, None).cast(exact)
        return times.cast(MOMENT, safe=False)


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
        "timestamp": pa.nulls(n, MOMENT) if timestamps is None else timestamps,
        "event": pa.repeat("view", n) if kinds is None else kinds,
        "value": pa.nulls(n, pa.float32()) if values is None else values,
    }


def _all_numbers(column: pa.Array) -> bool:
    try:
        column.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
