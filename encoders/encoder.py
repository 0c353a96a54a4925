"""The contract of every encoder: contents in, vectors of one space out.

An encoder is a pure function of its weights: it knows no item, no id, no URI and no queue. A text
is a string, a picture the bytes of its file. What cannot be encoded (a file that is no picture, an
empty text) has its reason told in its place, and takes nothing else of the batch with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Content = TypeVar("Content", contravariant=True)


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a batch of contents became."""

    vectors: NDArray[np.float32]
    """Float32[B, D], each of unit length; zero where there is a failure."""

    failures: Mapping[int, str] = field(default_factory=dict)
    """Why a content has no vector, by its place in the batch; complete sentences for a person."""


class Encoder(Protocol[Content]):
    """Turns contents of one sort (texts, pictures) into vectors of one space.

    Laws (tests/encoders/test_laws.py): a batch encodes as its contents one by one; the vectors have
    unit length; the same weights give the same fingerprint wherever they lie.
    """

    @property
    def space(self) -> str:
        """`text` or `image`."""
        ...

    @property
    def name(self) -> str:
        """The model as it was asked for: a name and revision, or a folder."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names weights, preprocessing and number format: vectors of different ones never mix."""
        ...

    def encode(self, contents: Sequence[Content]) -> Encoded:
        """A vector or a failure for each content."""
        ...
