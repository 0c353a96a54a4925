"""Rules: which rows of the catalogue may be recommended at all, and which a filter leaves.

What the catalogue says of its items is inverted once: for each tag, and for each attribute and
value, the rows that bear it. A filter marks the rows of the values that it asks for, and so costs
what it finds, not what there is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.retrieval.condition import SORTS, BadCondition, Condition, Value

SHOWN = 20
"""How many of the known attributes an error names."""


class BadAttributes(RecsysError, ValueError):
    """An item whose attributes are no JSON object."""


class Rules:
    """What the catalogue says of its N items, laid out for fast masks.

    Building takes O(N + tags + attributes): a second or so for each million values of attributes,
    far less where items have the same ones. A mask takes O(N) bytes and the items that bear what it
    asks for, about a millisecond for a million items.
    """

    def __init__(self, catalogue: pa.Table) -> None:
        """catalogue: row i = item i; `available` (null is yes), `tags` and `attributes` (JSON
        objects) where it has them.

        Attributes may be numbers, strings, booleans or lists of them, and differ in that from item
        to item; what is nested deeper is left out. Raises BadAttributes naming the item.
        """
        self.available = np.ones(len(catalogue), np.bool_)
        """Bool[N]: the rows that may be recommended."""
        if "available" in catalogue.column_names:
            column = pc.fill_null(catalogue["available"], True)
            self.available = np.asarray(column.to_numpy(), np.bool_)
        self._rows = np.empty(0, np.int64)
        self._spans: dict[str, slice] = {}
        if "tags" in catalogue.column_names:
            self._invert(catalogue["tags"].combine_chunks())
        self._attributes: dict[str, dict[str, _Column]] = {}
        if "attributes" in catalogue.column_names:
            self._attributes = _columns(catalogue)

    def bearing(self, tags: Sequence[str]) -> NDArray[np.bool_]:
        """Bool[N]: the rows that bear at least one of the tags."""
        mask = np.zeros(len(self.available), np.bool_)
        for tag in tags:
            if tag in self._spans:
                mask[self._rows[self._spans[tag]]] = True
        return mask

    def mask(self, conditions: Mapping[str, Condition]) -> NDArray[np.bool_]:
        """Bool[N]: the rows whose attributes, by name, meet all of the conditions.

        Raises BadCondition naming an attribute that no item has, or one that is compared with no
        value of a type that it has in any item.
        """
        mask = np.ones(len(self.available), np.bool_)
        for name, condition in conditions.items():
            for rows in self._found(name, condition):
                one = np.zeros(len(mask), np.bool_)
                one[rows] = True
                mask &= one
        return mask

    def _found(self, name: str, condition: Condition) -> Iterator[NDArray[np.int32]]:
        """For each part of the condition, the rows that meet it."""
        sorts = self._attributes.get(name)
        if sorts is None:
            known = sorted(self._attributes)
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            told = f"they have {', '.join(known[:SHOWN])}{more}" if known else "they have none"
            raise BadCondition(f"no item has an attribute {name!r} to compare; {told}")

        def of(*values: Value) -> list[tuple[_Column, Value]]:
            """Each value with the column of its sort. No item has one of a sort without a column,
            but items may have the others."""
            found = [(sorts[s], value) for value in values if (s := SORTS[type(value)]) in sorts]
            if not found:
                raise BadCondition(
                    f"the attribute {name!r} is a {' or '.join(sorted(sorts))}, and is compared "
                    f"with the {SORTS[type(values[0])]} {values[0]!r}"
                )
            return found

        if condition.eq is not None:
            [(column, value)] = of(condition.eq)
            yield column.equal(value)
        if condition.one_of is not None:
            yield np.concatenate([column.equal(one) for column, one in of(*condition.one_of)])
        bounds = condition.bounds()
        if bounds:
            [(column, _)] = of(bounds[0])
            yield column.between(condition)

    def _invert(self, tags: pa.ListArray) -> None:
        """From the tags of each row to the rows of each tag, end to end."""
        encoded = pc.list_flatten(tags).dictionary_encode()
        known = pc.is_valid(encoded).to_numpy(zero_copy_only=False)
        rows = pc.list_parent_indices(tags).to_numpy()[known]
        codes = encoded.indices.drop_null().to_numpy()
        self._rows = rows[np.argsort(codes, kind="stable")]
        counts = np.bincount(codes, minlength=len(encoded.dictionary))
        ends = np.cumsum(counts)
        self._spans = {
            tag: slice(start, end)
            for tag, start, end in zip(
                encoded.dictionary.to_pylist(), (ends - counts).tolist(), ends.tolist(), strict=True
            )
        }


@dataclass(frozen=True, eq=False)
class _Column:
    """The values of one sort that an attribute has: for each, the rows that have it."""

    values: list[Any]
    """Distinct and sorted; Python's, since its integers and floats compare exactly."""

    starts: NDArray[np.int64]
    """Int64[V + 1]: the rows of value v are `rows[starts[v] : starts[v + 1]]`."""

    rows: NDArray[np.int32]

    def equal(self, value: Value) -> NDArray[np.int32]:
        return self._rows(bisect_left(self.values, value), bisect_right(self.values, value))

    def between(self, bounds: Condition) -> NDArray[np.int32]:
        first, last = 0, len(self.values)
        if bounds.gte is not None:
            first = max(first, bisect_left(self.values, bounds.gte))
        if bounds.gt is not None:
            first = max(first, bisect_right(self.values, bounds.gt))
        if bounds.lte is not None:
            last = min(last, bisect_right(self.values, bounds.lte))
        if bounds.lt is not None:
            last = min(last, bisect_left(self.values, bounds.lt))
        return self._rows(first, max(first, last))

    def _rows(self, first: int, last: int) -> NDArray[np.int32]:
        return self.rows[self.starts[first] : self.starts[last]]


