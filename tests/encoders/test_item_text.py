"""The text of an item."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from encoders.item_text import item_texts

NOTHING: list[str | None] = []
PART = st.none() | st.sampled_from(["", " ", "Up", "Up.", "Up and away", "a house"])
TAGS = st.none() | st.lists(st.none() | st.sampled_from(["", "Drama", "War"]), max_size=3)


def items(
    title: list[str | None], text: list[str | None], tags: list[list[str | None] | None]
) -> pa.Table:
    schema = pa.schema(
        [("title", pa.string()), ("text", pa.string()), ("tags", pa.list_(pa.string()))]
    )
    return pa.table({"title": title, "text": text, "tags": tags}, schema)


def text_of(title: str | None, text: str | None, tags: list[str | None] | None = NOTHING) -> str:
    said: str = item_texts(items([title], [text], [tags]))[0].as_py()
    return said


def test_title_tags_and_text_stand_in_this_order() -> None:
    assert (
        text_of("Up", "A house flies.", ["Comedy", "Drama"]) == "Up. Comedy, Drama. A house flies."
    )


def test_a_text_that_begins_with_the_title_stands_alone() -> None:
    assert text_of("Up", "Up. A house flies.", ["Drama"]) == "Up. A house flies."


def test_what_is_null_or_empty_is_left_out() -> None:
    assert text_of("Up", None, None) == "Up"
    assert text_of("Up", " ", [None, "", "War"]) == "Up. War"
    assert text_of(None, "A house flies.", ["War"]) == "War. A house flies."


def test_an_item_that_says_nothing_has_the_empty_text() -> None:
    assert item_texts(items([None, ""], [None, " "], [None, [""]])).to_pylist() == ["", ""]


@given(st.lists(st.tuples(PART, PART, TAGS), max_size=6))
def test_a_table_gives_the_texts_of_its_rows(
    rows: list[tuple[str | None, str | None, list[str | None] | None]],
) -> None:
    table = items([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    assert item_texts(table).to_pylist() == [text_of(*row) for row in rows]


def test_columns_in_several_chunks_are_read_as_one() -> None:
    table = pa.concat_tables([items(["Up"], ["x"], [["War"]]), items(["Jaws"], [None], [None])])
    assert item_texts(table).to_pylist() == ["Up. War. x", "Jaws"]
