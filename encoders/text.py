"""Text encoder: any model of sentence-transformers, and any BERT with its tokens averaged.

Texts of about the same length are encoded together. On one core that multiplies bfloat16, MiniLM
does about 280 film titles a second, or 150 texts of 45 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from encoders.batches import by_length, inference_dtype, quietly
from encoders.checkpoint import NoModel, find
from encoders.encoder import Encoded
from encoders.text_input import DEFAULT_TEXT_MODEL, fault, fingerprint, seen, token_counts


class TextEncoder:
    """Turns texts into vectors. Of a text longer than the model's window its beginning counts.

    Laws: those of `Encoder`. A batch encodes as its texts one by one, to rounding.
    """

    space = "text"

    def __init__(
        self, model: SentenceTransformer, *, name: str, fingerprint: str, dim: int
    ) -> None:
        """See `open`."""
        self.name = name
        self.fingerprint = fingerprint
        self.dim = dim
        self._model = model
        self._window: int | None = model.get_max_seq_length()

    @classmethod
    def open(cls, model: str = DEFAULT_TEXT_MODEL, *, device: str = "cpu") -> Self:
        """The encoder of that name or folder.

        device: as torch names it. Half precision is computed in where that is faster.
        Raises NoModel for one that is not there or cannot be loaded.
        """
        checkpoint = find(model)
        named = fingerprint(checkpoint)
        try:
            with quietly():
                loaded = SentenceTransformer(
                    str(checkpoint.folder),
                    device=device,
                    local_files_only=True,
                    model_kwargs={"dtype": inference_dtype(torch.device(device))},
                )
            tried = loaded.encode([""], show_progress_bar=False)
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            raise NoModel(
                f"{checkpoint.folder} cannot be loaded as a text encoder: {error}. Give a model "
                "of sentence-transformers, or a BERT as transformers saves it"
            ) from error
        return cls(loaded, name=checkpoint.name, fingerprint=named, dim=tried.shape[1])

    def encode(self, contents: Sequence[str]) -> Encoded:
        """Float32[B, D] and the reasons of those that have no vector.

        A text fails that is empty, is none, has more than MAX_TEXT bytes or is not Unicode.
        """
        faults = [fault(content) for content in contents]
        failures = {row: why for row, why in enumerate(faults) if why is not None}
        rows = [row for row, why in enumerate(faults) if why is None]
        vectors = np.zeros((len(contents), self.dim), np.float32)
        vectors[rows] = self._vectors([seen(contents[row], self._window) for row in rows])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        usable = np.isfinite(lengths) & (lengths > 0)
        for row in np.flatnonzero(~usable).tolist():
            failures.setdefault(row, f"The model {self.name} gives no finite vector for the text.")
        return Encoded(np.divide(vectors, lengths, np.zeros_like(vectors), where=usable), failures)

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32[B, D], of any length."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for rows in by_length(token_counts(texts, self._window), self._model.device):
            vectors[rows] = self._model.encode(
                [texts[row] for row in rows], batch_size=len(rows), show_progress_bar=False
            )
        return vectors
