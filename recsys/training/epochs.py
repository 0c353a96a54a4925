"""The epochs of a fit: each is run and measured on the validation part, until that is enough."""

from __future__ import annotations

import math
import time

import torch

from infra.errors import RecsysError
from recsys.data.split import Holdout
from recsys.evaluation.protocol import validate
from recsys.models.model import Fit, Model, Workers
from recsys.training.checkpoint import EpochReport, Progress

PATIENCE = 8
"""Epochs without a better validation metric after which a fit stops."""


def next_epoch(
    fitting: Fit,
    validation: Holdout | None,
    workers: Workers,
    *,
    progress: Progress,
    max_epochs: int,
) -> tuple[EpochReport, Model]:
    """Run the epoch after those of `progress`; returns what it came to, the same on every worker,
    and the model that it gave. validation: None measures nothing. Raises
    RecsysError if the numbers leave what floats can hold."""
    began, epoch = time.monotonic(), len(progress.history)
    try:
        logs = fitting.run_epoch(epoch)
        if not math.isfinite(logs["loss"]):
            raise RecsysError(
                f"the fit diverged in epoch {epoch + 1}, its loss is {logs['loss']}: lower "
                "learning_rate, or raise regularization"
            )
        model = fitting.model()
        ndcg = None if validation is None else validate(model, validation, workers)["ndcg@10"]
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise RecsysError(
            f"the fit failed in epoch {epoch + 1}: {error}. Raise regularization"
        ) from None
    report = EpochReport(
        epoch=epoch,
        max_epochs=max_epochs,
        loss=logs["loss"],
        ndcg=ndcg,
        seconds=time.monotonic() - began,
    )
    return report, model


def finished(progress: Progress, max_epochs: int) -> bool:
    """Whether all epochs are done, or validation has not risen for `PATIENCE` of them."""
    done = len(progress.history)
    return done >= max_epochs or (done > 0 and done - 1 - progress.best_epoch >= PATIENCE)
