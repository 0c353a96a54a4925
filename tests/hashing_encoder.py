"""Real encoders that cost next to nothing: the words of a text, and the colours of a picture."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from encoders.encoder import Encoded, Encoder


class HashingEncoder:
    """An `Encoder[str]`: the mean of a text's words, each of which is a direction of its own. Texts
    that share words lie near each other; encoders of different names have nothing in common."""

    space = "text"

    def __init__(self, dim: int = 64, name: str = "hashing") -> None:
        self.dim = dim
        self.name = name
        self.fingerprint = f"{name}-{dim}"
        self.seen: list[str] = []
        """Every text that it has encoded."""

    def encode(self, contents: Sequence[str]) -> Encoded:
        vectors = np.zeros((len(contents), self.dim), np.float32)
        failures = {}
        for row, text in enumerate(contents):
            words = text.lower().replace(".", " ").replace(",", " ").split()
            if not words:
                failures[row] = "The text is empty."
                continue
            if "explode" in words:
                raise RuntimeError("this text explodes")
            total = np.sum([self._direction(word) for word in words], axis=0)
            vectors[row] = total / np.linalg.norm(total)
        self.seen += contents
        return Encoded(vectors, failures)

    def _direction(self, word: str) -> NDArray[np.float64]:
        seed = hashlib.sha256(f"{self.name} {word}".encode()).digest()[:8]
        return np.random.default_rng(int.from_bytes(seed, "little")).normal(size=self.dim)


class ColourEncoder:
    """An `Encoder[bytes]`: the mean of each colour in a picture."""

    space, dim, name, fingerprint = "image", 3, "colour", "colour-3"

    def encode(self, contents: Sequence[bytes]) -> Encoded:
        vectors = np.zeros((len(contents), self.dim), np.float32)
        failures = {}
        for row, content in enumerate(contents):
            try:
                pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
            except UnidentifiedImageError:
                failures[row] = "The file is no picture."
                continue
            mean = 1 + pixels.mean(axis=(0, 1))
            vectors[row] = mean / np.linalg.norm(mean)
        return Encoded(vectors, failures)


class HashingEncoders:
    """Finds them by name: `hashing-32` is of texts, with 32 dimensions; `colour` of pictures."""

    def __init__(self) -> None:
        self.texts: dict[str, HashingEncoder] = {}

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        return self._of(space, model)

    def _of(self, space: str, model: str) -> Encoder[Any]:
        return ColourEncoder() if space == "image" else self.text(model)

    def text(self, model: str) -> HashingEncoder:
        dim = int(model.rpartition("-")[2])
        return self.texts.setdefault(model, HashingEncoder(dim))

    def fingerprint(self, space: str, model: str) -> str:
        return self._of(space, model).fingerprint
