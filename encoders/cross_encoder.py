"""Cross-encoder: reads a query and a text together and says how well they go together.

A BERT for sequence classification of one label, as sentence-transformers and transformers save it.
It sees both texts at once, which an encoder of vectors never does, and is therefore sharper; but it
must read every text anew for every query. So it puts in order the few dozens that a search found.
Time: one pass of the network over query and text for each text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Self

import numpy as np
import sentence_transformers
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from encoders.batches import by_length, inference_dtype, quietly
from encoders.checkpoint import CONFIG, Checkpoint, NoModel, find
from encoders.text_input import fault, seen, token_counts
from infra.errors import RecsysError


class BadQuery(RecsysError):
    """A query that is no text to search by."""


class CrossEncoder:
    """Scores texts for a query. A pair longer than the model's window loses the end of its longer
    text."""

    def __init__(self, checkpoint: Checkpoint, model: sentence_transformers.CrossEncoder) -> None:
        self.name = checkpoint.name
        self._model = model
        self._window: int | None = model.max_seq_length

    @classmethod
    def open(cls, model: str, *, device: str = "cpu") -> Self:
        """The cross-encoder of that name on the hub, or in that folder.

        device: as torch names it. Half precision is computed in where that is faster.
        Raises NoModel for one that is not there, cannot be loaded or gives no single score.
        """
        checkpoint = find(model)
        _check_scores(checkpoint)
        try:
            with quietly():
                loaded = sentence_transformers.CrossEncoder(
                    str(checkpoint.folder),
                    device=device,
                    local_files_only=True,
                    model_kwargs={"dtype": inference_dtype(torch.device(device))},
                )
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            raise NoModel(
                f"{checkpoint.folder} cannot be loaded as a cross-encoder: {error}"
            ) from error
        return cls(checkpoint, loaded.eval())

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32[N], the more the better; -inf for a text that `TextEncoder` would refuse.

        They compare texts for one query, not one query with another. Raises BadQuery.
        """
        why = fault(query)
        if why is not None:
            raise BadQuery(why.replace("The text", "The query", 1))
        scores = np.full(len(texts), -np.inf, np.float32)
        rows = np.array([row for row, text in enumerate(texts) if fault(text) is None], np.int64)
        asked = seen(query, self._window)
        read = [seen(texts[row], self._window) for row in rows]
        tokens = token_counts(read, self._window) + token_counts([asked], self._window)
        for batch in by_length(tokens, self._model.device):
            scores[rows[batch]] = self._model.predict(
                [(asked, read[row]) for row in batch],
                batch_size=len(batch),
                activation_fn=torch.nn.Identity(),
                show_progress_bar=False,
            )
        return scores


def _check_scores(checkpoint: Checkpoint) -> None:
    """Refuse a model whose scores would come from weights that nobody trained, and classifiers."""
    path = checkpoint.folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        kinds, labels = config.get("architectures") or [], config.get("id2label") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise NoModel(f"{path} does not describe a model: {error}") from None
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise NoModel(
            f"{checkpoint.name} is no cross-encoder: {path} says {', '.join(kinds) or 'nothing'}, "
            "where a model for sequence classification is needed"
        )
    if len(labels) != 1:
        raise NoModel(
            f"{checkpoint.name} sorts texts into {len(labels) or 2} classes; a cross-encoder gives "
            "one score"
        )
