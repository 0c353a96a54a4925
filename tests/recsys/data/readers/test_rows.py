"""Columns of text and numbers become ids, values and times."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.readers.rows import ISO_8601, BadRow, BadRows, BadSource, RowChecks, Rows

NOON = 1_769_860_800_000
"""Noon of 31 January 2026 in UTC, in milliseconds."""


def checks(column: pa.Array, on_bad_row: str = "reject") -> RowChecks:
    rows = Rows(pa.table({"at": column}), np.arange(2, 2 + len(column)), "f.csv", ["at"])
    return RowChecks(rows, BadRows(on_bad_row))  # type: ignore[arg-type]


def milliseconds(column: pa.Array) -> list[int]:
    times: list[int] = checks(column).moment("at").cast(pa.int64()).to_pylist()
    return times


@pytest.mark.parametrize(
    "text",
    [
        "1769860800",
        "1769860800000",
        "1.7698608e9",
        " 1769860800 ",
        "2026-01-31T12:00:00Z",
        "2026-01-31 12:00:00",
        "2026-01-31T12:00",
        "2026-01-31T12:00:00.000999",
        "2026-01-31T14:00:00+02:00",
        "2026-01-31T07:30:00.0-0430",
        "2026-01-31T14:00:00+02",
    ],
)
def test_a_time_may_be_seconds_or_milliseconds_or_iso_8601(text: str) -> None:
    assert milliseconds(pa.array([text])) == [NOON]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NOON // 1000], pa.int32()),
        pa.array([NOON]),
        pa.array([NOON / 1000]),
        pa.array([NOON], pa.timestamp("ms")),
        pa.array([NOON * 1_000_000], pa.timestamp("ns", tz="Europe/Berlin")),
        pa.array(["2026-01-31T12:00:00Z"]).dictionary_encode(),
    ],
)
def test_a_typed_column_reads_as_the_same_time(column: pa.Array) -> None:
    assert milliseconds(column) == [NOON]


def test_numbers_and_iso_8601_may_stand_in_one_column() -> None:
    column = pa.array(["1769860800", "2026-01-31T12:00:00Z", "1769860800000", "2026-01-31 12:00"])
    assert milliseconds(column) == [NOON] * 4


@pytest.mark.parametrize("first", ["soon", "-", "n/a", ""])
def test_a_malformed_time_costs_its_row_and_none_of_those_after_it(first: str) -> None:
    bad = BadRows("skip")
    table = pa.table({"at": [first, "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"]})
    rows = RowChecks(Rows(table, np.arange(3), "f.csv", ["at"]), bad)
    kept = rows.keep({"at": rows.moment("at")})
    assert kept["at"].cast(pa.int64()).to_pylist() == [NOON, NOON]
    assert bad.count == 1


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_a_typed_time_that_no_calendar_has_is_refused(unit: str) -> None:
    with pytest.raises(BadRow, match="line 2, at: it is no time that a calendar has"):
        checks(pa.array([2**62], pa.timestamp(unit))).moment("at")


def test_a_number_that_is_none_is_no_id() -> None:
    assert checks(pa.array([1.0, 2.5])).text("at").to_pylist() == ["1", "2.5"]
    with pytest.raises(BadRow, match="line 3, at: it is not a finite number"):
        checks(pa.array([1.0, float("nan")])).text("at")


@pytest.mark.parametrize(
    ("kind", "exact"), [(pa.float64(), 2**53), (pa.float32(), 2**24), (pa.float16(), 2**11)]
)
def test_a_float_that_is_several_integers_is_no_id(kind: pa.DataType, exact: int) -> None:
    assert len(checks(pa.array([exact - 1.0], kind)).text("at")) == 1
    with pytest.raises(BadRow, match="line 3, at: it is a number too large to be exact"):
        checks(pa.array([1.0, float(exact)], kind)).text("at")


def test_a_day_is_its_first_moment() -> None:
    day = dt.date(2026, 1, 31)
    assert milliseconds(pa.array(["2026-01-31"])) == milliseconds(pa.array([day]))
    assert milliseconds(pa.array([day])) == [NOON - 12 * 3_600_000]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("soon", "it is not a number ('soon')"),
        ("nan", "it is not a finite number"),
        (
            "1769860800000000",
            "it is no time that a calendar has; times are seconds or milliseconds since 1970",
        ),
        ("2026-02-30", "it is no ISO 8601 time ('2026-02-30')"),
        ("2026-01-31T25:00:00Z", "it is no ISO 8601 time"),
    ],
)
def test_what_is_no_time_is_refused_with_the_line_and_the_reason(text: str, reason: str) -> None:
    good = "2026-01-31" if "-" in text else "0"
    with pytest.raises(BadRow, match=r"f\.csv, line 3, at: " + re.escape(reason)):
        checks(pa.array([good, text])).moment("at")


@given(st.dates(dt.date(1700, 1, 1), dt.date(2199, 12, 31)), st.times(), st.integers(-1439, 1439))
def test_every_time_of_the_calendar_is_one_for_the_pattern_and_for_arrow(
    day: dt.date, time: dt.time, offset: int
) -> None:
    zone = dt.timezone(dt.timedelta(minutes=offset))
    moment = dt.datetime.combine(day, time, zone)
    assert re.match(ISO_8601, moment.isoformat())
    exact = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1)
    (read,) = milliseconds(pa.array([moment.isoformat()]))
    assert abs(read - exact) < 1


@settings(max_examples=50)
@given(st.from_regex(ISO_8601, fullmatch=True))
def test_arrow_reads_all_that_the_pattern_lets_pass(text: str) -> None:
    pa.array([text]).cast(pa.timestamp("ns", tz="UTC"))


@pytest.mark.parametrize("text", ["1900-02-29", "2026-04-31", "2026-13-01", "2026-00-10"])
def test_the_pattern_knows_the_calendar(text: str) -> None:
    assert not re.match(ISO_8601, f"{text}T00:00:00Z")


def test_an_empty_value_is_none_and_one_that_no_float_holds_is_refused() -> None:
    assert checks(pa.array(["1.5", "", " 2 "])).number("at").to_pylist() == [1.5, None, 2]
    with pytest.raises(BadRow, match="line 2, at: it is too large"):
        checks(pa.array(["1e39"])).number("at")


def test_a_row_that_is_malformed_twice_counts_once() -> None:
    bad = BadRows("skip")
    table = pa.table({"user": ["", "ann"], "value": ["x", "1"]})
    rows = RowChecks(Rows(table, np.array([1, 2]), "f.csv", ["user", "value"]), bad)
    kept = rows.keep({"user": rows.text("user"), "value": rows.number("value")})
    assert kept.to_pylist() == [{"user": "ann", "value": 1.0}]
    assert bad.count == 1


@pytest.mark.parametrize("column", [pa.array([[1]]), pa.array([{"a": 1}])])
def test_a_column_of_lists_or_objects_is_no_column_of_ids(column: pa.Array) -> None:
    with pytest.raises(BadSource, match="the column 'at' holds"):
        checks(column).text("at")
