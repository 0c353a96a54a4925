"""The index benchmark: what it reports is built by the code that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.index import DIM, Data, built


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(rows=3000, clusters=20, spread=0.5, lengths=0)


def test_an_index_of_an_earlier_run_is_not_reported(data: Data, tmp_path: Path) -> None:
    built(tmp_path, "ivf_sq8", data, recall=0.6)
    assert built(tmp_path, "ivf_sq8", data, recall=0.9).description["promised"] == 0.9


def test_what_auto_chooses_is_the_index_that_it_builds(data: Data, tmp_path: Path) -> None:
    description = built(tmp_path, "auto", data, recall=0.9).description
    assert (description["type"], description["n"], description["d"]) == ("exact", 3000, DIM)
