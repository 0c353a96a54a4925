"""What the warm-start benchmark's figures stand on: what yesterday knew, and when a goal is
reached."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from benchmarks.warm_start import Course, measured, trained, yesterday
from recsys.data.histories import Histories
from recsys.data.split import Split, leave_one_out
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from recsys.models.gru4rec import Gru4recConfig
from recsys.training.start import Start

SEED = 0


def vocabulary(n_items: int) -> Vocabulary:
    return Vocabulary([f"item {row}" for row in range(n_items)])


def of_distinct_events(lengths: list[int]) -> Histories:
    """Histories in which no item stands twice, so that an item tells which event it was."""
    return Histories.from_lengths(np.array(lengths), np.arange(sum(lengths)))


def ids(histories: Histories, items: Vocabulary, user: int) -> list[str]:
    return items.ids(histories[user])


TODAY = of_distinct_events([1, 2, 3, 4, 19, 20, 21, 200])
ITEMS = vocabulary(len(TODAY.items))


def test_yesterday_holds_nothing_that_today_validates_or_tests_with() -> None:
    split = leave_one_out(TODAY)
    before, known = yesterday(TODAY, ITEMS, SEED)
    for held_out in (split.validation.targets, split.test.targets):
        assert len(held_out.items) > 0
        assert (known.rows(ITEMS.to_arrow().take(pa.array(held_out.items))) == UNKNOWN).all()
    learnt = set(known.ids(before.items))
    assert learnt <= set(ITEMS.ids(split.train.items))


def test_yesterday_lacks_the_newest_tenth_of_each_user_and_two_events_at_least() -> None:
    before, known = yesterday(TODAY, ITEMS, SEED)
    for user, older in enumerate([0, 0, 1, 2, 17, 18, 18, 180]):
        expected = [i for i in ids(TODAY, ITEMS, user)[:older] if i in known]
        assert ids(before, known, user) == expected


def test_one_item_in_fifty_has_no_event_of_any_user_yesterday() -> None:
    rng = np.random.default_rng(1)
    today = Histories.from_lengths(np.full(200, 50), rng.integers(100, size=200 * 50))
    before, known = yesterday(today, vocabulary(100), SEED)
    assert len(known) == 98  # of the others, the older events of 200 users hold all
    _, again = yesterday(today, vocabulary(100), SEED)
    _, otherwise = yesterday(today, vocabulary(100), SEED + 1)
    assert known.to_arrow().equals(again.to_arrow())
    assert not known.to_arrow().equals(otherwise.to_arrow())
    for user in range(200):
        older = ids(today, vocabulary(100), user)[:45]
        assert ids(before, known, user) == [item for item in older if item in known]


def circles(n_items: int, seed: int) -> Histories:
    """Each user goes round the items in one order, from anywhere: all but the start can be learnt.
    The rows are in another order, so that what is learnt of one tells nothing of the next."""
    rng = np.random.default_rng(seed)
    places = (rng.integers(n_items, size=(200, 1)) + np.arange(20)) % n_items
    return Histories.from_lengths(np.full(200, 20), rng.permutation(n_items)[places].ravel())


CONFIG = Gru4recConfig(dim=16, hidden=32, dropout=0.0, learning_rate=0.01, max_epochs=12)


Learnable = tuple[Split, NDArray[np.bool_], Course, Course]
"""The split, whether yesterday knew each item, and the fits from nothing and from yesterday."""


@pytest.fixture(scope="module")
def learnable() -> Learnable:
    today, items = circles(100, seed=2), vocabulary(100)
    split = leave_one_out(today)
    before, known = yesterday(today, items, SEED)
    fitted = trained("yesterday", CONFIG, leave_one_out(before), known)
    start = Start("yesterday", known, fitted.model.tensors())
    nothing = trained("from nothing", CONFIG, split, items)
    warm = trained("from yesterday", CONFIG, split, items, start)
    return split, known.rows(items.to_arrow()) != UNKNOWN, nothing, warm


def test_a_warm_start_knows_each_item_by_its_id_and_is_sooner_there(learnable: Learnable) -> None:
    _, _, nothing, warm = learnable
    assert nothing.ndcg[0] < 0.1
    assert warm.ndcg[0] > 0.8  # yesterday's rows are others: by row it would know nothing
    goal = 0.95 * max(nothing.ndcg)
    from_nothing, from_yesterday = nothing.epochs_to(goal), warm.epochs_to(goal)
    assert from_nothing is not None and from_yesterday is not None
    assert from_yesterday < from_nothing


def test_what_is_new_today_is_measured_apart(learnable: Learnable) -> None:
    split, known, _, warm = learnable
    whole, of_new = measured(warm.model, split, known)
    assert whole.protocol["users"] == 200
    assert of_new is not None
    assert of_new.protocol["users"] == (~known[split.test.targets.items]).sum() > 0
    _, none = measured(warm.model, split, np.ones(100, bool))
    assert none is None


def test_the_fit_counts_training_from_its_first_epoch_on_and_keeps_the_best(
    learnable: Learnable,
) -> None:
    for course in learnable[2:]:
        assert course.seconds[0] == 0
        assert (np.diff(course.seconds) > 0).all()
        assert len(course.ndcg) == len(course.seconds)
        assert course.ndcg[course.best] == max(course.ndcg[1:])


def test_a_goal_is_reached_after_one_epoch_at_least(learnable: Learnable) -> None:
    course = Course([0.5, 0.4, 0.6, 0.7], [0, 1, 2, 3], 3, learnable[3].model)
    assert course.epochs_to(0.4) == 1
    assert course.epochs_to(0.5) == 2
    assert course.epochs_to(0.8) is None
