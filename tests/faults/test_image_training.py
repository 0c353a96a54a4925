"""A worker of an image encoder's training dies: it is replaced, and nothing is learnt twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.contrastive import ContrastiveConfig
from encoders.picture_file import write_pictures
from encoders.resnet import new_resnet
from encoders.training import EpochLoss, train
from recsys.data.genres import GENRES
from tests.processes import processes_whose_command_holds


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_is_replaced_and_training_goes_on_from_the_last_epoch(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    posters = [GENRES[i % len(GENRES)].poster(rng) for i in range(96)]
    pictures, run_dir = tmp_path / "pictures", tmp_path / "run"
    write_pictures(pictures, [lambda data=data: data for data in posters], 48)
    run_dir.mkdir()
    torch.manual_seed(0)
    config = ContrastiveConfig(pixels=32, batch=32, epochs=12, learning_rate=1e-2)
    killed: list[int] = []
    told: list[int] = []

    def kill_one(report: EpochLoss) -> None:
        told.append(report.epoch)
        if report.epoch == 3 and not killed:
            killed.append(processes_whose_command_holds("RayTrainWorker")[0])
            os.kill(killed[0], signal.SIGKILL)

    net = new_resnet(18, 0.125)
    result = train(
        config, net, pictures, 48, run_dir=run_dir, workers=2, cores=1, on_epoch=kill_one
    )

    assert killed
    assert result.progress.starts == 2, "it began anew instead of going on from a checkpoint"
    losses = result.progress.losses
    assert len(losses) == config.epochs
    assert sorted(set(told)) == list(range(config.epochs))
    assert losses[-1] < 0.9 * losses[0]
    assert all(tensor.isfinite().all() for tensor in result.net.state_dict().values())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
