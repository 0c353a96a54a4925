"""Tuning: the settings at which an approximation keeps its promise on the data at hand.

For each number of results, from the least effort and k_factor upwards, whichever of the two brings
more recall for its time is raised, until the lower end of the 95 % confidence interval of the
measured recall is at the promise or an exact pass would be as fast. A part of the queries shows the
way, all of them decide. That is a cheap setting, not proven the cheapest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from recsys.retrieval.approximation import Approximation, Found, Setting

DEPTHS = (10, 30, 100, 300, 1000)
"""The numbers of results that are tuned for."""

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0)

CONFIDENCE = 1.96
"""Standard deviations of a mean, for 95 %."""

TIMED, REPEATS = 100, 2
"""Queries that a setting is first tried with, and how often, of which the least time counts."""

SCATTERED = 20_000
"""Rows, drawn at random, over which an exact pass over some of the rows is timed."""

T = TypeVar("T")

Pass = Callable[[NDArray[np.float32], int, "NDArray[np.bool_] | None"], Found]
"""An exact pass: queries, k, and which rows are allowed."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What an exact pass finds, and how long it takes a query."""

    queries: NDArray[np.float32]
    scores: NDArray[np.float32]
    """Float32[Q, the deepest of DEPTHS or N]."""

    seconds: float
    """Over all rows."""

    row_seconds: float
    """Over some rows here and there, for each: several times as long as for one of all."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """For some of DEPTHS, ascending: a setting, and how it did on the tuning queries."""

    approximation: Approximation
    settings: Mapping[int, Setting]
    recall: Mapping[int, float]
    seconds: Mapping[int, float]
    """A query."""

    def speed_up(self, truth: Truth) -> float:
        """Over exact passes: the geometric mean of all DEPTHS, 1 where there is no setting."""
        logs = [math.log(truth.seconds / seconds) for seconds in self.seconds.values()]
        return math.exp(sum(logs) / len(DEPTHS))

    def description(self, truth: Truth) -> dict[str, Any]:
        """As JSON has it; see Index.description."""
        settings = {
            str(k): self.approximation.setting_to_json(setting)
            for k, setting in self.settings.items()
        }
        return {
            "type": self.approximation.kind,
            **self.approximation.shape,
            "settings": settings,
            "recall": {str(k): round(recall, 4) for k, recall in self.recall.items()},
            "rate": {str(k): round(1 / seconds) for k, seconds in self.seconds.items()},
            "exact_rate": round(1 / truth.seconds),
            "work": {str(k): math.ceil(s / truth.row_seconds) for k, s in self.seconds.items()},
        }


def fastest(
    approximations: Iterable[Approximation], truth: Truth, recall: float
) -> tuple[Tuned | None, dict[str, float]]:
    """The one that keeps the recall at the greatest speed-up, if any does, and by name the speed-up
    of each. They are drawn one at a time, and all but the best so far are let go of."""
    best: Tuned | None = None
    speed_ups: dict[str, float] = {}
    for approximation in approximations:
        tuned = tune(approximation, truth, recall)
        speed_ups[approximation.name] = round(tuned.speed_up(truth), 2)
        if tuned.settings and (best is None or tuned.speed_up(truth) > best.speed_up(truth)):
            best = tuned
    return best, speed_ups


def measure_truth(exact: Pass, queries: NDArray[np.float32], n: int, seed: int) -> Truth:
    """What an exact pass over n rows, at least 10, makes of queries of which none is zero."""
    scores, _ = exact(queries, min(n, DEPTHS[-1]), None)
    some = np.zeros(n, np.bool_)
    some[np.random.default_rng(seed).permutation(n)[:SCATTERED]] = True
    few = queries[:TIMED]
    _, seconds = _timed(lambda: exact(few, DEPTHS[0], None))
    _, some_seconds = _timed(lambda: exact(few, DEPTHS[0], some))
    return Truth(
        queries, scores, seconds / len(few), some_seconds / len(few) / np.count_nonzero(some)
    )


def tune(approximation: Approximation, truth: Truth, recall: float) -> Tuned:
    """For each of DEPTHS as far as there is a setting that keeps the recall and is faster than an
    exact pass; no deeper than the first for which there is none."""
    settings: dict[int, Setting] = {}
    recalls: dict[int, float] = {}
    seconds: dict[int, float] = {}
    effort = 0
    for depth in DEPTHS:
        if depth > truth.scores.shape[1]:
            break
        effort = max(effort, approximation.least_effort(depth))
        trials = _Trials(approximation, truth, depth)
        found = trials.climb(effort, recall)
        if found is None:
            break
        settings[depth], recalls[depth], seconds[depth] = found
        effort = settings[depth].effort
    return Tuned(approximation, settings, recalls, seconds)


@dataclass(frozen=True)
class _Trial:
    """What a setting gives the first TIMED of the queries."""

    setting: Setting
    hits: NDArray[np.float64]
    seconds: float
    """A query."""


class _Trials:
    """What the settings give at one number of results; each is tried once."""

    def __init__(self, approximation: Approximation, truth: Truth, depth: int) -> None:
        self._approximation, self._truth, self._depth = approximation, truth, depth
        # Scores, not rows: of items with equal vectors any may be returned.
        last = truth.scores[:, depth - 1, None]
        self._least = last - 1e-5 * np.abs(last)
        self._tried: dict[tuple[int, int], _Trial] = {}

    def climb(self, effort: int, recall: float) -> tuple[Setting, float, float] | None:
        """The first setting on the way up from this effort that keeps the recall, the recall over
        all queries and the seconds of one; None if an exact pass is as fast as what would."""
        at = next(i for i, one in enumerate(self._approximation.efforts) if one >= effort), 0
        here = self._trial(*at)
        while here is not None and here.seconds < self._truth.seconds:
            if _interval(here.hits)[1] >= recall:
                hits = self._hits(self._truth.queries, here.setting)
                if _interval(hits)[0] >= recall:
                    return here.setting, float(hits.mean()), here.seconds
            harder, wider = (at[0] + 1, at[1]), (at[0], at[1] + 1)
            gains = _gain(here, self._trial(*harder)), _gain(here, self._trial(*wider))
            if max(gains) <= 0:
                at = at[0] + 1, at[1] + 1
            else:
                at = harder if gains[0] >= gains[1] else wider
            here = self._trial(*at)
        return None

    def _trial(self, effort: int, factor: int) -> _Trial | None:
        """Of efforts[effort] and FACTORS[factor]; None where there is none such."""
        efforts = self._approximation.efforts
        if effort == len(efforts) or factor == len(FACTORS):
            return None
        if (effort, factor) not in self._tried:
            setting = Setting(efforts[effort], FACTORS[factor])
            few = self._truth.queries[:TIMED]
            hits, seconds = _timed(lambda: self._hits(few, setting))
            self._tried[effort, factor] = _Trial(setting, hits, seconds / len(few))
        return self._tried[effort, factor]

    def _hits(self, queries: NDArray[np.float32], setting: Setting) -> NDArray[np.float64]:
        """Float64[Q], for the first Q of the truth's queries: the share of the best it finds."""
        scores, rows = self._approximation.find(queries, self._depth, setting)
        found = (scores >= self._least[: len(queries)]) & (rows >= 0)
        share: NDArray[np.float64] = found.mean(axis=1)
        return share


