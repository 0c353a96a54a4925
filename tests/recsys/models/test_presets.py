"""Presets: every one is a valid configuration, and a wrong name is told what there is."""

from __future__ import annotations

import pytest

from infra.errors import RecsysError
from recsys.models.catalog import kind_of
from recsys.models.presets import PRESETS, preset


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in PRESETS for name in PRESETS[kind]]
)
def test_every_preset_is_a_configuration_of_its_kind(kind: str, name: str) -> None:
    config = kind_of(kind).config.model_validate(preset(kind, name))
    assert config.model_dump().items() >= PRESETS[kind][name].items()


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(RecsysError, match="long-histories, short-histories"):
        preset("sasrec", "films")
    with pytest.raises(RecsysError, match="its defaults suit all"):
        preset("ials", "films")
