"""Conditions on the catalogue's attributes as masks."""

import json
import operator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.condition import BadCondition, Condition
from recsys.retrieval.rules import BadAttributes, Rules

numbers = st.integers(-3, 3) | st.sampled_from([-1.5, 0.0, 1.0, 2.5])
strings = st.sampled_from(["", "a", "b", "ba", "é"])
values = numbers | strings | st.booleans()
objects = st.dictionaries(st.sampled_from("xyz"), st.none() | values | st.lists(values, max_size=3))

SHOES = [
    {"price": 50, "colour": "red", "sizes": ["S", "M"], "new": True, "since": "2024-03-01"},
    {"price": 79.5, "colour": "blue", "sizes": ["M"], "new": False, "since": "2025-01-31"},
    {"price": None, "colour": "blue", "sizes": []},
    None,
]


def rules_of(items: list[Any], chunks: int = 1) -> Rules:
    """Every chunks-th item is of one chunk."""
    texts = [None if item is None else json.dumps(item) for item in items]
    parts = [pa.array(texts[i::chunks], pa.string()) for i in range(chunks)]
    return Rules(pa.table({"attributes": pa.chunked_array(parts, pa.string())}))


def shoes(**conditions: Condition) -> list[int]:
    return np.flatnonzero(rules_of(SHOES).mask(conditions)).tolist()


def meets(value: Any, condition: Condition) -> bool:
    """By the book: one element in the range, one equal, one in the set."""
    elements = value if isinstance(value, list) else [value]

    def like(element: Any, other: Any) -> bool:
        textual = isinstance(element, str) == isinstance(other, str)
        return textual and isinstance(element, bool) == isinstance(other, bool)

    def within(e: Any) -> bool:
        return all(
            e is not None and like(e, bound) and holds(e, bound)
            for bound, holds in (
                (condition.gte, operator.ge),
                (condition.gt, operator.gt),
                (condition.lte, operator.le),
                (condition.lt, operator.lt),
            )
            if bound is not None
        )

    def equal(e: Any, other: Any) -> bool:
        return e is not None and like(e, other) and bool(e == other)

    return (
        (not condition.bounds() or any(within(e) for e in elements))
        and (condition.eq is None or any(equal(e, condition.eq) for e in elements))
        and (
            condition.one_of is None
            or any(equal(e, other) for e in elements for other in condition.one_of)
        )
    )


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    bounds = st.none() | draw(st.sampled_from([numbers, strings]))
    given_eq, given_set = draw(st.none() | values), draw(st.none() | st.lists(values, min_size=1))
    given_bounds = {name: draw(bounds) for name in ("gte", "gt", "lte", "lt")}
    if (
        given_eq is None
        and given_set is None
        and not any(bound is not None for bound in given_bounds.values())
    ):
        given_eq = 1
    return Condition(eq=given_eq, one_of=given_set, **given_bounds)


@given(
    st.lists(st.none() | objects, max_size=12),
    st.dictionaries(st.sampled_from("xyz"), conditions(), max_size=2),
    st.integers(1, 3),
)
def test_a_mask_is_of_the_items_that_meet_every_condition(
    items: list[dict[str, Any] | None], asked: dict[str, Condition], chunks: int
) -> None:
    # Two items that have values of every sort: what is asked of them is never refused.
    every = {name: [1, "a", True] for name in "xyz"}
    items = [every, *items, every]
    in_order = [item for i in range(chunks) for item in items[i::chunks]]
    expected = [
        all(meets((item or {}).get(name), condition) for name, condition in asked.items())
        for item in in_order
    ]
    assert rules_of(items, chunks).mask(asked).tolist() == expected


