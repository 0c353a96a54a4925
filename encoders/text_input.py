"""What a text encoder takes, and what names its vectors. Nothing here loads a model, nor torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.checkpoint import MINILM, MINILM_REVISION, Checkpoint, find

DEFAULT_TEXT_MODEL = f"{MINILM}@{MINILM_REVISION}"

MAX_TEXT = 1 << 20
"""Bytes of UTF-8. A text of more is a mistake, and is refused before anything reads it."""

CHARACTERS_PER_TOKEN = 32
"""A text's characters past so many for each token of the model's window are not even tokenized."""

PREPROCESSING = "text 1"
"""Changes with what `seen` does to a text."""

NUMBER_FORMAT = "float"
"""float32, float16 or bfloat16, whichever the hardware is fastest in: MiniLM's vectors of one text
are alike to a cosine above 0.9998, so a query of the one finds what the other embedded."""


def fingerprint_of(model: str) -> str:
    """The fingerprint that `TextEncoder.open(model)` has; raises NoModel."""
    return fingerprint(find(model))


def fingerprint(checkpoint: Checkpoint) -> str:
    return checkpoint.fingerprint(PREPROCESSING, NUMBER_FORMAT)


def fault(content: object) -> str | None:
    """What is wrong with a text, as a complete sentence; None where nothing is."""
    if not isinstance(content, str):
        return f"The text is none: it is of type {type(content).__name__}."
    if len(content) > MAX_TEXT:
        return f"The text has {len(content):,} characters; {MAX_TEXT:,} bytes are allowed."
    try:
        size = len(content.encode())
    except UnicodeEncodeError as error:
        return f"The text has half a character, a lone surrogate, at place {error.start}."
    if size > MAX_TEXT:
        return f"The text has {size:,} bytes; {MAX_TEXT:,} are allowed."
    if not content.strip():
        return "The text is empty."
    return None


def seen(text: str, window: int | None) -> str:
    """What of a text the tokenizer sees, for a model of so many tokens."""
    return text.strip()[: None if window is None else window * CHARACTERS_PER_TOKEN]


def token_counts(texts: Sequence[str], window: int | None) -> NDArray[np.int64]:
    """Int64[B], about how many tokens each text has: four characters are one."""
    counts = 2 + np.fromiter(map(len, texts), np.int64, len(texts)) // 4
    return counts if window is None else np.minimum(counts, window)
