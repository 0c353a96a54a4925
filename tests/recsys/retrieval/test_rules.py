"""The catalogue's rules as masks."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.rules import Rules

tag_lists = st.lists(st.none() | st.lists(st.none() | st.sampled_from("abcd")), max_size=20)


@given(tags=tag_lists, wanted=st.lists(st.sampled_from("abcde")), chunks=st.integers(1, 3))
def test_items_bear_a_tag_where_their_list_holds_it(
    tags: list[list[str | None] | None], wanted: list[str], chunks: int
) -> None:
    kind = pa.list_(pa.string())
    column = pa.chunked_array([pa.array(tags[i::chunks], kind) for i in range(chunks)], kind)
    in_order = [row or [] for i in range(chunks) for row in tags[i::chunks]]
    rules = Rules(pa.table({"tags": column}))
    expected = [bool({tag for tag in row if tag} & set(wanted)) for row in in_order]
    assert rules.bearing(wanted).tolist() == expected


def test_what_is_not_said_to_be_unavailable_is_available() -> None:
    assert Rules(pa.table({"available": [True, None, False]})).available.tolist() == [
        True,
        True,
        False,
    ]
    np.testing.assert_array_equal(Rules(pa.table({"item_id": ["a", "b"]})).available, [True] * 2)
