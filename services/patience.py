"""Encoding with patience: a content over which an encoder fails is told, and costs no other one its
vector."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.encoder import Encoder

T = TypeVar("T")

logger = logging.getLogger(__name__)

MOST_BYTES = 32 << 20
"""The most bytes of contents that an encoder is given together, if none alone has more."""


def in_batches(contents: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Contents that come one by one, as many together as have MOST_BYTES.

    size: how many bytes one has. At most one content more than a batch is held at a time.
    """
    batch: list[T] = []
    held = 0
    for each in contents:
        if batch and held + size(each) > MOST_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(each)
        held += size(each)
    if batch:
        yield batch


class Patience:
    """With an encoder that is given contents in batches: whether it is they that it fails over, or
    it is out of order, is told by another content of the same batch, or else of another one."""

    def __init__(self) -> None:
        self._answered: Any = None
        """A content that was encoded without an error."""
        self._doubt: Exception | None = None
        """What the encoder raised over contents, where nothing was encoded after it yet."""

    def encode(
        self, encoder: Encoder[Any], contents: Sequence[Any]
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """The vectors, Float32[n, D], and by row why some have none: a content over which the
        encoder fails is found by encoding one by one. Raises what the encoder does over a content
        that it has encoded before, or over each of several. They count once
        `settle` raises nothing."""
        try:
            vectors, problems = _checked(encoder, contents)
            failed: set[int] = set()
        except Exception:  # noqa: BLE001 - found again below, or raised
            logger.warning("an encoder failed over %d contents; encoding one by one", len(contents))
            vectors, problems, failed = self._one_by_one(encoder, contents)
        answered = [row for row in range(len(contents)) if row not in failed]
        if self._doubt is not None and len(failed) > 1 and not answered:
            raise self._doubt  # over so many it may well have been out of order for a while
        if self._answered is None and answered:
            self._answered = contents[min(answered, key=lambda row: row in problems)]
        if self._doubt is not None and self._answered is not None:
            _checked(encoder, [self._answered])
            self._doubt = None
        return vectors, problems

    def settle(self) -> None:
        """To be called after the last batch. Raises what the encoder did if it failed over all."""
        if self._doubt is not None:
            raise self._doubt

    def _one_by_one(
        self, encoder: Encoder[Any], contents: Sequence[Any]
    ) -> tuple[NDArray[np.float32], dict[int, str], set[int]]:
        """The same, and the rows over which the encoder raised."""
        vectors = np.zeros((len(contents), encoder.dim), np.float32)
        problems: dict[int, str] = {}
        failed: set[int] = set()
        for row, content in enumerate(contents):
            try:
                vectors[row : row + 1], found = _checked(encoder, [content])
            except Exception as error:  # noqa: BLE001 - raised by `settle` if it is no content's
                problems[row] = f"the encoder failed over it: {type(error).__name__}: {error}"
                failed.add(row)
                self._doubt = error
            else:
                if found:
                    problems[row] = found[0]
        return vectors, problems, failed


def _checked(
    encoder: Encoder[Any], contents: Sequence[Any]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """What the encoder gives; a vector that is not finite is none."""
    if not contents:
        return np.zeros((0, encoder.dim), np.float32), {}
    encoded = encoder.encode(contents)
    problems: Mapping[int, str] = encoded.failures
    for row in np.flatnonzero(~np.isfinite(encoded.vectors).all(axis=1)).tolist():
        problems = {row: "the encoder gave a vector that is not finite", **problems}
    return encoded.vectors, dict(problems)
