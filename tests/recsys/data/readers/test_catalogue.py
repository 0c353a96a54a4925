"""Tables of items: what there is of titles, texts, tags and attributes, in every format."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.readers.blocks import Member
from recsys.data.readers.catalogue import read_catalogue
from recsys.data.readers.rows import BadRow, BadRows, BadSource

TEA = {
    "item_id": "tea",
    "title": "Green tea",
    "text": "Leaves,\nand water",
    "image": "tea.png",
    "tags": ["hot", "drink"],
    "attributes": '{"price": 3}',
    "available": False,
}
JAM = {
    "item_id": "jam",
    "title": "jam",
    "text": None,
    "image": None,
    "tags": [],
    "attributes": '{"fruit": "plum"}',
    "available": True,
}

CSV = """item_id,title,text,image,tags,attributes,available
tea,Green tea,"Leaves,
and water",tea.png,hot|drink,"{""price"": 3}",No
jam,,,,,"{""fruit"": ""plum""}",
"""


def read(path: Path, on_bad_row: str = "reject") -> list[dict[str, object]]:
    rows: list[dict[str, object]] = read_catalogue(
        Member(path),
        BadRows(on_bad_row),  # type: ignore[arg-type]
    ).to_pylist()
    return [row | {"tags": row["tags"] or [], "attributes": _compact(row)} for row in rows]


def _compact(row: dict[str, object]) -> str | None:
    text = row["attributes"]
    return orjson.dumps(orjson.loads(text)).decode() if isinstance(text, str) else None


def expected() -> list[dict[str, object]]:
    return [row | {"attributes": _compact(row)} for row in (TEA, JAM)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_catalogue_reads_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"items{suffix}"
    if suffix == ".csv":
        path.write_text(CSV)
    elif suffix == ".tsv":
        path.write_text(CSV.replace("Leaves,", "Leaves;").replace(",", "\t").replace(";", ","))
    elif suffix == ".jsonl":
        objects = [row | {"attributes": orjson.loads(str(row["attributes"]))} for row in (TEA, JAM)]
        path.write_bytes(b"\n".join(orjson.dumps(row) for row in objects))
    else:
        pq.write_table(pa.Table.from_pylist([TEA, JAM]), path)
    assert read(path) == expected()


OTHERS = {"year": [1999, None], "price": [2.5, 3.0], "brand": ["Kew", "007"], "sizes": [["s"], []]}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_their_own_are_attributes_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"items{suffix}"
    columns = {"item_id": ["tea", "jam"], **OTHERS, "attributes": ['{"year": 2000}', None]}
    table = pa.table(columns)
    expected = [
        {"year": 2000, "price": 2.5, "brand": "Kew", "sizes": ["s"]},
        {"price": 3.0, "brand": "007", "sizes": []},
    ]
    if suffix == ".csv":
        path.write_text(
            'item_id,year,price,brand,attributes\ntea,1999,2.5,Kew,"{""year"": 2000}"\n'
            "jam,,3,007,\n"
        )
        expected = [{k: v for k, v in each.items() if k != "sizes"} for each in expected]
    elif suffix == ".jsonl":
        path.write_bytes(b"\n".join(orjson.dumps(row) for row in table.to_pylist()))
    else:
        pq.write_table(table, path)
    assert [orjson.loads(str(item["attributes"])) for item in read(path)] == expected


def test_columns_that_no_filter_could_ask_for_are_passed_over(tmp_path: Path) -> None:
    path = parquet(tmp_path, raw=RAW, seen=[{"by": 1}, {"by": 2}], when=[dt.date(2020, 1, 2), None])
    assert [item["attributes"] for item in read(path)] == ['{"when":"2020-01-02"}', None]
    lines = tmp_path / "items.jsonl"
    lines.write_text('{"item_id": 1, "seen": {"by": 1}, "n": [[1]], "year": 5}\n{"item_id": 2}\n')
    assert [item["attributes"] for item in read(lines)] == ['{"year":5}', None]


def attributes(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(str(item["attributes"])) for item in read(path)]


def test_a_price_is_the_number_that_it_is_written_as(tmp_path: Path) -> None:
    price = pa.array([Decimal("19.99"), None])
    weight = pa.array([0.1, float("nan")], pa.float32())
    path = parquet(tmp_path, price=price, weight=weight, tiers=pa.array([[Decimal("0.3")], []]))
    assert attributes(path) == [{"price": 19.99, "weight": 0.1, "tiers": [0.3]}, {"tiers": []}]


def test_times_are_iso_8601_and_in_utc_where_they_have_a_zone(tmp_path: Path) -> None:
    noon = dt.datetime(2024, 1, 31, 12)
    paris = pa.array([noon, None], pa.timestamp("ns", tz="Europe/Paris"))
    path = parquet(tmp_path, at=[noon, None], there=paris, all=[[noon], []])
    told = {"at": "2024-01-31T12:00:00", "there": "2024-01-31T12:00:00Z"}
    assert attributes(path) == [{**told, "all": ["2024-01-31T12:00:00"]}, {"all": []}]


def test_text_stays_text_where_the_format_says_that_it_is(tmp_path: Path) -> None:
    assert attributes(parquet(tmp_path, ean=["40", "41"])) == [{"ean": "40"}, {"ean": "41"}]
    lines = tmp_path / "items.jsonl"
    lines.write_text('{"item_id": 1, "ean": "40"}\n{"item_id": 2, "ean": 41}\n')
    assert attributes(lines) == [{"ean": "40"}, {"ean": 41}]


def test_what_a_line_of_json_holds_is_seen_however_late_it_comes(tmp_path: Path) -> None:
    lines = tmp_path / "items.jsonl"
    early = "".join(f'{{"item_id": {n}, "attributes": "{{}}"}}\n' for n in range(1500))
    lines.write_text(early + '{"item_id": "x", "title": "Late", "on": true, "volt": 12}\n')
    late = read(lines)[-1]
    assert (late["title"], late["attributes"]) == ("Late", '{"on":true,"volt":12}')


def test_only_the_id_is_needed_and_becomes_the_title(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\n7\n")
    (item,) = read(tmp_path / "items.csv")
    assert (item["item_id"], item["title"], item["available"]) == ("7", "7", True)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (",x,,", "item_id", "it is empty"),
        ("jam,x,{no,", "attributes", "it is not a JSON object"),
        ("jam,x,[1],", "attributes", "it is not a JSON object"),
        ("jam,x,,maybe", "available", "it is neither true nor false"),
        ("jam,x", "the row", "it has 2 fields where 4 belong"),
    ],
)
def test_a_malformed_item_is_named_or_left_out(
    tmp_path: Path, row: str, field: str, reason: str
) -> None:
    path = tmp_path / "items.csv"
    path.write_text(f'item_id,title,attributes,available\ntea,"Green\ntea",,1\n{row}\n')
    with pytest.raises(BadRow, match=rf"items\.csv, line 4, {field}: {reason}"):
        read(path)
    assert [item["item_id"] for item in read(path, "skip")] == ["tea"]


def test_an_item_that_stands_twice_is_refused_even_where_rows_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id\ntea\njam\ntea\n")
    with pytest.raises(BadSource, match=r"line 4, item_id: 'tea' stands twice"):
        read(path, "skip")


def test_a_catalogue_without_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,title\n1,x\n")
    with pytest.raises(BadSource, match="no column 'item_id'; its columns are sku, title"):
        read(tmp_path / "items.csv")


def test_tags_of_json_lines_may_be_of_any_single_values(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id":1,"tags":["x"]}\n{"item_id":2,"tags":[7]}\n{"item_id":3}\n')
    assert [item["tags"] for item in read(path)] == [["x"], ["7"], []]


def test_tags_that_are_a_list_on_one_line_and_text_on_another_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id":1,"tags":["x"]}\n{"item_id":2,"tags":"x|y"}\n')
    with pytest.raises(BadRow, match=r"items\.jsonl, line 2, tags: it is a single value where"):
        read(path)
    assert [item["tags"] for item in read(path, "skip")] == [["x"]]


def parquet(tmp_path: Path, **columns: object) -> Path:
    pq.write_table(pa.table({"item_id": ["tea", "jam"], **columns}), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def careless(values: pa.Array) -> pa.Array:
    """Bytes called text, as some writers do."""
    return pa.Array.from_buffers(pa.string(), len(values), values.buffers())


RAW = pa.array([b"hot", b"caf\xe9"])


@pytest.mark.parametrize("values", [RAW, careless(RAW)], ids=["bytes", "text"])
@pytest.mark.parametrize("lists", [pa.ListArray, pa.LargeListArray])
def test_an_item_with_a_tag_that_is_not_utf_8_is_malformed(
    tmp_path: Path, values: pa.Array, lists: type[pa.ListArray]
) -> None:
    path = parquet(tmp_path, tags=lists.from_arrays([0, 1, 2], values))
    with pytest.raises(BadRow, match=r"items\.parquet, row 2, tags: it is not UTF-8"):
        read(path)
    assert [(item["item_id"], item["tags"]) for item in read(path, "skip")] == [("tea", ["hot"])]


def test_tags_of_objects_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, tags=pa.array([{"a": 1}, {"a": 2}]))
    with pytest.raises(BadSource, match="the column 'tags' holds struct<a: int64>, not lists"):
        read(path)


@pytest.mark.parametrize(
    "values",
    [pa.array([Decimal("1.5"), None]), RAW, careless(RAW), pa.array([dt.timedelta(1), None])],
    ids=["decimal", "bytes", "not UTF-8", "duration"],
)
def test_attributes_that_json_does_not_have_are_refused(tmp_path: Path, values: pa.Array) -> None:
    path = parquet(tmp_path, attributes=pa.StructArray.from_arrays([values], ["price"]))
    with pytest.raises(BadSource, match=r"items\.parquet: the column 'attributes' holds struct<pr"):
        read(path)


def test_a_day_that_no_calendar_has_is_refused_by_its_column(tmp_path: Path) -> None:
    path = parquet(tmp_path, made=pa.array([10_000_000, 0], pa.date32()))
    with pytest.raises(BadSource, match=r"items\.parquet: the column 'made' holds date32"):
        read(path)


def test_columns_of_parquet_with_one_name_are_refused(tmp_path: Path) -> None:
    ids = pa.array(["tea"])
    table = pa.Table.from_arrays([ids, ids], ["item_id", "item_id"])
    pq.write_table(table, tmp_path / "items.parquet")
    with pytest.raises(BadSource, match=r"items\.parquet: every column needs a name of its own"):
        read(tmp_path / "items.parquet")
