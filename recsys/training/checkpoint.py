"""Checkpoints: all that a fit needs to go on, and the best model so far, in one folder.

`state.safetensors` is the fit's own state after its last epoch, `best.safetensors` the tensors of
the best model, `progress.json` what was measured so far. No pickle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from infra.errors import RecsysError
from recsys.models.model import Tensors

STATE, BEST, PROGRESS = "state.safetensors", "best.safetensors", "progress.json"


class BadCheckpoint(RecsysError):
    """A checkpoint that is not whole."""


class EpochReport(BaseModel):
    """What one epoch came to."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    epoch: int
    """Counted from 0."""

    max_epochs: int
    """How many there may be at most."""

    loss: float
    """The training loss."""

    ndcg: float | None
    """NDCG@10 on the validation part; None for a fit that learns it."""

    seconds: float
    """Wall-clock seconds of the epoch, validation included."""


class Progress(BaseModel):
    """How far a fit has come."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    history: list[EpochReport] = []
    """All epochs so far, over all restarts."""

    starts: int = 0
    """How often the training was started: 1 for one that was never interrupted."""

    core_seconds: float = 0.0
    """Processor seconds that all workers have used so far."""

    peak_rss_mb: float = 0.0
    """The most memory that any worker has held, in MB."""

    processors_wh: float | None = 0.0
    """Watt-hours of the machines' processors so far; None where one does not tell them."""

    gpus_wh: float | None = 0.0
    """The same of the GPUs."""

    peak_gpu_mb: float | None = 0.0
    """The most memory that any worker has held on its GPU, in MB; None without GPUs."""

    def after(self, report: EpochReport, earlier: Progress, used: torch.Tensor) -> Progress:
        """One epoch further. earlier: when the workers were started. used: Float64[workers, 5],
        what each has used since, in the order of `Meter.read`."""
        core_seconds, rss_mb, processors_wh, gpus_wh, gpu_mb = used.unbind(1)
        return self.model_copy(
            update={
                "history": [*self.history, report],
                "core_seconds": earlier.core_seconds + core_seconds.sum().item(),
                "peak_rss_mb": max(self.peak_rss_mb, rss_mb.max().item()),
                "processors_wh": _plus(earlier.processors_wh, processors_wh.sum().item()),
                "gpus_wh": _plus(earlier.gpus_wh, gpus_wh.sum().item()),
                "peak_gpu_mb": _most(self.peak_gpu_mb, gpu_mb.max().item()),
            }
        )

    def known(self) -> dict[str, float]:
        """`processors_wh`, `gpus_wh` and `peak_gpu_mb`, each where it is known."""
        all_ = {
            "processors_wh": self.processors_wh,
            "gpus_wh": self.gpus_wh,
            "peak_gpu_mb": self.peak_gpu_mb,
        }
        return {name: value for name, value in all_.items() if value is not None}

    @property
    def best_epoch(self) -> int:
        """The epoch of the highest validation NDCG@10, the earliest of equals; the last one of a
        fit that is not validated."""
        measured = [
            (report.ndcg, -report.epoch) for report in self.history if report.ndcg is not None
        ]
        return -max(measured)[1] if measured else self.history[-1].epoch


def _plus(before: float | None, more: float) -> float | None:
    """The sum, None where either is not known."""
    return None if before is None or math.isnan(more) else before + more


def _most(before: float | None, now: float) -> float | None:
    """The larger one, None where either is not known."""
    return None if before is None or math.isnan(now) else max(before, now)


@dataclass(frozen=True)
class Checkpoint:
    state: dict[str, torch.Tensor]
    best: Tensors
    progress: Progress

    def save(self, folder: Path) -> None:
        """Write into an existing folder, which Ray Train makes visible as a whole."""
        save_file(self.state, folder / STATE)
        save_arrays(dict(self.best), folder / BEST)
        (folder / PROGRESS).write_text(self.progress.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """What `save` wrote; raises BadCheckpoint naming the file that is not whole."""
        name = STATE
        try:
            state = load_file(folder / STATE)
            name = BEST
            best = load_arrays(folder / BEST)
            name = PROGRESS
            progress = Progress.model_validate_json((folder / PROGRESS).read_bytes())
        except (OSError, SafetensorError, ValidationError) as error:
            raise BadCheckpoint(
                f"the checkpoint {folder} cannot be read: {name}: {error}. Delete the run's folder "
                "and train again without --resume"
            ) from None
        return cls(state, best, progress)
