"""Training of a cross-encoder from a catalogue's own texts, where there is none to be had.

A text encoder's BERT gets a head of one label and learns to tell the text that a pseudo-query was
made of from those that the encoder holds for the nearest: softmax over the candidates of a query,
the loss of listwise re-rankers (ListNet; Cao et al., ICML 2007). What it learns is to match words
that are left out, misspelt or replaced; it learns nothing of the world that the texts do not say.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from encoders.batches import inference_dtype, quietly
from encoders.checkpoint import find
from encoders.pseudo_queries import PseudoQueries
from encoders.text import TextEncoder
from infra.errors import RecsysError
from infra.storage import atomic_folder

TRAINING = "training.json"


class CrossEncoderTraining(BaseModel):
    """How a cross-encoder is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(400, ge=1)
    """Updates of the weights."""

    queries: int = Field(6, ge=1)
    """Pseudo-queries of a step."""

    candidates: int = Field(6, ge=2)
    """Texts that a query is trained on: the one it was made of, and so many less one others."""

    hardest: int = Field(50, ge=1)
    """The others are drawn from so many that the text encoder finds nearest to the query."""

    max_tokens: int = Field(96, ge=8)
    """Of a query and a text together; what is longer is cut off."""

    learning_rate: float = Field(2e-4, gt=0)
    """At its highest, after a tenth of the steps; it falls to 0."""

    seed: int = 0
    """The pseudo-queries, their others and the head start from it."""


def train_cross_encoder(
    folder: Path,
    texts: Sequence[str],
    encoder: TextEncoder,
    config: CrossEncoderTraining | None = None,
    *,
    device: str = "cpu",
    tell: Callable[[int, float], None] | None = None,
) -> None:
    """Train one from the encoder's BERT and write it to `folder`, whole or not at all.

    texts: of the items, as the encoder is given them; those without a word are left out.
    tell: called after each step with its number, from 1, and its loss.
    Raises RecsysError for fewer texts than candidates, FileExistsError where the folder is there.
    """
    config = config or CrossEncoderTraining()
    started = time.process_time()
    vectors = encoder.encode(texts).vectors
    usable = np.flatnonzero(vectors.any(axis=1))
    if len(usable) < config.candidates:
        raise RecsysError(
            f"{len(usable)} texts are too few to train a cross-encoder on: it takes "
            f"{config.candidates}, and some hundreds to learn anything"
        )
    queries = PseudoQueries(texts, encoder)
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    base = find(encoder.name).folder
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    with quietly(warnings=False):  # it would tell that the head has no weights yet
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, local_files_only=True
        ).to(device)
    model.train()
    half = inference_dtype(model.device) != torch.float32
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    losses = []
    for step in range(1, config.steps + 1):
        wanted = rng.choice(usable, config.queries)
        asked = [queries.of(row, rng) or texts[row] for row in wanted.tolist()]
        rows = _candidates(encoder.encode(asked).vectors, vectors, wanted, config, rng)
        tokens = tokenizer(
            [query for query in asked for _ in range(rows.shape[1])],
            [texts[row] for row in rows.ravel().tolist()],
            padding=True,
            truncation=True,
            max_length=config.max_tokens,
            return_tensors="pt",
        ).to(device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            scores = model(**tokens).logits.float().view(rows.shape)
        first = torch.zeros(len(rows), dtype=torch.long, device=scores.device)
        loss = torch.nn.functional.cross_entropy(scores, first)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if tell is not None:
            tell(step, losses[-1])
    with atomic_folder(folder) as draft, quietly():
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        said = {
            "base": encoder.name,
            "texts": len(usable),
            "config": config.model_dump(),
            "loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
            "core_seconds": round(time.process_time() - started, 1),
        }
        (draft / TRAINING).write_text(json.dumps(said, indent=2))


def _rate(step: int, steps: int) -> float:
    """What of the learning rate a step has: up over the first tenth, then down to nothing."""
    warm = max(1, math.ceil(steps / 10))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _candidates(
    asked: NDArray[np.float32],
    vectors: NDArray[np.float32],
    wanted: NDArray[np.int64],
    config: CrossEncoderTraining,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Int64[queries, candidates], the wanted row first. Half of the others are of the nearest, half
    any, so that there is something easy to learn from at the start."""
    scores = asked @ vectors.T
    scores[np.arange(len(wanted)), wanted] = -np.inf
    hardest = min(config.hardest, len(vectors) - 1)
    nearest = np.argpartition(-scores, hardest - 1, axis=1)[:, :hardest]
    near = rng.permuted(nearest, axis=1)[:, : config.candidates // 2]
    far = rng.integers(len(vectors) - 1, size=(len(wanted), config.candidates - 1 - near.shape[1]))
    far += far >= wanted[:, None]
    return np.concatenate([wanted[:, None], near, far], axis=1)
