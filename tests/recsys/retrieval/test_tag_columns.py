"""Tags become columns, and nothing else does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.retrieval.tag_columns import MOST_TAGS, common_tags, with_tags

TAGS = [["b", "a"], None, ["b"], [], ["c", None], ["b", "c"]]


def column(tags: list[list[str | None] | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(tags, pa.list_(pa.string()))])


def test_the_commonest_tags_come_first_and_equal_ones_by_name() -> None:
    assert common_tags(column([*TAGS, ["a"]])) == ["b", "a", "c"]


def test_items_without_tags_have_none() -> None:
    assert common_tags(column([None, [], [None]])) == []


def test_no_more_tags_than_promised_have_a_column() -> None:
    tags = [[f"t{tag}" for tag in range(item, MOST_TAGS + 50)] for item in range(MOST_TAGS + 50)]
    columns = common_tags(column(tags))
    assert len(columns) == MOST_TAGS
    assert columns[0] == f"t{MOST_TAGS + 49}"
    assert "t0" not in columns


def test_a_column_is_one_where_an_item_bears_the_tag() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    content = with_tags([vectors, -vectors], column(TAGS), ["c", "a", "none"])
    assert content.dtype == np.float32
    np.testing.assert_array_equal(content[:, :4], np.hstack([vectors, -vectors]))
    expected = [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(content[:, 4:], expected)


def test_without_columns_the_vectors_are_all_there_is() -> None:
    vectors = np.ones((6, 3), np.float32)
    np.testing.assert_array_equal(with_tags([vectors], column(TAGS), []), vectors)


def test_a_batch_is_as_its_items_one_by_one() -> None:
    tags, vectors = column(TAGS), np.random.default_rng(0).random((6, 2), np.float32)
    alone = [with_tags([vectors[i : i + 1]], tags.slice(i, 1), ["a", "b"])[0] for i in range(6)]
    np.testing.assert_array_equal(with_tags([vectors], tags, ["a", "b"]), alone)
