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


def patiently_encoded(
    encoder: Encoder[Any], contents: Sequence[Any]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The vectors, and why some have none: a content over which the encoder fails is found by
    encoding one by one. Raises what the encoder does if the contents are not at fault."""
    try:
        return _checked(encoder, contents)
    except Exception:
        if len(contents) < 2:
            raise
        logger.warning("%d contents failed together; encoding one by one", len(contents))
    vectors = np.zeros((len(contents), encoder.dim), np.float32)
    problems: dict[int, str] = {}
    for row, content in enumerate(contents):
        try:
            vectors[row : row + 1], found = _checked(encoder, [content])
        except Exception as error:  # noqa: BLE001 - it is told again below if it is no content's
            problems[row] = f"the encoder failed over it: {type(error).__name__}: {error}"
        else:
            if found:
                problems[row] = found[0]
    # One that fails over what it has encoded, or over everything, is out of order itself.
    good = next((row for row in range(len(contents)) if row not in problems), 0)
    _checked(encoder, [contents[good]])
    return vectors, problems


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
