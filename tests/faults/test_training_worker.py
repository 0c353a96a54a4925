"""A training worker that is killed: the fit goes on from a checkpoint and ends as good."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from recsys.models.sasrec import SasrecConfig
from recsys.training.checkpoint import EpochReport
from recsys.training.fit import fit
from tests.processes import processes_whose_command_holds


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_is_replaced_and_the_fit_reaches_the_same_quality(
    ring: Path, tmp_path: Path
) -> None:
    config = SasrecConfig(
        dim=16,
        blocks=1,
        heads=1,
        max_length=20,
        batch_size=32,
        dropout=0.0,
        learning_rate=5e-3,
        warmup_steps=0,
        max_epochs=10,
    )
    killed: list[int] = []

    def kill_one(report: EpochReport) -> None:
        if report.epoch == 3 and not killed:
            killed.append(processes_whose_command_holds("RayTrainWorker")[0])
            os.kill(killed[0], signal.SIGKILL)

    undisturbed = fit(config, ring, run_dir=tmp_path / "undisturbed", workers=0)
    result = fit(config, ring, run_dir=tmp_path / "killed", workers=2, on_epoch=kill_one)

    assert killed
    assert result.starts == 2, "the fit began anew instead of going on from a checkpoint"
    best, undisturbed_best = (max(e.ndcg for e in r.history) for r in (result, undisturbed))
    assert best == pytest.approx(undisturbed_best, abs=0.02)
