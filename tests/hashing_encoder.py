"""Real encoders that cost next to nothing: the three-character pieces of a text, and the colours of
a picture."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from encoders.encoder import Encoded, Encoder


class HashingEncoder:
    """An `Encoder[str]`: the three-character pieces of a text, hashed to places of a vector."""

    space = "text"

    def __init__(self, dim: int = 32, name: str = "hashing") -> None:
        self.dim = dim
        self.name = name
        self.fingerprint = f"{name}-{dim}"
        self.seen: list[str] = []
        """Every text that it has encoded."""

    def encode(self, contents: Sequence[str]) -> Encoded:
        vectors = np.zeros((len(contents), self.dim), np.float32)
        failures = {}
        for row, text in enumerate(contents):
            if not text.strip():
                failures[row] = "The text is empty."
                continue
            if "explode" in text:
                raise RuntimeError("this text explodes")
            data = f"  {text} ".encode()
            places = [zlib.crc32(data[i : i + 3]) % self.dim for i in range(len(data) - 2)]
            np.add.at(vectors[row], places, 1)
            vectors[row] /= np.linalg.norm(vectors[row])
        self.seen += contents
        return Encoded(vectors, failures)


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

    def open(self, space: str, model: str) -> Encoder[Any]:
        return ColourEncoder() if space == "image" else self.text(model)

    def text(self, model: str) -> HashingEncoder:
        dim = int(model.rpartition("-")[2])
        return self.texts.setdefault(model, HashingEncoder(dim))

    def fingerprint(self, space: str, model: str) -> str:
        return self.open(space, model).fingerprint
