"""The index benchmark: what it reports is built by the code that is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.index import DIM, Data, K, built, filtered, filters
from recsys.retrieval.index import Index


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(rows=3000, clusters=20, spread=0.5, lengths=0)


def test_an_index_of_an_earlier_run_is_not_reported(data: Data, tmp_path: Path) -> None:
    built(tmp_path, "ivf_sq8", data, recall=0.6)
    assert built(tmp_path, "ivf_sq8", data, recall=0.9).description["promised"] == 0.9


def test_what_auto_chooses_is_the_index_that_it_builds(data: Data, tmp_path: Path) -> None:
    description = built(tmp_path, "auto", data, recall=0.9).description
    assert (description["type"], description["n"], description["d"]) == ("exact", 3000, DIM)


def test_the_recall_through_filters_is_that_of_all_the_queries_that_are_measured(
    data: Data,
) -> None:
    exact = Index.build(data.items)
    noise = np.random.default_rng(0).standard_normal(data.items.shape).astype(np.float32)
    other = Index.build(data.items + 0.01 * noise)  # one that misses some
    for each in filters(exact, data):
        found, true = (index.search(data.queries, K, each.allow) for index in (other, exact))
        hits = found[0] >= true[0][:, -1:] * (1 - 1e-5 * np.sign(true[0][:, -1:]))
        told, _ = filtered(other, each, data)
        assert told == pytest.approx(hits.mean()) and told != pytest.approx(hits[:100].mean())
