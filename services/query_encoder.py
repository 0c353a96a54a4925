"""The encoder of queries: texts and pictures into the spaces in service.

Whoever asks names the encoders: those of the spaces that the searcher has in service. While a space
is being exchanged that is the old one until the new one is loaded, so both are held for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.encoder import Encoder
from infra.errors import RecsysError
from recsys.registry import Spaces
from services.catalogue_service import Wanted
from services.content_space import SpaceEncoder
from services.embedding import encoder_of
from services.jobs import Encoders
from services.problems import Invalid, ServiceError, Unavailable
from services.schemas import FieldError

logger = logging.getLogger(__name__)

KEPT_S = 60.0
"""Seconds that an encoder is held for after it was asked for last, once another one of its space
is asked for."""


RETRY_S = 10.0
"""Seconds until it is tried again to load what could not be loaded: trying costs everybody whose
query is in the same batch the time that it takes."""


class QueryEncoder:
    """Encodes by the encoders that it is asked for, each loaded when that is first done."""

    def __init__(self, spaces: Spaces, encoders: Encoders) -> None:
        self._spaces = spaces
        self._encoders = encoders
        self._held: dict[SpaceEncoder, tuple[Encoder[Any], float]] = {}  # and when last asked for
        self._failed: dict[SpaceEncoder, tuple[RecsysError, float]] = {}  # and until when
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Load the encoders of the active spaces, so that the first search need not wait; what
        cannot be loaded is logged, and told to whoever asks for it."""
        try:
            manifests = self._spaces.encoders()
        except RecsysError as error:
            logger.warning("%s", error)
            return
        for manifest in manifests.values():
            try:
                self.load(SpaceEncoder.of(manifest))
            except RecsysError as error:
                logger.warning("%s", error)

    def load(self, wanted: SpaceEncoder) -> Encoder[Any]:
        """The encoder, loaded and held from now on; raises OtherEncoder and what opening raises."""
        with self._lock:
            held = self._held.get(wanted)
        encoder = self._opened(wanted) if held is None else held[0]
        with self._lock:
            self._held[wanted] = encoder, time.monotonic()
        return encoder

    def _opened(self, wanted: SpaceEncoder) -> Encoder[Any]:
        with self._lock:
            error, until = self._failed.get(wanted, (None, 0.0))
        if error is not None and time.monotonic() < until:
            raise error
        try:
            return encoder_of(self._encoders, wanted.space, wanted.model, wanted.fingerprint)
        except RecsysError as failure:
            with self._lock:
                self._failed[wanted] = failure, time.monotonic() + RETRY_S
            raise

    def encode(
        self, batch: Sequence[Wanted]
    ) -> list[dict[str, NDArray[np.float32]] | ServiceError]:
        """For each its vectors, Float32[D], by the fingerprints of the encoders that it asks for.
        What of a batch is of the same encoder is encoded together."""
        answers: list[dict[str, NDArray[np.float32]] | ServiceError] = [{} for _ in batch]
        asking: dict[SpaceEncoder, list[int]] = {}
        for i, wanted in enumerate(batch):
            for by in wanted.by:
                asking.setdefault(by, []).append(i)
        for by, at in asking.items():
            field = "text" if by.space == "text" else "picture"
            try:
                encoder = self.load(by)
            except RecsysError as error:
                for i in at:
                    answers[i] = Unavailable(error.message)
                continue
            self._forget(by)
            encoded = encoder.encode([batch[i].content(by.space) for i in at])
            for row, i in enumerate(at):
                answer = answers[i]
                if row in encoded.failures:
                    message = encoded.failures[row]
                    answers[i] = Invalid(
                        f"{field}: {message}", [FieldError(field=field, message=message)]
                    )
                elif not isinstance(answer, ServiceError):
                    answer[by.fingerprint] = encoded.vectors[row]
        return answers

    def _forget(self, asked: SpaceEncoder) -> None:
        """Let go of what was before this one in its space, where nobody has asked for it lately."""
        before = time.monotonic() - KEPT_S
        with self._lock:
            for held, (_, last) in list(self._held.items()):
                if held.space == asked.space and held != asked and last < before:
                    del self._held[held]
