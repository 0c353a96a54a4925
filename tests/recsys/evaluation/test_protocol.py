"""The protocol: the whole catalogue is ranked, and the workers' shares add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.data.split import Holdout
from recsys.evaluation import protocol
from recsys.evaluation.protocol import assess, evaluate, validate
from recsys.models.popularity import Popularity, PopularityConfig

SHARES = np.array([1.0, 0.5, 0.5, 0.25, 0.0], np.float32)[:, None]
COUNTS = np.array([4, 2, 2, 1, 0])


@pytest.fixture
def model() -> Popularity:
    return Popularity(PopularityConfig(), SHARES)


@pytest.fixture
def holdout() -> Holdout:
    return Holdout(
        users=np.array([0, 1, 2]),
        histories=Histories.of([[0], [3, 1], []]),
        targets=Histories.of([[2], [0, 4], [3]]),
    )


def test_seen_items_are_not_recommended(model: Popularity, holdout: Holdout) -> None:
    # The rankings: [1, 2], [0, 2] and [0, 1].
    report = evaluate(model, holdout, protocol="by hand", popularity=COUNTS, ks=(2,))
    assert report.metrics["recall@2"].value == pytest.approx((1 + 0.5 + 0) / 3)
    assert report.metrics["hit_rate@2"].value == pytest.approx(2 / 3)
    assert report.metrics["mrr@2"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert report.metrics["coverage@2"].value == 3 / 5
    assert report.metrics["mean_popularity@2"].value == pytest.approx((2 + 3 + 3) / 3)


def test_seen_items_are_ranked_where_asked(model: Popularity, holdout: Holdout) -> None:
    # All three rankings are [0, 1].
    report = evaluate(
        model, holdout, protocol="by hand", popularity=COUNTS, ks=(2,), mask_seen=False
    )
    assert report.metrics["recall@2"].value == pytest.approx(0.5 / 3)
    assert report.metrics["coverage@2"].value == 2 / 5
    assert report.protocol["seen_masked"] is False


def test_the_report_states_its_protocol(model: Popularity, holdout: Holdout) -> None:
    report = evaluate(model, holdout, protocol="by hand", popularity=COUNTS)
    assert report.protocol == {
        "split": "by hand",
        "learnt": "train",
        "ranking": "full catalogue",
        "seen_masked": True,
        "users": 3,
        "items": 5,
        "targets": 4,
        "targets_already_seen": 0,
        "ties": "lower item row first",
        "interval": "95% bootstrap over users, 1000 resamples",
    }


def test_targets_that_the_mask_puts_out_of_reach_are_counted(model: Popularity) -> None:
    holdout = Holdout(np.array([0]), Histories.of([[2, 3]]), Histories.of([[3, 1]]))
    report = evaluate(model, holdout, protocol="by hand", popularity=COUNTS)
    assert report.protocol["targets_already_seen"] == 1
    assert report.metrics["recall@10"].value == 0.5


def test_every_interval_holds_its_value(model: Popularity, holdout: Holdout) -> None:
    report = evaluate(model, holdout, protocol="by hand", popularity=COUNTS, ks=(1, 2))
    for name, estimate in report.metrics.items():
        if name.startswith(("coverage", "gini")):
            assert estimate.low is None and estimate.high is None
        else:
            assert estimate.low is not None and estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high


def test_chunks_change_nothing(
    model: Popularity, holdout: Holdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(model, holdout, protocol="by hand", popularity=COUNTS, ks=(1, 3))
    monkeypatch.setattr(protocol, "_SCORES_AT_ONCE", 1)
    done: list[tuple[int, int]] = []
    chunked = evaluate(
        model,
        holdout,
        protocol="by hand",
        popularity=COUNTS,
        ks=(1, 3),
        progress=lambda some, all_: done.append((some, all_)),
    )
    assert chunked == whole
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_recommendations_from_elsewhere_are_measured_alike(
    model: Popularity, holdout: Holdout
) -> None:
    ranked = np.array([[1, 2], [0, 2], [0, 1]])
    ours = evaluate(model, holdout, protocol="by hand", popularity=COUNTS, ks=(2,))
    assert assess(ranked, holdout, protocol="by hand", popularity=COUNTS, ks=(2,)) == ours


def test_another_catalogue_is_refused(model: Popularity, holdout: Holdout) -> None:
    with pytest.raises(ValueError, match="the model has 5 items, the data 4"):
        evaluate(model, holdout, protocol="by hand", popularity=COUNTS[:4])


def test_an_empty_holdout_is_refused(model: Popularity) -> None:
    nobody = Holdout(np.empty(0, np.int64), Histories.of([]), Histories.of([]))
    with pytest.raises(ValueError, match="no user"):
        evaluate(model, nobody, protocol="by hand", popularity=COUNTS)


class _Worker:
    """One of some workers, whose `sum` adds up what they all gave in turn."""

    def __init__(self, rank: int, size: int, given: list[NDArray[np.float64]]) -> None:
        self.rank, self.size, self._given = rank, size, given

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self._given.append(tensor.numpy())
        return torch.from_numpy(np.sum(self._given, axis=0))

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_workers_shares_of_a_validation_add_up(
    model: Popularity, holdout: Holdout, size: int
) -> None:
    given: list[NDArray[np.float64]] = []
    for rank in range(size):
        shared = validate(model, holdout, _Worker(rank, size, given), k=2)
    report = evaluate(model, holdout, protocol="by hand", popularity=COUNTS, ks=(2,))
    assert shared == {
        "ndcg@2": pytest.approx(report.metrics["ndcg@2"].value),
        "recall@2": pytest.approx(report.metrics["recall@2"].value),
    }
