"""JSON Lines: objects of any keys, of one type a column or of several."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from recsys.data.dataset import Dataset
from recsys.data.readers import import_dataset
from recsys.data.readers.blocks import Member, Meter
from recsys.data.readers.json_lines import json_lines
from recsys.data.readers.rows import BadRow, BadRows


def read(tmp_path: Path, *lines: object, on_bad_row: str = "reject") -> tuple[dict[str, list], int]:
    """The columns a and b of a file of these lines, and how many were malformed."""
    path = tmp_path / "f.jsonl"
    texts = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    bad = BadRows(on_bad_row)  # type: ignore[arg-type]
    member = Member(path)
    (rows,) = json_lines(member, ["a", "b"], bad, Meter(None, member.size))
    return rows.table.to_pydict(), bad.count


def test_only_the_wanted_keys_are_read(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"a": 1, "c": {"deep": [1]}}, {"a": 2, "c": None})
    assert table == {"a": [1, 2]}


def test_text_that_looks_like_a_time_stays_text(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"a": "2026-01-31"}, {"a": "2026-01-31T12:00:00Z"})
    assert table == {"a": ["2026-01-31", "2026-01-31T12:00:00Z"]}


def test_a_column_of_several_types_is_read_as_text(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"a": 1, "b": None}, {"a": "x"}, {"a": True, "b": "y"})
    assert table == {"a": ["1", "x", "true"], "b": [None, None, "y"]}


def test_a_key_that_is_not_on_every_line_is_empty_elsewhere(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"a": 1}, {"a": 2, "b": "x"}, {"b": "y"})
    assert table == {"a": [1, 2, None], "b": [None, "x", "y"]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'a': 1}", "it is not JSON"),
        (b'{"a": 1', "it is not JSON"),
        (b'{"a": 1}{"a": 2}', "it is not JSON"),
        (b'{"a": NaN}', "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b'{"a": "caf\xe9"}', "it is not UTF-8"),
    ],
)
def test_a_malformed_line_is_named_or_counted(tmp_path: Path, line: bytes, reason: str) -> None:
    with pytest.raises(BadRow, match=rf"f\.jsonl, line 2, the line: {reason}"):
        read(tmp_path, {"a": 1}, line, {"a": 2})
    table, bad = read(tmp_path, {"a": 1}, line, {"a": 2}, on_bad_row="skip")
    assert table == {"a": [1, 2]}
    assert bad == 1


def test_empty_lines_are_passed_over_and_counted_as_lines(tmp_path: Path) -> None:
    assert read(tmp_path, {"a": 1}, b"", {"a": 2}, b"") == ({"a": [1, 2]}, 0)
    with pytest.raises(BadRow, match=r"f\.jsonl, line 3, the line: it is not JSON"):
        read(tmp_path, {"a": 1}, b"", b"{")


def test_lists_of_several_types_are_lists_of_text(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"a": ["x"]}, {"a": [7, True]}, {"a": None}, {"a": []})
    assert table == {"a": [["x"], ["7", "true"], None, []]}


@pytest.mark.parametrize(
    ("first", "other", "reason"),
    [
        (["x"], "y", "it is a single value where the column holds a list of single values"),
        ("x", ["y"], "it is a list of single values where the column holds a single value"),
        ({"x": 1}, "y", "it is a single value where the column holds an object"),
        (1, {"y": 1}, "it is an object where the column holds a single value"),
        (["x"], [["y"]], "it is a list of lists or objects where the column holds a list of"),
    ],
)
def test_a_line_of_another_kind_than_the_column_is_malformed(
    tmp_path: Path, first: object, other: object, reason: str
) -> None:
    with pytest.raises(BadRow, match=rf"f\.jsonl, line 3, a: {reason}"):
        read(tmp_path, {"a": None, "b": 1}, {"a": first, "b": 2}, {"a": other, "b": 3})
    lines = [{"a": first, "b": 1}, {"a": other, "b": 2}, {"a": None, "b": 3}]
    table, bad = read(tmp_path, *lines, on_bad_row="skip")
    assert table["b"] == [1, 3]
    assert bad == 1


def test_a_line_that_is_malformed_in_two_columns_counts_once(tmp_path: Path) -> None:
    lines = [{"a": 1, "b": 1}, {"a": [2], "b": [2]}]
    assert read(tmp_path, *lines, on_bad_row="skip") == ({"a": [1], "b": [1]}, 1)


HUGE = 2**128 - 1


@pytest.mark.parametrize("others", [[1], [2**53 + 1], [2**64 - 1], ["x"], [1.5, 2**53 + 1], []])
@pytest.mark.parametrize("huge_first", [True, False])
def test_integers_that_64_bits_do_not_hold_are_no_ids(
    tmp_path: Path, others: list[object], huge_first: bool
) -> None:
    users = [HUGE, HUGE - 1, *others] if huge_first else [*others, HUGE, HUGE - 1]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps({"user_id": user, "item_id": 1}) + "\n" for user in users))
    line = 1 if huge_first else len(others) + 1
    with pytest.raises(BadRow, match=rf"f\.jsonl, line {line}, user_id: it is a number"):
        import_dataset(path, tmp_path / "out")
    if others:
        info = import_dataset(path, tmp_path / "out", on_bad_row="skip")
        assert (info.users, info.bad_rows) == (len(others), 2)
        ids = Dataset.load(tmp_path / "out").users.to_arrow().to_pylist()
        assert sorted(ids) == sorted(str(user) for user in others)


def test_integers_of_64_bits_are_exact_whatever_stands_beside_them(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"a": 1.5}, {"a": 2**53 + 1}, {"a": 2**64 - 1})
    assert table == {"a": ["1.5", "9007199254740993", "18446744073709551615"]}
