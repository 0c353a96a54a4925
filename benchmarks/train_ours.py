"""One of ours for `train.py`: fit an epoch at a time, and say what it recommends after each.

    python -m benchmarks.train_ours NAME INPUT.npz SETTINGS.json OUTPUT

NAME is `ease` or a kind of model; SETTINGS are of `settings_of`. Input and output are those of
`rectools_sasrec.py`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.evaluation.metrics import top_k
from recsys.models.catalog import kind_of
from recsys.models.hardware import fast_dtype
from recsys.models.model import Alone, Model
from recsys.models.next_item import NextItemConfig
from recsys.models.presets import PRESETS

QUERIES_AT_ONCE = 2048
EASE_RIDGES = (25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0)

LABELS = {"ials": "iALS", "gru4rec": "GRU4Rec", "sasrec": "SASRec"}

Scorer = Callable[[Histories], NDArray[np.float32]]


@dataclass(frozen=True)
class Fitted:
    """What an epoch gave."""

    label: str
    """Who it is, with what it is set to that matters most."""

    numbers: str
    """The number format that it was trained in."""

    scores: Scorer


def settings_of(name: str, preset: str, seed: int) -> dict[str, Any]:
    """What it is run with, in JSON's types: EASE's λ, or the whole config of a kind."""
    if name == "ease":
        return {"ridges": list(EASE_RIDGES)}
    of_preset = PRESETS[name][preset] if name in PRESETS else {}
    config = kind_of(name).config.model_validate({**of_preset, "seed": seed})
    return config.model_dump(mode="json")


def kind(name: str, train: Histories, n_items: int, settings: dict[str, Any]) -> Iterator[Fitted]:
    """A kind of the catalog, after each epoch."""
    config = kind_of(name).config.model_validate(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as RecTools does
    numbers = fast_dtype(device) if isinstance(config, NextItemConfig) else torch.float32
    fit = kind_of(name).fit(config, train, n_items, Alone(), device)
    for epoch in range(fit.max_epochs):
        fit.run_epoch(epoch)
        model = fit.model()
        label = f"{LABELS[name]}, d = {model.item_vectors.shape[1]}"
        yield Fitted(label, str(numbers).removeprefix("torch."), partial(scores, model))


def ease(train: Histories, n_items: int, ridges: Sequence[float]) -> Iterator[Fitted]:
    """EASE at each λ: with the Gramian G of the items, P = (G + λI)⁻¹ and B_ij = -P_ij / P_jj."""
    seen = _matrix(train, n_items)
    gramian = seen.T @ seen
    for ridge in ridges:
        inverse = np.linalg.inv(gramian + ridge * np.eye(n_items, dtype=np.float32))
        weights = (inverse / -np.diag(inverse)).astype(np.float32)
        np.fill_diagonal(weights, 0)
        yield Fitted(f"EASE, λ = {ridge:g}", str(inverse.dtype), partial(_weighted, weights))


def scores(model: Model, histories: Histories) -> NDArray[np.float32]:
    """Float32[B, N]."""
    return model.query_vectors(histories) @ model.item_vectors.T


def _weighted(weights: NDArray[np.float32], histories: Histories) -> NDArray[np.float32]:
    return _matrix(histories, len(weights)) @ weights


def _matrix(histories: Histories, n_items: int) -> NDArray[np.float32]:
    """Float32[B, N] of ones: which history holds which item."""
    dense = np.zeros((len(histories), n_items), np.float32)
    dense[histories.rows(), histories.items] = 1
    return dense


def top(scorer: Scorer, histories: Histories, k: int) -> NDArray[np.int64]:
    """Int64[B, k], the best unseen items of each history."""
    parts = []
    for start in range(0, len(histories), QUERIES_AT_ONCE):
        some = histories.slice(start, min(start + QUERIES_AT_ONCE, len(histories)))
        scores = scorer(some)
        scores[some.rows(), some.items] = -np.inf
        parts.append(top_k(scores, k).items)
    return np.concatenate(parts)


def main() -> None:
    name, source, settings, output = sys.argv[1:]
    torch.set_num_threads(os.cpu_count() or 1)
    given = np.load(source)
    train = Histories(given["train_offsets"], given["train_items"])
    asked = Histories(given["asked_offsets"], given["asked_items"])
    n_items, k = int(given["n_items"]), int(given["k"])
    told = json.loads(Path(settings).read_text(encoding="utf-8"))
    if name == "ease":
        fits = ease(train, n_items, told["ridges"])
    else:
        fits = kind(name, train, n_items, told)
    caller = os.getppid()
    seconds, started = 0.0, time.perf_counter()
    for epoch, fitted in enumerate(fits):
        seconds += time.perf_counter() - started
        part = Path(output) / f"{epoch:04d}.part.npz"
        np.savez(
            part,
            label=fitted.label,
            numbers=fitted.numbers,
            validation=top(fitted.scores, train.take(given["users"]), k),
            test=top(fitted.scores, asked, k),
            seconds=seconds,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        part.rename(Path(output) / f"{epoch:04d}.npz")
        if os.getppid() != caller:
            return  # nobody reads on
        started = time.perf_counter()
    (Path(output) / "ended").touch()


if __name__ == "__main__":
    main()
