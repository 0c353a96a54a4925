"""What the text models share: how texts are batched, in what number format, how one is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

ROOM = {"cpu": 2048, "cuda": 65536}
"""Tokens of a batch, padding included, by the type of device."""


def by_length(tokens: NDArray[np.int64], device: torch.device) -> Iterator[NDArray[np.int64]]:
    """Rows in batches of texts about as long as each other, the longest first.

    tokens: Int64[N], how long each text is. A batch holds as many as its longest leaves room for,
    and at least one: there is little padding, and memory is bounded whatever the lengths.
    """
    order = np.argsort(-tokens, kind="stable")
    room = ROOM.get(device.type, ROOM["cpu"])
    start = 0
    while start < len(order):
        size = max(1, room // int(tokens[order[start]]))
        yield order[start : start + size]
        start += size


def inference_dtype(device: torch.device) -> torch.dtype:
    """The number format that a text model is computed in: half precision where that is faster.

    float16 on a GPU; bfloat16 on processors that multiply it (AVX512-BF16, AMX), where MiniLM is
    1.9 times as fast; else float32. See benchmarks/RESULTS.md for what it changes.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ):
        return torch.bfloat16
    return torch.float32


@contextmanager
def quietly(*, warnings: bool = True) -> Iterator[None]:
    """Load or save a model without the progress bars of transformers.

    warnings: whether it may still say what it found amiss with the weights.
    """
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not warnings:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
