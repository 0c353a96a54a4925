"""The encoder of queries: texts and pictures into the spaces in service, and the re-ranking of
what was found.

It follows the registry of spaces by itself, a model being loaded when it is first needed, and says
with each vector whose it is: the searcher takes none of another encoder than its items have.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from encoders.encoder import Encoder
from infra.errors import RecsysError
from recsys.content_bundle import ContentManifest
from recsys.registry import Spaces
from services.catalogue_service import Wanted
from services.content_space import QueryVector
from services.embedding import encoder_of
from services.jobs import Encoders
from services.problems import Invalid, ServiceError, Unavailable
from services.schemas import FieldError

if TYPE_CHECKING:
    from encoders.cross_encoder import CrossEncoder

logger = logging.getLogger(__name__)


class QueryEncoder:
    """Encodes for the active spaces of a registry."""

    def __init__(self, spaces: Spaces, encoders: Encoders, rerank_model: str | None) -> None:
        """rerank_model: the cross-encoder, by name or folder; None for no re-ranking."""
        self._spaces = spaces
        self._encoders = encoders
        self._rerank_model = rerank_model
        self._cross_encoder: CrossEncoder | None = None

    def warm(self) -> None:
        """Load the encoders of the active spaces, so that the first search need not wait."""
        try:
            for manifest in self._spaces.encoders().values():
                self._encoder_of(manifest)
        except RecsysError as error:
            logger.warning("%s", error)

    def _encoder_of(self, manifest: ContentManifest) -> Encoder[Any]:
        return encoder_of(self._encoders, manifest.space, manifest.encoder, manifest.fingerprint)

    def encode(self, batch: Sequence[Wanted]) -> list[dict[str, QueryVector] | ServiceError]:
        """For each, its vectors by space: of the text in the text space, of the picture in the
        image space, as far as these are in service. Texts of a batch are encoded together."""
        answers: list[dict[str, QueryVector] | ServiceError] = [{} for _ in batch]
        try:
            active = self._spaces.encoders()
        except RecsysError as error:
            return [Unavailable(error.message)] * len(batch)
        for name, manifest in active.items():
            field = "text" if manifest.space == "text" else "picture"
            at = [i for i, wanted in enumerate(batch) if getattr(wanted, field) is not None]
            if not at:
                continue
            try:
                encoder = self._encoder_of(manifest)
            except RecsysError as error:
                for i in at:
                    answers[i] = Unavailable(error.message)
                continue
            encoded = encoder.encode([getattr(batch[i], field) for i in at])
            for row, i in enumerate(at):
                answer = answers[i]
                if row in encoded.failures:
                    message = encoded.failures[row]
                    answers[i] = Invalid(
                        f"{field}: {message}", [FieldError(field=field, message=message)]
                    )
                elif not isinstance(answer, ServiceError):
                    answer[name] = QueryVector(encoder.fingerprint, encoded.vectors[row])
        return answers

    def rerank(self, text: str, found: Sequence[str]) -> list[float] | ServiceError:
        """How well each of the found texts answers the text; higher is better, and -inf for one
        that cannot be read."""
        if self._rerank_model is None:
            message = "there is no cross-encoder in service: set RECSYS_RERANK_MODEL"
            return Invalid(f"rerank: {message}", [FieldError(field="rerank", message=message)])
        from encoders.cross_encoder import BadQuery, CrossEncoder

        try:
            if self._cross_encoder is None:
                self._cross_encoder = CrossEncoder.open(self._rerank_model)
            scores: list[float] = self._cross_encoder.scores(text, found).tolist()
        except BadQuery as error:
            message = error.message
            return Invalid(f"text: {message}", [FieldError(field="text", message=message)])
        except RecsysError as error:
            return Unavailable(error.message)
        return scores