@dataclass(frozen=True, eq=False)
class _Gathered:
    """What will be a column: its distinct values, and which object has which of them."""

    codes: dict[Any, int] = field(default_factory=dict)
    objects: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)


def _columns(catalogue: pa.Table) -> dict[str, dict[str, _Column]]:
    """By attribute, by the sort of value. What items have word for word alike is parsed once."""
    encoded = catalogue["attributes"].combine_chunks().dictionary_encode()
    gathered: defaultdict[tuple[str, str], _Gathered] = defaultdict(_Gathered)
    for number, text in enumerate(encoded.dictionary.to_pylist()):
        for name, given in _parsed(text, number, encoded, catalogue).items():
            for value in given if isinstance(given, list) else (given,):
                sort = SORTS.get(type(value))
                if sort is not None:
                    one = gathered[name, sort]
                    one.objects.append(number)
                    one.found.append(one.codes.setdefault(value, len(one.codes)))
    valid = pc.is_valid(encoded).to_numpy(zero_copy_only=False)
    of_rows = encoded.indices.drop_null().to_numpy()
    rows = np.flatnonzero(valid)[np.argsort(of_rows, kind="stable")].astype(np.int32)
    counts = np.bincount(of_rows, minlength=len(encoded.dictionary))
    columns: defaultdict[str, dict[str, _Column]] = defaultdict(dict)
    for (name, sort), one in gathered.items():
        columns[name][sort] = _column(one, rows, counts)
    return dict(columns)


def _column(gathered: _Gathered, rows: NDArray[np.int32], counts: NDArray[np.int64]) -> _Column:
    """rows: those of each object, end to end; counts Int64[objects]: how many it has."""
    values = sorted(gathered.codes)
    rank = np.empty(len(values), np.int64)
    rank[[gathered.codes[value] for value in values]] = np.arange(len(values))
    ranks = rank[gathered.found]
    order = np.argsort(ranks, kind="stable")
    objects, ranks = np.asarray(gathered.objects)[order], ranks[order]
    sizes = counts[objects]
    ends = np.cumsum(sizes)
    # The rows of an object are a run; this is how far into its object's run each of them stands.
    within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    firsts = np.cumsum(counts) - counts
    of_values = np.bincount(ranks, weights=sizes, minlength=len(values)).astype(np.int64)
    return _Column(
        values,
        np.concatenate([[0], np.cumsum(of_values)]),
        rows[np.repeat(firsts[objects], sizes) + within],
    )


def _parsed(
    text: str, number: int, encoded: pa.DictionaryArray, catalogue: pa.Table
) -> dict[str, Any]:
    """The object that an item's attributes are."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        why = str(error)
    else:
        if isinstance(parsed, dict):
            return parsed
        why = "it is not a JSON object"
    row = pc.index(encoded.indices, number).as_py()
    named = catalogue["item_id"][row].as_py() if "item_id" in catalogue.column_names else None
    item = f"row {row}" if named is None else f"the item {named!r}"
    raise BadAttributes(f"the attributes of {item} cannot be read: {why}. Correct and import them")
