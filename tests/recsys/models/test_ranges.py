"""The ranges that the kinds declare: of fields that there are, around the defaults, all valid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.models.catalog import KINDS
from recsys.models.model import ModelConfig
from recsys.models.presets import PRESETS
from recsys.models.ranges import OneOf, Range

SEARCHED = [name for name, kind in KINDS.items() if kind.config.ranges]


def values(searched: Range) -> st.SearchStrategy[Any]:
    """Anything that the range allows."""
    if isinstance(searched, OneOf):
        return st.sampled_from(searched.values)
    low, high = searched.low, searched.high
    if isinstance(low, int) and isinstance(high, int):
        return st.integers(low, high)
    return st.floats(low, high)


def test_all_models_but_popularity_have_something_to_search() -> None:
    assert set(KINDS) - set(SEARCHED) == {"popularity"}


@pytest.mark.parametrize("name", SEARCHED)
def test_the_defaults_are_among_the_values_to_try(name: str) -> None:
    assert_within(KINDS[name].config())


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, named in PRESETS.items() for name in named]
)
def test_every_preset_is_among_the_values_to_try(kind: str, name: str) -> None:
    assert_within(KINDS[kind].config.model_validate(PRESETS[kind][name]))


def assert_within(config: ModelConfig) -> None:
    for field, searched in config.ranges.items():
        default = getattr(config, field)
        if isinstance(searched, OneOf):
            assert default in searched.values
        else:
            assert searched.low <= default <= searched.high


@pytest.mark.parametrize("name", SEARCHED)
@given(data=st.data())
def test_whatever_is_drawn_from_the_ranges_is_a_configuration(
    name: str, data: st.DataObject
) -> None:
    ranges = KINDS[name].config.ranges
    drawn = {field: data.draw(values(searched)) for field, searched in ranges.items()}
    config = KINDS[name].config.model_validate(drawn, strict=True)
    assert config.model_dump().items() >= drawn.items()
