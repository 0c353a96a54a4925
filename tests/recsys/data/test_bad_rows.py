"""Malformed input of every reader: named with file, line and field, or counted; nothing is left."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import RecsysError
from recsys.data.readers import BadRow, BadSource, Columns, import_dataset

HEADER = b"user_id,item_id,timestamp,value\n"
GOOD = b"ann,tea,1700000000,1\n"


def refusal(source: Path, destination: Path, **options: object) -> str:
    """The message that the import is refused with; nothing may be left behind."""
    with pytest.raises(RecsysError) as raised:
        import_dataset(source, destination, **options)  # type: ignore[arg-type]
    assert not destination.exists()
    assert not list(destination.parent.glob(".unfinished*"))
    return raised.value.message


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (b",tea,1700000000,1\n", "user_id", "it is empty"),
        (b"ann,,1700000000,1\n", "item_id", "it is empty"),
        (b"ann,tea,yesterday,1\n", "timestamp", "it is not a number ('yesterday')"),
        (b"ann,tea,1e300,1\n", "timestamp", "it is no time that a calendar has"),
        (b"ann,tea,1700000000,good\n", "value", "it is not a number ('good')"),
        (b"ann,tea,1700000000,nan\n", "value", "('nan')"),
        (b"ann,tea,1700000000,inf\n", "value", "('inf')"),
        (b"ann,tea,1700000000\n", "the row", "it has 3 fields where 4 belong"),
        (b"ann,tea,1700000000,1,2\n", "the row", "it has 5 fields where 4 belong"),
        (b"ann,t\xe9,1700000000,1\n", "item_id", "it is not UTF-8"),
        (b"ann,t\xe9,1700000000\n", "the row", "it has 3 fields where 4 belong"),
        (b"ann,te\ra,1700000000,1\n", "the row", "a carriage return stands within it"),
    ],
)
def test_a_malformed_row_of_a_csv_is_named_or_counted(
    tmp_path: Path, row: bytes, field: str, reason: str
) -> None:
    source = tmp_path / "clicks.csv"
    source.write_bytes(HEADER + GOOD + GOOD + row + GOOD)
    message = refusal(source, tmp_path / "out")
    assert f"{source}, line 4, {field}: " in message
    assert reason in message
    assert "--on-bad-row skip" in message
    info = import_dataset(source, tmp_path / "out", on_bad_row="skip")
    assert (info.events, info.bad_rows) == (3, 1)


@pytest.mark.parametrize(
    ("name", "good", "bad", "field"),
    [
        ("u.data", b"1\t2\t3\t881250949\n", b"1\t2\tmany\t881250949\n", "value"),
        ("ratings.dat", b"1::2::3::881250949\n", b"1::2::3\n", "the row"),
        ("s.txt", b"1 2\n", b"1\n", "the line"),
        ("c.jsonl", b'{"user_id":"a","item_id":"b"}\n', b"{'user_id'\n", "the line"),
        ("d.jsonl", b'{"user_id":"a","item_id":"b"}\n', b"[1]\n", "the line"),
    ],
)
def test_so_is_one_of_every_other_text_format(
    tmp_path: Path, name: str, good: bytes, bad: bytes, field: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(good * 2 + bad + good)
    message = refusal(folder, tmp_path / "out")
    assert f"{folder / name}, line 3, {field}: " in message
    info = import_dataset(folder, tmp_path / "out", on_bad_row="skip")
    assert (info.events, info.bad_rows) == (3, 1)


def test_a_day_that_no_calendar_has_is_named(tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text(
        "user_id,item_id,timestamp\na,b,2026-01-31T12:00:00.123456+02:00\na,b,2026-13-45\n"
    )
    assert "line 3, timestamp: it is no ISO 8601 time ('2026-13-45')" in refusal(
        source, tmp_path / "out"
    )


def test_text_in_parquet_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    raw = pa.array([b"ann", b"\xff"])
    users = pa.Array.from_buffers(pa.string(), 2, raw.buffers())  # as a careless writer does
    pq.write_table(pa.table({"user_id": users, "item_id": ["x", "y"]}), tmp_path / "c.parquet")
    message = refusal(tmp_path / "c.parquet", tmp_path / "out")
    assert "row 2, user_id: it is not UTF-8" in message


def test_many_malformed_rows_are_all_counted(tmp_path: Path) -> None:
    source = tmp_path / "clicks.csv"
    source.write_bytes(HEADER + (GOOD + b"ann,tea,x,1\n" + b"short\n") * 1000)
    info = import_dataset(source, tmp_path / "out", on_bad_row="skip")
    assert (info.events, info.bad_rows) == (1000, 2000)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("customer,item_id\n1,2\n")
    message = refusal(tmp_path / "c.csv", tmp_path / "out")
    assert "no column 'user_id'; its columns are customer, item_id" in message
    assert "--user COLUMN" in message


def test_a_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("user_id,item_id\n1,2\n")
    message = refusal(tmp_path / "c.csv", tmp_path / "out", columns=Columns(timestamp="at"))
    assert "no column 'at'" in message


def test_a_header_that_ends_in_a_carriage_return_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes((HEADER + GOOD).replace(b"\n", b"\r"))
    assert "line 1: the header cannot be read" in refusal(tmp_path / "c.csv", tmp_path / "out")


def test_a_row_of_many_megabytes_is_read_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(HEADER + GOOD + b"bob," + b"x" * 3_000_000 + b",1,1\n")
    assert import_dataset(tmp_path / "c.csv", tmp_path / "out").events == 2


def test_a_column_without_a_name_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(",user_id,item_id\n0,ann,tea\n")
    assert import_dataset(tmp_path / "c.csv", tmp_path / "out").events == 1


@pytest.mark.parametrize("name", ["empty.csv", "empty.txt", "u.data"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).touch()
    assert str(tmp_path / "in") in refusal(tmp_path / "in", tmp_path / "out")


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(HEADER)
    assert "holds no event" in refusal(tmp_path / "c.csv", tmp_path / "out")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere.csv", tmp_path / "out")
    assert "there is no such file or folder" in message


@pytest.mark.parametrize("name", ["data.zip", "data.parquet"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04PAR1 and then nothing")
    assert "not a whole one" in refusal(tmp_path / name, tmp_path / "out")


def test_a_zip_damaged_inside_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml/u.data", "1\t2\t3\t881250949\n" * 5000)
    whole = bytearray(archive.read_bytes())
    whole[60:70] = b"\x00" * 10
    archive.write_bytes(bytes(whole))
    assert "broken" in refusal(archive, tmp_path / "out")


def test_a_name_in_a_zip_that_points_out_of_it_is_not_followed(tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../u.data", "1\t2\t3\t881250949\n")
    before = set(tmp_path.parent.rglob("u.data"))
    import_dataset(archive, tmp_path / "out")
    assert set(tmp_path.parent.rglob("u.data")) == before, "read from the zip, never unpacked"


def test_an_item_that_stands_twice_in_a_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(HEADER + GOOD)
    (tmp_path / "items.csv").write_text("item_id,title\ntea,Tea\njam,Jam\ntea,Again\n")
    message = refusal(tmp_path / "c.csv", tmp_path / "out", catalogue=tmp_path / "items.csv")
    assert "line 4, item_id: 'tea' stands twice" in message


def test_a_destination_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(HEADER + GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(RecsysError, match="exists already"):
        import_dataset(tmp_path / "c.csv", tmp_path / "out")
    assert (tmp_path / "out" / "precious").exists()


def test_bad_rows_are_named_as_such() -> None:
    assert issubclass(BadRow, RecsysError)
    assert issubclass(BadSource, RecsysError)
