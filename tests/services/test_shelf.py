"""What filters leave of several shelves."""

import json
from typing import Any

import pyarrow as pa
import pytest

from recsys.retrieval.rules import Rules
from services.filter_schemas import Filters
from services.problems import Invalid
from services.shelf import passing

MAIN = [{"size": 42}, {"size": 43}]
LIVE = [{"size": 42}, {"size": "L"}]


def passed(condition: Any) -> list[list[bool]]:
    filters = Filters.model_validate({"attributes": {"size": condition}})
    shelves = [Rules(pa.table({"attributes": [json.dumps(i) for i in of]})) for of in (MAIN, LIVE)]
    return [mask.tolist() for mask in passing(filters, shelves)]


def test_values_of_a_type_that_only_one_shelf_has_leave_the_others_to_be_met_on_all() -> None:
    assert passed([42, "L"]) == [[True, False], [True, True]]


def test_a_type_that_only_one_shelf_has_is_met_on_that_one() -> None:
    assert passed("L") == [[False, False], [False, True]]


def test_a_type_that_no_shelf_has_is_refused() -> None:
    with pytest.raises(Invalid, match=r"filters\.attributes\.size: .* the boolean True"):
        passed([True])
