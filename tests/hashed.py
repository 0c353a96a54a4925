"""A small real encoder, made of nothing but its input: each word is a direction of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.encoder import Encoded


class HashedWords:
    """The mean direction of a text's words. Texts that share words lie near each other."""

    space = "text"
    name = "hashed-words"

    def __init__(self, dim: int = 64, salt: str = "") -> None:
        self.dim = dim
        self.salt = salt
        self.fingerprint = f"hashed-{dim}-{salt}"
        self.encoded: list[str] = []
        """Everything that it was asked for."""

    def encode(self, contents: Sequence[str]) -> Encoded:
        self.encoded += contents
        vectors = np.zeros((len(contents), self.dim), np.float32)
        failures = {}
        for row, text in enumerate(contents):
            words = text.lower().replace(".", " ").replace(",", " ").split()
            if words:
                total = np.sum([self._direction(word) for word in words], axis=0)
                vectors[row] = total / np.linalg.norm(total)
            else:
                failures[row] = "the text is empty"
        return Encoded(vectors, failures)

    def _direction(self, word: str) -> NDArray[np.float64]:
        seed = hashlib.sha256(f"{self.salt}{word}".encode()).digest()[:8]
        return np.random.default_rng(int.from_bytes(seed, "little")).normal(size=self.dim)
