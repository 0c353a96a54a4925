"""Popularity: how often items were taken, by which a search may rank what it finds as well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.vocabulary import UNKNOWN, Vocabulary
from services.content_space import Ranking

POPULARITY = "popularity"
"""What stands for the space where popularity gave a score."""


@dataclass(frozen=True, eq=False)
class Popularity:
    """How often each item of a catalogue stands in the histories that a model learnt from."""

    items: Vocabulary
    counts: NDArray[np.int64]
    """Int64[N]."""

    def ranked(self, found: Iterable[Ranking]) -> Ranking:
        """The items of all the rankings that were taken at all, the most popular first; of equal
        ones, that which was found first."""
        titles = {i: t for each in found for i, t in zip(each.ids, each.titles, strict=True)}
        ids = list(titles)
        rows = self.items.rows(ids)
        known = rows != UNKNOWN
        counts = np.zeros(len(ids), np.int64)
        counts[known] = self.counts[rows[known]]
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
        return Ranking(
            [ids[i] for i in order],
            [titles[ids[i]] for i in order],
            counts[order].astype(float).tolist(),
        )


NO_POPULARITY = Popularity(Vocabulary([]), np.zeros(0, np.int64))
"""Nothing was taken yet."""
