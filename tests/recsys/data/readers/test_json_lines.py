"""JSON Lines: objects of any keys, of one type a column or of several."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

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
