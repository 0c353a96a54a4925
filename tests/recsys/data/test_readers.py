"""Reading other people's layouts: real data sets as they are published."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.dataset import Dataset
from recsys.data.readers import BadSource, Columns, import_dataset

TABLE = "user_id,item_id,timestamp,value\nann,tea,1700000000,1\nbob,jam,1700000001.5,2\n"


@pytest.mark.parametrize(
    ("name", "users", "items", "touched", "events"),
    [
        ("ml-100k", 943, 1682, 1682, 100_000),
        ("ml-latest-small", 671, 9125, 9066, 100_004),
        ("ml-1m", 6040, 3416, 3416, 999_611),
        ("beauty", 22_363, 12_101, 12_101, 198_502),
    ],
)
def test_a_published_data_set_is_recognised_and_read_whole(
    shared_data: Path, tmp_path: Path, name: str, users: int, items: int, touched: int, events: int
) -> None:
    info = import_dataset(shared_data / name, tmp_path / name)
    counts = (info.users, info.items, info.items_with_events, info.events, info.bad_rows)
    assert counts == (users, items, touched, events, 0)


def test_the_100k_films_come_with_titles_genres_and_year(shared_data: Path, tmp_path: Path) -> None:
    import_dataset(shared_data / "ml-100k", tmp_path / "films")
    dataset = Dataset.load(tmp_path / "films")
    (film,) = dataset.catalogue.slice(0, 1).to_pylist()
    assert film["title"] == "Toy Story (1995)"
    assert film["tags"] == ["Animation", "Children's", "Comedy"]
    assert film["attributes"] == '{"year": 1995}'
    assert dataset.timestamps is not None


def test_latin_1_titles_are_read_as_such(shared_data: Path, tmp_path: Path) -> None:
    import_dataset(shared_data / "ml-100k", tmp_path / "films")
    titles = Dataset.load(tmp_path / "films").catalogue["title"].to_pylist()
    assert "Misérables, Les (1995)" in titles


def test_item_numbers_of_ml_1m_are_joined_to_their_films(shared_data: Path, tmp_path: Path) -> None:
    import_dataset(shared_data / "ml-1m", tmp_path / "films")
    dataset = Dataset.load(tmp_path / "films")
    row = dataset.items.rows(["1"])[0]
    # Line 1 of sas_to_original_items.txt: item 1 is film 1198 of movies.dat.
    assert dataset.catalogue["title"][int(row)].as_py() == "Raiders of the Lost Ark (1981)"
    assert dataset.timestamps is None


def test_double_colon_files_are_read(tmp_path: Path) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    (source / "ratings.dat").write_text("1::10::5::978300760\n2::20::3::978302109\n")
    (source / "movies.dat").write_bytes(
        "10::Amélie: A Film (2001)::Comedy|Romance\n".encode("latin1")
    )
    info = import_dataset(source, tmp_path / "out")
    assert (info.events, info.items) == (2, 2)
    first, second = Dataset.load(tmp_path / "out").catalogue.to_pylist()
    assert (first["title"], first["tags"]) == ("Amélie: A Film (2001)", ["Comedy", "Romance"])
    assert second["title"] == "20"


def test_a_year_of_few_digits_is_a_number_too(tmp_path: Path) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    (source / "ratings.dat").write_text("1::10::5::978300760\n")
    (source / "movies.dat").write_text("10::Vesuvius (0079)::Drama\n")
    import_dataset(source, tmp_path / "out")
    (film,) = Dataset.load(tmp_path / "out").catalogue.to_pylist()
    assert film["attributes"] == '{"year": 79}'


def test_a_zip_reads_as_its_folder_does(shared_data: Path, tmp_path: Path) -> None:
    archive = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("u.data", "u.item"):
            file.write(shared_data / "ml-100k" / name, f"ml-100k/{name}")
    zipped = import_dataset(archive, tmp_path / "zipped")
    plain = import_dataset(shared_data / "ml-100k", tmp_path / "plain")
    assert zipped.fingerprint == plain.fingerprint


def test_sequence_lines_of_many_items_are_one_users_order(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("1 5 6 7\n2 6 8\n\n")
    import_dataset(tmp_path / "s.txt", tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.items.ids(dataset.histories[0]) == ["5", "6", "7"]
    assert dataset.items.ids(dataset.histories[1]) == ["6", "8"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_reads_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"clicks{suffix}"
    if suffix == ".csv":
        source.write_text(TABLE)
    elif suffix == ".tsv":
        source.write_text(TABLE.replace(",", "\t"))
    elif suffix == ".jsonl":
        source.write_text(
            '{"user_id": "ann", "item_id": "tea", "timestamp": 1700000000, "value": 1}\n'
            '{"user_id": "bob", "item_id": "jam", "timestamp": 1700000001.5, "value": 2}\n'
        )
    else:
        columns = {
            "user_id": ["ann", "bob"],
            "item_id": ["tea", "jam"],
            "timestamp": pa.array([1_700_000_000_000, 1_700_000_001_500]).cast(pa.timestamp("ms")),
            "value": [1.0, 2.0],
        }
        pq.write_table(pa.table(columns), source)
    import_dataset(source, tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.users.to_arrow().to_pylist() == ["ann", "bob"]
    assert dataset.items.ids(dataset.histories.items) == ["tea", "jam"]
    assert dataset.timestamps is not None
    assert dataset.timestamps.tolist() == [1_700_000_000_000, 1_700_000_001_500]
    np.testing.assert_array_equal(dataset.values, [1, 2])


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet_reads_the_same_whatever_kind_of_text_its_writer_chose(
    tmp_path: Path, text: pa.DataType
) -> None:
    columns = {"user_id": ["ann"], "item_id": ["tea"], "timestamp": ["2026-01-31"], "value": ["3"]}
    table = pa.table({name: pa.array(values, text) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "c.parquet")
    import_dataset(tmp_path / "c.parquet", tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.timestamps is not None
    assert (dataset.timestamps.tolist(), dataset.values.tolist()) == ([1_769_817_600_000], [3.0])


def test_columns_may_be_called_otherwise_and_ids_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("who,at,sku\n7,2026-01-31T12:00:00Z,9\n7,2026-01-31,8\n")
    columns = Columns(user_id="who", item_id="sku", timestamp="at")
    import_dataset(tmp_path / "c.csv", tmp_path / "out", columns=columns)
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.items.ids(dataset.histories[0]) == ["8", "9"], "the earlier one comes first"


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "unix.csv").write_text(TABLE)
    (tmp_path / "windows.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    unix, windows = (
        import_dataset(tmp_path / f"{name}.csv", tmp_path / name) for name in ("unix", "windows")
    )
    assert unix.fingerprint == windows.fingerprint


def test_a_catalogue_gives_titles_and_tags(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(TABLE)
    (tmp_path / "items.csv").write_text(
        "item_id,title,tags,available\ntea,Green tea,hot|drink,false\n"
    )
    import_dataset(tmp_path / "c.csv", tmp_path / "out", catalogue=tmp_path / "items.csv")
    tea, jam = Dataset.load(tmp_path / "out").catalogue.to_pylist()
    assert (tea["title"], tea["tags"], tea["available"]) == ("Green tea", ["hot", "drink"], False)
    assert (jam["title"], jam["available"]) == ("jam", True)


def test_what_is_in_no_known_layout_is_told_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"\xff")
    with pytest.raises(BadSource, match=r"u\.data, ratings\.csv.*there is holiday\.jpg"):
        import_dataset(tmp_path, tmp_path.parent / "out")
