"""Pseudo-queries: what somebody might type who half remembers an item, made from its text alone.

Words are left out, put in another order, misspelt, and replaced by words of the catalogue that
mean about the same, which the text encoder tells. Nobody's queries are needed, so a catalogue can
train its own cross-encoder; what the texts do not say, no pseudo-query says either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.encoder import Encoder

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

VOCABULARY = 20_000
"""The catalogue's most frequent words, which another may be replaced by."""

NEAR = 10
"""How many words stand for another."""

REPLACED, MISSPELT, SHUFFLED = 0.5, 0.15, 0.3
"""How often a word is replaced or misspelt, and a query's words stand in another order."""


class PseudoQueries:
    """Makes queries of texts. O(words²) time and O(words) memory to set up."""

    def __init__(self, texts: Sequence[str], encoder: Encoder[str]) -> None:
        self._words: list[list[str]] = [WORD.findall(text) for text in texts]
        counts = Counter(word.lower() for words in self._words for word in words)
        self._known = [word for word, _ in counts.most_common(VOCABULARY)]
        self._row = {word: row for row, word in enumerate(self._known)}
        self._near = nearest(encoder.encode(self._known).vectors, NEAR)

    def of(self, row: int, rng: np.random.Generator) -> str:
        """A query for the text; empty where the text has no word."""
        words = self._words[row]
        if not words:
            return ""
        kept = rng.random(len(words)) < rng.uniform(0.4, 1)
        kept[rng.integers(len(words))] = True
        said = [self._changed(words[place], rng) for place in np.flatnonzero(kept)]
        if rng.random() < SHUFFLED:
            rng.shuffle(said)
        return " ".join(said)

    def _changed(self, word: str, rng: np.random.Generator) -> str:
        chance = rng.random()
        row = self._row.get(word.lower())
        if chance < REPLACED and row is not None and self._near.size:
            near = self._near[row]
            return self._known[int(near[rng.integers(len(near))])]
        if chance < REPLACED + MISSPELT and len(word) > 3:
            return misspelt(word, rng)
        return word


def nearest(vectors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Int64[N, k'], k' <= k: the rows most like each row by inner product, itself left out; none
    where there is no other."""
    k = max(0, min(k, len(vectors) - 1))
    found = np.empty((len(vectors), k), np.int64)
    if k == 0:
        return found
    for start in range(0, len(vectors), 1024):
        scores = vectors[start : start + 1024] @ vectors.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        found[start : start + 1024] = np.argpartition(-scores, range(k), axis=1)[:, :k]
    return found


def misspelt(word: str, rng: np.random.Generator) -> str:
    """The word with one character left out, doubled, or changed places with the next."""
    at = int(rng.integers(len(word) - 1))
    head, one, two, tail = word[:at], word[at], word[at + 1], word[at + 2 :]
    edits = (head + two + tail, head + one + one + two + tail, head + two + one + tail)
    return edits[int(rng.integers(3))]
