"""Delimited text: every row knows its line, whatever stands before it."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.readers.delimited import Format, parse
from recsys.data.readers.rows import BadRow, BadRows, BadSource, Rows

PAIR = Format(("a", "b"), ",")
PAIR_OVER_LINES = Format(("a", "b"), ",", multiline=True)

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=5)


def read(text: str | bytes, form: Format = PAIR, on_bad_row: str = "reject") -> tuple[Rows, int]:
    bad = BadRows(on_bad_row)  # type: ignore[arg-type]
    block = text.encode() if isinstance(text, str) else text
    return parse(block, 1, "f.csv", form, bad), bad.count


def written(rows: list[list[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return file.getvalue()


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8))
def test_what_a_csv_writer_wrote_is_read_with_its_lines(pairs: list[tuple[str, str]]) -> None:
    rows, bad = read(written([list(pair) for pair in pairs]))
    assert list(zip(*rows.table.to_pydict().values(), strict=True)) == pairs
    assert rows.lines.tolist() == list(range(1, len(pairs) + 1))
    assert bad == 0


@given(st.lists(st.tuples(FIELD, st.sampled_from(["", "x\ny", "\n", "z"])), min_size=1, max_size=8))
def test_fields_over_several_lines_are_read_where_they_are_allowed(
    pairs: list[tuple[str, str]],
) -> None:
    rows, _ = read(written([list(pair) for pair in pairs]), PAIR_OVER_LINES)
    assert list(zip(*rows.table.to_pydict().values(), strict=True)) == pairs


def test_a_row_after_a_field_over_lines_knows_its_line() -> None:
    rows, _ = read('one,"1\n2\n\n4"\nfive,5\n\nseven,7\n', PAIR_OVER_LINES)
    assert rows.lines.tolist() == [1, 5, 7]
    with pytest.raises(BadRow, match="line 5, the row: it has 1 fields where 2 belong"):
        read('one,"1\n2\n\n4"\nfive\nsix,6\n', PAIR_OVER_LINES)


def test_empty_lines_are_passed_over_and_counted_as_lines() -> None:
    rows, bad = read("1,a\n\n\r\n4,d\n\n")
    assert rows.lines.tolist() == [1, 4]
    assert bad == 0


@given(
    st.lists(st.sampled_from(["1,a", "", "alone", "2,b,3", 'x,"y"', "é,z"]), min_size=1),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_every_row_keeps_its_line_among_malformed_and_empty_ones(
    lines: list[str], end: str, ended: bool
) -> None:
    text = end.join(lines)
    rows, bad = read(text + end * (ended or not text), on_bad_row="skip")
    good = [number for number, line in enumerate(lines, start=1) if line.count(",") == 1]
    assert rows.lines.tolist() == good
    assert bad == sum(line in ("alone", "2,b,3") for line in lines)


def test_a_malformed_row_far_down_is_named_by_its_line() -> None:
    text = "1,a\n" * 400_000 + "alone\n" + "2,b\n"
    with pytest.raises(BadRow, match=r"f\.csv, line 400001, the row: it has 1 fields"):
        read(text)
    rows, bad = read(text, on_bad_row="skip")
    assert (len(rows.table), bad) == (400_001, 1)
    assert rows.lines[-1] == 400_002


def test_an_open_quote_costs_its_line_and_not_the_rest_of_the_file() -> None:
    text = '1,a\n"2,b\n3,c\n4,d\n'
    with pytest.raises(BadRow, match="line 2, the row: a quote opens or closes"):
        read(text)
    rows, bad = read(text, on_bad_row="skip")
    assert rows.table["a"].to_pylist() == ["1", "3", "4"]
    assert bad == 1


@pytest.mark.parametrize("form", [PAIR, PAIR_OVER_LINES], ids=["lines", "over lines"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("row", ['2,"b', '"2,b', '2,"""b', '5" nails,"b'])
def test_a_quote_left_open_on_the_last_line_is_refused(form: Format, end: str, row: str) -> None:
    over_lines_the_file_is_refused = form.multiline and row.count('"') % 2
    refusal = BadSource if over_lines_the_file_is_refused else BadRow
    with pytest.raises(refusal, match=r"f\.csv.*line 2"):
        read(f"1,a\n{row}{end}", form)


def test_an_open_quote_is_named_at_the_end_of_what_arrow_gives_a_thread() -> None:
    thread = 2**20
    for n_before in range(thread // 8 - 2, thread // 8 + 2):
        text = "123,abc\n" * n_before + '123,"ab\n' + "123,abc\n"
        with pytest.raises(BadRow, match=rf"line {n_before + 1}, the row: a quote opens or closes"):
            read(text)


@given(st.text('",ab\n', min_size=1))
def test_no_field_goes_over_the_end_of_a_line_however_the_quotes_stand(text: str) -> None:
    rows, bad = read(text, on_bad_row="skip")
    assert len(rows.table) + bad == sum(line != "" for line in text.split("\n"))
    assert not any("\n" in field for column in rows.table.columns for field in column.to_pylist())


def test_a_block_of_malformed_rows_alone_gives_none() -> None:
    rows, bad = read('1,"a\n2,"b\n', on_bad_row="skip")
    assert rows.table.to_pydict() == {"a": [], "b": []}
    assert bad == 2


def test_a_quote_inside_a_field_is_a_character_like_others() -> None:
    rows, _ = read('1,5" nails\n2,b\n')
    assert rows.table["b"].to_pylist() == ['5" nails', "b"]


def test_quotes_that_do_not_pair_over_lines_are_refused() -> None:
    with pytest.raises(BadSource, match="the quotes do not pair"):
        read('1,5" nails\n2,"x\ny"\n3,c\n', PAIR_OVER_LINES)


def test_bytes_that_are_not_utf_8_are_named_with_a_way_out() -> None:
    with pytest.raises(BadRow, match=r"line 2, b: it is not UTF-8.*iconv -f latin1"):
        read(b"1,a\n2,caf\xe9\n3,\xc3\xa9\n")
    rows, bad = read(b"1,a\n2,caf\xe9\n3,\xc3\xa9\n", on_bad_row="skip")
    assert rows.table["b"].to_pylist() == ["a", "é"]
    assert rows.lines.tolist() == [1, 3]
    assert bad == 1


def test_columns_that_nobody_wants_are_not_looked_at() -> None:
    rows = parse(b"1,caf\xe9\n", 1, "f.csv", PAIR, BadRows(), wanted=["a"])
    assert rows.table.to_pydict() == {"a": ["1"]}
    assert list(rows.columns) == ["a", "b"]
