"""Ragged arrays that do what lists of lists do: laws against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.histories import Histories

N_ITEMS = 6

lists_of_items = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=7), max_size=6)
cuts = st.integers(0, 9)


def plain(histories: Histories) -> list[list[int]]:
    return [histories[row].tolist() for row in range(len(histories))]


@settings(deadline=None)
@given(lists_of_items)
def test_it_holds_what_it_was_made_of(rows: list[list[int]]) -> None:
    histories = Histories.of(rows)
    assert len(histories) == len(rows)
    assert plain(histories) == rows
    assert histories.lengths.tolist() == [len(row) for row in rows]
    assert histories.rows().tolist() == [b for b, row in enumerate(rows) for _ in row]


@settings(deadline=None)
@given(lists_of_items)
def test_transposed_it_says_who_touched_each_item_and_where(rows: list[list[int]]) -> None:
    histories = Histories.of(rows)
    touched, positions = histories.transposed(N_ITEMS)
    assert plain(touched) == [
        [b for b, row in enumerate(rows) for one in row if one == item] for item in range(N_ITEMS)
    ]
    assert histories.items[positions].tolist() == touched.rows().tolist()
    assert histories.rows()[positions].tolist() == touched.items.tolist()


@settings(deadline=None)
@given(lists_of_items, st.data())
def test_take_gives_the_rows_in_the_order_asked_for_and_as_often(
    rows: list[list[int]], data: st.DataObject
) -> None:
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8) if rows else st.just([]))
    taken = Histories.of(rows).take(np.array(asked, np.int64))
    assert plain(taken) == [rows[b] for b in asked]


@settings(deadline=None)
@given(lists_of_items, st.data())
def test_slice_gives_the_rows_from_start_to_before_stop(
    rows: list[list[int]], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert plain(Histories.of(rows).slice(start, stop)) == rows[start:stop]


@settings(deadline=None)
@given(lists_of_items, cuts, st.data())
def test_window_gives_n_items_from_the_start_on(
    rows: list[list[int]], n: int, data: st.DataObject
) -> None:
    starts = [data.draw(st.integers(0, len(row))) for row in rows]
    assert plain(Histories.of(rows).window(np.array(starts, np.int64), n)) == [
        row[start : start + n] for row, start in zip(rows, starts, strict=True)
    ]


@given(lists_of_items, cuts)
def test_last_keeps_the_newest_and_without_last_the_rest(rows: list[list[int]], n: int) -> None:
    histories = Histories.of(rows)
    assert plain(histories.last(n)) == [row[max(len(row) - n, 0) :] for row in rows]
    assert plain(histories.without_last(n)) == [row[: max(len(row) - n, 0)] for row in rows]


@settings(deadline=None)
@given(lists_of_items)
def test_last_mentions_leave_each_item_once_where_it_stands_last(rows: list[list[int]]) -> None:
    histories = Histories.of(rows)
    kept = histories.last_mentions(N_ITEMS)
    for user, row in enumerate(rows):
        left = histories.items[kept[histories.rows()[kept] == user]].tolist()
        assert left == list(dict.fromkeys(row[::-1]))[::-1]


@settings(deadline=None)
@given(lists_of_items, cuts)
def test_no_operation_changes_the_histories_that_it_is_asked_of(
    rows: list[list[int]], n: int
) -> None:
    histories = Histories.of(rows)
    histories.last(n)
    histories.without_last(n)
    assert plain(histories) == rows


@pytest.mark.parametrize("offsets", [[], [1, 2], [[0, 2]]])
def test_offsets_are_a_vector_that_starts_with_0(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="starts with 0"):
        Histories(np.array(offsets, np.int64), np.array([4, 5]))


def test_offsets_end_where_the_items_do() -> None:
    with pytest.raises(ValueError, match="offsets end at 3 but there are 2 items"):
        Histories(np.array([0, 3]), np.array([4, 5]))


def test_renamed_gives_other_rows_and_leaves_out_what_has_none() -> None:
    histories = Histories.of([[0, 2, 2], [1], [], [3, 1, 0]])
    renamed = histories.renamed(np.array([5, -1, 0, 7]))
    assert [renamed[row].tolist() for row in range(4)] == [[5, 0, 0], [], [], [7, 5]]