def test_conditions_compare_numbers_strings_booleans_and_the_elements_of_lists() -> None:
    assert shoes(price=Condition(gte=50, lt=79.5)) == [0]
    assert shoes(price=Condition(gt=50)) == [1]
    assert shoes(colour=Condition(eq="blue")) == [1, 2]
    assert shoes(sizes=Condition(one_of=["S", "XL"])) == [0]
    assert shoes(new=Condition(eq=False)) == [1]
    assert shoes(since=Condition(gte="2025")) == [1]
    assert shoes(colour=Condition(eq="blue"), sizes=Condition(eq="M")) == [1]
    assert shoes(colour=Condition(eq="green")) == []
    assert shoes() == [0, 1, 2, 3]


def test_whole_numbers_compare_exactly_however_large() -> None:
    rules = rules_of([{"id": 2**53}, {"id": 2**53 + 1}, {"id": float(2**53)}])
    assert rules.mask({"id": Condition(eq=2**53 + 1)}).tolist() == [False, True, False]
    assert rules.mask({"id": Condition(lte=2**53)}).tolist() == [True, False, True]


def test_an_attribute_that_no_item_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        BadCondition, match=r"an attribute 'prize'.*they have colour, new, price, since, sizes$"
    ):
        shoes(prize=Condition(lt=3))
    with pytest.raises(BadCondition, match="they have none"):
        Rules(pa.table({"item_id": ["a"]})).mask({"price": Condition(lt=3)})
    with pytest.raises(BadCondition, match=r"a00, .*, a19 and 5 more"):
        rules_of([{f"a{i:02}": 1 for i in range(25)}]).mask({"price": Condition(lt=3)})


@pytest.mark.parametrize(
    ("name", "condition", "told"),
    [
        ("price", Condition(eq="50"), "'price' is a number, and is compared with the string '50'"),
        ("price", Condition(eq=True), "compared with the boolean True"),
        ("colour", Condition(lt=3), "'colour' is a string, and is compared with the number 3"),
        ("new", Condition(one_of=[1, "x"]), "'new' is a boolean, .* the number 1"),
    ],
)
def test_a_value_of_a_type_that_the_attribute_never_has_is_refused(
    name: str, condition: Condition, told: str
) -> None:
    with pytest.raises(BadCondition, match=told):
        shoes(**{name: condition})


def test_values_of_a_type_that_the_attribute_never_has_leave_the_others_to_be_met() -> None:
    assert shoes(price=Condition(one_of=["50", 50, True])) == [0]


def test_a_condition_that_says_nothing_sensible_is_refused() -> None:
    with pytest.raises(BadCondition, match="give a value to one of eq, one_of, gte, gt, lte, lt"):
        Condition()
    with pytest.raises(BadCondition, match="compares with nothing"):
        Condition(eq=1, one_of=[])
    with pytest.raises(BadCondition, match="NaN"):
        Condition(lt=float("nan"))
    with pytest.raises(BadCondition, match="infinity"):
        Condition(one_of=[1, float("inf")])
    with pytest.raises(BadCondition, match="not from number to string"):
        Condition(gte=1, lt="b")
    with pytest.raises(BadCondition, match="not from boolean"):
        Condition(gte=True)


def test_what_is_nested_deeper_cannot_be_compared_and_is_no_hindrance() -> None:
    rules = rules_of([{"maker": {"name": "x"}, "price": [[1], 2]}])
    assert rules.mask({"price": Condition(eq=2)}).tolist() == [True]
    with pytest.raises(BadCondition, match="no item has an attribute 'maker' to compare"):
        rules.mask({"maker": Condition(eq="x")})


@pytest.mark.parametrize(("bad", "why"), [("{", "unexpected end"), ("[1]", "not a JSON object")])
def test_attributes_that_are_no_json_object_name_the_item(bad: str, why: str) -> None:
    texts = ["{}", None, bad]
    with pytest.raises(BadAttributes, match=f"the attributes of the item 'c'.*{why}"):
        Rules(pa.table({"item_id": ["a", "b", "c"], "attributes": texts}))
    with pytest.raises(BadAttributes, match="the attributes of row 2"):
        Rules(pa.table({"attributes": texts}))
