"""Catalogues from elsewhere, by ITEMS_SCHEMA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import ITEMS_SCHEMA
from recsys.data.readers.blocks import Member, Meter
from recsys.data.readers.delimited import is_list
from recsys.data.readers.json_values import json_values
from recsys.data.readers.rows import BadRows, BadSource, RowChecks, Rows
from recsys.data.readers.tables import tables

YEAR = r"\((?P<year>\d{4})\)\s*$"

TAG_SEPARATOR = "|"
"""What parts the tags of an item in CSV and TSV."""

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def read_catalogue(member: Member, bad: BadRows) -> pa.Table:
    """A table of items: item_id, and what there is of title, text, image, tags (a list, or text
    parted by TAG_SEPARATOR), attributes (a JSON object) and available. All other columns that hold
    single values, or lists of them, are attributes too.

    Raises BadSource if it has no item_id or one of them twice.
    """
    parts, lines = [], []
    meter = Meter(None, member.size)
    for rows in tables(member, ITEMS_SCHEMA.names, bad, meter, multiline=True, others=True):
        if "item_id" not in rows.columns:
            raise BadSource(
                f"{member} has no column 'item_id'; its columns are {', '.join(rows.columns)}"
            )
        checks = RowChecks(rows, bad)
        columns: dict[str, pa.Array] = {
            "item_id": checks.text("item_id"),
            "line": pa.array(rows.lines),
        }
        for name in ("title", "text", "image"):
            if name in rows.table.column_names:
                columns[name] = _texts(rows, name)
        if "tags" in rows.table.column_names:
            columns["tags"] = _tags(rows)
        columns["attributes"] = _attributes(rows, checks)
        if "available" in rows.table.column_names:
            columns["available"] = _available(rows, checks)
        kept = checks.keep(columns)
        lines += kept["line"].to_pylist()
        parts.append(kept.drop_columns("line"))
    if not parts:
        raise BadSource(f"{member} holds no item")
    whole = pa.concat_tables(parts).combine_chunks()
    return catalogue(
        {name: whole[name].combine_chunks() for name in whole.column_names}, str(member), lines
    )


def catalogue(columns: dict[str, pa.Array], source: str, lines: Sequence[int]) -> pa.Table:
    """A catalogue by ITEMS_SCHEMA from the columns there are; a missing title is the id.

    Raises BadSource naming an id that stands twice, with its line.
    """
    item_ids = columns["item_id"]
    n = len(item_ids)
    first = pc.index_in(item_ids, value_set=item_ids).to_numpy()
    again = np.flatnonzero(first != np.arange(n))
    if len(again):
        row = int(again[0])
        raise BadSource(
            f"{source}, line {lines[row]}, item_id: {item_ids[row].as_py()!r} stands twice; "
            "keep one row an item"
        )
    titles = columns.get("title", pa.nulls(n, pa.string()))
    available = columns.get("available", pa.nulls(n, pa.bool_()))
    all_columns = {
        name: columns.get(name, pa.nulls(n, ITEMS_SCHEMA.field(name).type))
        for name in ITEMS_SCHEMA.names
    }
    all_columns["title"] = pc.coalesce(titles, item_ids)
    all_columns["available"] = pc.fill_null(available, True)
    return pa.table(all_columns).cast(ITEMS_SCHEMA)


def films(
    item_ids: pa.Array, titles: pa.Array, genres: pa.Array, source: str, lines: Sequence[int]
) -> pa.Table:
    """Films with a year in their titles and genres list<string>: the genres are the tags, the
    year an attribute, and the text says both for the encoders to read."""
    years = pc.struct_field(pc.extract_regex(titles, YEAR), "year").cast(pa.int32())
    attributes = pc.binary_join_element_wise('{"year": ', years.cast(pa.string()), "}", "")
    spoken = pc.binary_join(genres, ", ")
    text = pc.binary_join_element_wise(titles, spoken, ". ")
    columns = {
        "item_id": item_ids,
        "title": titles,
        "text": pc.if_else(pc.equal(spoken, ""), titles, text),
        "tags": genres,
        "attributes": attributes,
    }
    return catalogue(columns, source, lines)


def split_list(column: pa.Array, separator: str) -> pa.Array:
    """Each text split into a list; an empty or null text gives an empty list."""
    filled = pc.fill_null(column, "")
    parts = pc.split_pattern(filled, separator)
    return pc.if_else(pc.equal(filled, ""), pa.scalar([], pa.list_(pa.string())), parts)


def _texts(rows: Rows, name: str) -> pa.Array:
    """A column as text; what is empty is null."""
    column = rows.table[name].combine_chunks()
    if pa.types.is_nested(column.type):
        raise BadSource(f"{rows.source}: the column {name!r} holds {column.type}, not text")
    values = column.cast(pa.string())
    return pc.if_else(pc.equal(values, ""), None, values)


def _tags(rows: Rows) -> pa.Array:
    tags = rows.table["tags"].combine_chunks()
    if not pa.types.is_nested(tags.type):
        return split_list(tags.cast(pa.string()), TAG_SEPARATOR)
    if is_list(tags.type) and not pa.types.is_nested(tags.type.value_type):
        return tags.cast(pa.list_(pa.string()))
    raise BadSource(f"{rows.source}: the column 'tags' holds {tags.type}, not lists of text")


def _attributes(rows: Rows, checks: RowChecks) -> pa.Array:
    """JSON objects as text: what stands in columns of its own, and before it what stands in the
    column `attributes`, whether that came as text or as objects."""
    names = [name for name in rows.table.column_names if name not in ITEMS_SCHEMA.names]
    columns = [_values(rows, name) for name in names]
    objects: list[dict[str, Any]] = [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in (zip(*columns, strict=True) if columns else [()] * len(rows.table))
    ]
    if "attributes" not in rows.table.column_names:
        return _written(objects)
    column = rows.table["attributes"]
    try:
        given = [_as_object(value) for value in column.to_pylist()]
        wrong = [isinstance(value, ValueError) for value in given]
        checks.refuse("attributes", pa.array(wrong, pa.bool_()), "it is not a JSON object")
        for one, value in zip(objects, given, strict=True):
            one.update(value if isinstance(value, dict) else {})
        return _written(objects)
    except (orjson.JSONEncodeError, UnicodeDecodeError) as error:
        raise BadSource(
            f"{rows.source}: the column 'attributes' holds {column.type}, which cannot be "
            f"written as JSON: {error}"
        ) from None


def _values(rows: Rows, name: str) -> list[Any]:
    column = rows.table[name].combine_chunks()
    try:
        return json_values(column)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise BadSource(
            f"{rows.source}: the column {name!r} holds {column.type}, of which something cannot be "
            f"written as JSON: {error}"
        ) from None


def _written(objects: Sequence[dict[str, Any]]) -> pa.Array:
    return pa.array(
        [orjson.dumps(each).decode() if each else None for each in objects], pa.string()
    )


def _as_object(value: Any) -> dict[str, Any] | ValueError | None:
    if value is None or value == "":
        return None
    try:
        found = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError as error:
        return error
    return found if isinstance(found, dict) else ValueError("not an object")


def _available(rows: Rows, checks: RowChecks) -> pa.Array:
    words = pc.utf8_lower(_texts(rows, "available"))
    yes, no = (pc.is_in(words, value_set=pa.array(known)) for known in (TRUE, FALSE))
    wrong = pc.and_(pc.is_valid(words), pc.invert(pc.or_(yes, no)))
    checks.refuse("available", wrong, "it is neither true nor false")
    return pc.if_else(pc.or_(yes, no), yes, None)