def can_show(recall: float, n: int) -> bool:
    """Whether n queries can show a recall at all: if the best are found for each of them."""
    return _interval(np.ones(n))[0] >= recall


def _interval(hits: NDArray[np.float64]) -> tuple[float, float]:
    """Of the mean, with 95 % confidence.

    As if for one query more nothing was found: hits that are all 1 have no deviation, and say the
    less of other queries the fewer they are.
    """
    hits = np.append(hits, 0.0)
    deviation = CONFIDENCE * float(hits.std()) / math.sqrt(len(hits))
    return float(hits.mean()) - deviation, float(hits.mean()) + deviation


def _gain(here: _Trial, there: _Trial | None) -> float:
    """Recall for time; less than nothing where there is nothing to go to."""
    if there is None:
        return -1.0
    slower = max(there.seconds - here.seconds, 0.02 * here.seconds)
    return float(there.hits.mean() - here.hits.mean()) / slower


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the seconds that it computes for it on one thread: those in which it
    waits for other processes say nothing of what it costs."""
    threads, seconds = faiss.omp_get_max_threads(), []
    faiss.omp_set_num_threads(1)  # of what this thread calls
    try:
        for _ in range(REPEATS):
            started = time.thread_time()
            answer = call()
            seconds.append(time.thread_time() - started)
    finally:
        faiss.omp_set_num_threads(threads)
    return answer, min(seconds)
