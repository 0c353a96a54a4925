"""A live item as Redis has it: what was said of it, and how far it is in each space."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.catalog import SPACES
from services.item_schemas import Item, ItemState

logger = logging.getLogger(__name__)

_ROUNDING = 1e-3
"""By how much the length of a unit vector may be off."""


@dataclass(frozen=True, eq=False)
class LiveVector:
    """An item's vector in one space."""

    fingerprint: str
    """The encoder's."""

    content_hash: bytes
    """16 bytes, of what was encoded."""

    vector: NDArray[np.float32]
    """Float32[D], of unit length."""

    def dump(self) -> bytes:
        return b"\0".join((self.fingerprint.encode(), self.content_hash + self.vector.tobytes()))

    @classmethod
    def load(cls, value: bytes) -> LiveVector:
        """Of `dump`; raises ValueError where it is damaged, which leaves no unit vector."""
        fingerprint, _, rest = value.partition(b"\0")
        vector = np.frombuffer(rest[16:], np.float32)
        if not abs(np.linalg.norm(vector) - 1) < _ROUNDING:
            raise ValueError("is damaged in Redis; put the item anew")
        return cls(fingerprint.decode(), rest[:16], vector)


@dataclass(frozen=True, eq=False)
class LiveItem:
    """An item as it is now, or that it was deleted."""

    item_id: str
    number: int
    """Of its newest change."""

    put: int
    """The number of the put that described it; 0 for a deletion."""

    item: Item | None
    """None where it was deleted."""

    vectors: Mapping[str, LiveVector]
    """By space; not there where it has none, or none yet."""

    states: Mapping[str, ItemState]
    reasons: Mapping[str, str]
    """Why it failed, by space."""

    failed_by: Mapping[str, str] = field(default_factory=dict)
    """The fingerprint of the encoder by which it failed, by space."""

    def state_by(self, space: str, fingerprint: str) -> ItemState:
        """How far it is in a space by this encoder: it waits for it where another one embedded it,
        or could not."""
        state, vector = self.states[space], self.vectors.get(space)
        if state is ItemState.READY and (vector is None or vector.fingerprint != fingerprint):
            return ItemState.PENDING
        if state is ItemState.FAILED and self.failed_by.get(space) != fingerprint:
            return ItemState.PENDING
        return state

    @classmethod
    def load(cls, row: Sequence[bytes]) -> LiveItem:
        """Of a row of the scripts; raises ValueError or TypeError where that is damaged."""
        item_id, number, record, *rest = row
        put, _, document = record.partition(b" ")
        vectors, states, reasons, failed_by = {}, {}, {}, {}
        for space, told, vector in zip(SPACES, rest[::2], rest[1::2], strict=True):
            try:
                if vector:
                    vectors[space] = LiveVector.load(vector)
            except ValueError as error:  # it is without one until it is embedded again
                logger.error("the %s vector of the live item %r %s", space, item_id.decode(), error)
            state, fingerprint, reason = _told(told.decode())
            states[space] = state
            if reason:
                reasons[space] = reason
            if state is ItemState.FAILED:
                failed_by[space] = fingerprint
        fields = orjson.loads(document) if document else None
        return cls(
            item_id=item_id.decode(),
            number=int(number),
            put=int(put or 0),
            item=None if fields is None else Item(item_id=item_id.decode(), **fields),
            vectors=vectors,
            states=states,
            reasons=reasons,
            failed_by=failed_by,
        )


@dataclass(frozen=True, eq=False)
class Embedding:
    """What became of an item's content in a space."""

    item_id: str
    put: int
    """The number of the put that the content is of."""

    vector: LiveVector | None = None
    reason: str | None = None
    """Why there is no vector; None beside no vector where there is no content of this sort."""

    failed_by: str | None = None
    """Beside a reason, the fingerprint of the encoder that the content is not for; None where it
    was given up for now, and is tried again."""

    def dump(self) -> tuple[bytes, str]:
        """The vector and the state as Redis has them."""
        if self.vector is not None:
            return self.vector.dump(), ItemState.READY
        if self.reason is None:
            return b"", ItemState.ABSENT
        if self.failed_by is None:
            return b"", f"{ItemState.PENDING}{self.reason}"
        return b"", f"{ItemState.FAILED}{self.failed_by}\0{self.reason}"


def _told(state: str) -> tuple[ItemState, str, str]:
    """The state, the fingerprint of the encoder that failed, and the reason; of `Embedding.dump`,
    or of nothing."""
    if state.startswith(ItemState.FAILED):
        fingerprint, _, reason = state.removeprefix(ItemState.FAILED).partition("\0")
        return ItemState.FAILED, fingerprint, reason
    if state.startswith(ItemState.PENDING) or not state:
        return ItemState.PENDING, "", state.removeprefix(ItemState.PENDING)
    return ItemState(state), "", ""
