"""Picture file: all pictures of a training, decoded once, in one file that every worker maps.

    UInt8[N, 3, S, S], rows one after the other, no header

Each is scaled whole to the square, as the encoder that is trained on them scales what it is given.
3 S² bytes a picture: 27 KB at 96 pixels, so 100,000 of them take 2.7 GB of disk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.picture import decode
from infra.errors import RecsysError
from infra.roots import Unreached
from infra.storage import atomic_file

Source = Callable[[], bytes]
"""Gives the bytes of a picture's file; raises a RecsysError if it cannot."""


def write_pictures(path: Path, sources: Iterable[Source], side: int) -> dict[int, str]:
    """Write the pictures S = `side` pixels wide and high; those that cannot be read are left out.

    Returns why, by their place among the sources. Memory is bounded by a few pictures. Raises
    Unreached where one cannot be read for now.
    """
    failures: dict[int, str] = {}
    threads = os.cpu_count() or 1
    with atomic_file(path) as file, ThreadPoolExecutor(threads, "decode") as pool:
        waiting: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()

        def take() -> None:
            place, future = waiting.popleft()
            try:
                file.write(future.result().tobytes())
            except Unreached:
                raise
            except RecsysError as error:
                failures[place] = error.message

        for place, source in enumerate(sources):
            waiting.append((place, pool.submit(_scaled, source, side)))
            if len(waiting) > 2 * threads:
                take()
        while waiting:
            take()
    return failures


def read_pictures(path: Path, side: int) -> NDArray[np.uint8]:
    """UInt8[N, 3, S, S], mapped."""
    shape = (path.stat().st_size // (3 * side * side), 3, side, side)
    if shape[0] == 0:  # nothing cannot be mapped
        return np.zeros(shape, np.uint8)
    return np.memmap(path, np.uint8, "r", shape=shape)


def _scaled(source: Source, side: int) -> NDArray[np.uint8]:
    """UInt8[3, S, S]."""
    picture = decode(source(), side).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)
