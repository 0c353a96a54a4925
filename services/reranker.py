"""The re-ranker of searches: a cross-encoder, loaded once, whose failure is told and costs no
search that does without it. Its libraries are loaded where there is one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from encoders.catalog import best_device
from infra.errors import RecsysError
from services.problems import Invalid, ServiceError, Unavailable
from services.schemas import FieldError

if TYPE_CHECKING:
    from encoders.cross_encoder import CrossEncoder

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""Seconds until it is tried again to load what could not be loaded."""


class Reranker:
    """Says how well texts answer a query. Threads may ask at once."""

    def __init__(self, model: str | None) -> None:
        """model: the cross-encoder, by name or folder; None for no re-ranking."""
        self._model = model
        self._loaded: CrossEncoder | None = None
        self._failure = ""
        self._not_before = 0.0
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Load the model, so that the first search need not wait; a failure is logged."""
        if self._model is not None:
            try:
                self._cross_encoder(self._model)
            except Unavailable as error:
                logger.warning("no search is re-ranked: %s", error)

    def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        """How well each of the found texts answers the text; higher is better, and -inf for one
        that cannot be read."""
        if self._model is None:
            why = "there is no cross-encoder in service: set RECSYS_RERANK_MODEL"
            return _invalid("rerank", why)
        from encoders.cross_encoder import BadQuery

        try:
            scores: list[float] = self._cross_encoder(self._model).scores(text, found).tolist()
        except BadQuery as error:
            return _invalid("text", error.message)
        except Unavailable as error:
            return error
        except (MemoryError, RuntimeError) as error:  # of a GPU's memory it is a RuntimeError
            logger.exception("the cross-encoder %s failed", self._model)
            return Unavailable(
                f"the cross-encoder {self._model} failed: {_told(error)}; search without rerank"
            )
        return scores

    def _cross_encoder(self, model: str) -> CrossEncoder:
        """It, loaded by the first who asks; raises Unavailable, also to who asks meanwhile: waiting
        would take the threads that other searches need."""
        if self._loaded is not None:
            return self._loaded
        if not self._lock.acquire(blocking=False):
            raise Unavailable(f"the cross-encoder {model} is being loaded; try again")
        try:
            if self._loaded is None:
                self._loaded = self._opened(model)
            return self._loaded
        finally:
            self._lock.release()

    def _opened(self, model: str) -> CrossEncoder:
        from encoders.cross_encoder import CrossEncoder

        if time.monotonic() < self._not_before:
            raise Unavailable(self._failure)
        try:
            return CrossEncoder.open(model, device=best_device())
        except Exception as error:  # whatever it is, other searches need to go on
            self._not_before = time.monotonic() + RETRY_S
            self._failure = (
                f"the cross-encoder {model} (RECSYS_RERANK_MODEL) cannot be loaded: "
                f"{_told(error)}; search without rerank"
            )
            raise Unavailable(self._failure) from error


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(f"{field}: {message}", [FieldError(field=field, message=message)])
