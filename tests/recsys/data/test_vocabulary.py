"""Ids outside, rows inside, and nothing lost on the way."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.vocabulary import UNKNOWN, Vocabulary

# Text without lone surrogates, which no UTF-8 file can hold.
ids_of_items = st.lists(st.text(st.characters(codec="utf-8"), max_size=5), unique=True, max_size=8)


@settings(deadline=None)
@given(ids_of_items)
def test_every_id_comes_back_from_its_row(ids: list[str]) -> None:
    vocabulary = Vocabulary(ids)
    rows = vocabulary.rows(ids)
    assert len(vocabulary) == len(ids)
    assert rows.dtype == np.int64
    assert rows.tolist() == list(range(len(ids)))
    assert vocabulary.ids(rows) == vocabulary.to_arrow().to_pylist() == ids


@settings(deadline=None)
@given(ids_of_items, ids_of_items)
def test_lists_and_columns_are_looked_up_alike(known: list[str], asked: list[str]) -> None:
    vocabulary = Vocabulary(known)
    expected = [known.index(i) if i in known else UNKNOWN for i in asked]
    column = pa.array(asked, pa.string())
    assert vocabulary.rows(asked).tolist() == expected
    assert vocabulary.rows(column).tolist() == expected
    assert vocabulary.rows(pa.chunked_array([column[:1], column[1:]])).tolist() == expected
    assert [i in vocabulary for i in asked] == [i in known for i in asked]


def test_unknown_and_null_ids_have_no_row() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.rows(["b", "x"]).tolist() == [1, UNKNOWN]
    assert vocabulary.rows(pa.array(["b", None])).tolist() == [1, UNKNOWN]
    assert None not in vocabulary


def test_ids_that_are_whole_numbers_are_the_strings_of_them() -> None:
    vocabulary = Vocabulary(pa.array([30, 7]))
    assert vocabulary.ids(np.array([1, 0])) == ["7", "30"]
    assert vocabulary.rows(pa.array([7, 8])).tolist() == [1, UNKNOWN]


def test_an_id_that_stands_twice_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the id 'b' stands twice"):
        Vocabulary(["a", "b", "c", "b"])


def test_a_null_id_is_refused() -> None:
    with pytest.raises(ValueError, match="an id is null"):
        Vocabulary(pa.array(["a", None]))


@pytest.mark.parametrize("row", [2, UNKNOWN])
def test_a_row_that_there_is_not_is_refused(row: int) -> None:
    with pytest.raises(IndexError):
        Vocabulary(["a", "b"]).ids(np.array([row]))
