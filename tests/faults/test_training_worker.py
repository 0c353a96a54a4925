"""Training that is disturbed: it goes on from a checkpoint, ends as good, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from recsys.models.sasrec import SasrecConfig
from recsys.training.checkpoint import EpochReport
from recsys.training.fit import fit
from tests.processes import alive, command, descendants, processes_whose_command_holds

START_S = 180.0
STOP_S = 20.0


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_is_replaced_and_the_fit_reaches_the_same_quality(
    ring: Path, tmp_path: Path
) -> None:
    config = SasrecConfig(
        dim=16,
        blocks=1,
        heads=1,
        max_length=20,
        batch_events=512,
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

    undisturbed = fit(config, ring, run_dir=tmp_path / "undisturbed", workers=0, gpu=False)
    result = fit(config, ring, run_dir=tmp_path / "killed", workers=2, gpu=False, on_epoch=kill_one)

    assert killed
    assert result.cost["workers"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert result.starts == 2, "the fit began anew instead of going on from a checkpoint"
    curve, undisturbed_curve = ([e.loss for e in r.history] for r in (result, undisturbed))
    assert curve == pytest.approx(undisturbed_curve, rel=0.01), "two workers, one of them killed"
    best, undisturbed_best = (max(e.ndcg for e in r.history) for r in (result, undisturbed))
    assert best == pytest.approx(undisturbed_best, abs=0.02)


def test_ctrl_c_ends_training_at_once_leaves_nothing_and_resume_goes_on(
    ring: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    reports = state / "runs" / "sasrec" / "epochs.jsonl"
    settings = ("dim=16", "heads=1", "max_length=20", "batch_events=512", "learning_rate=1e-3")
    train = ("train", "sasrec", "--data", str(ring), "--workers", "2", "--json")
    train += tuple(part for each in settings for part in ("--set", each))

    output = (tmp_path / "out").open("w+")
    process = started([*train, "--epochs", "500"], state, output)
    try:
        until = time.monotonic() + START_S
        while not (reports.exists() and len(reports.read_text().splitlines()) >= 3):
            assert process.poll() is None, written(output)
            assert time.monotonic() < until, written(output)
            time.sleep(0.1)
        below = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in its terminal does
        assert process.wait(STOP_S) == 130, written(output)
        assert "Traceback" not in written(output)
        until = time.monotonic() + 5
        while alive(below) and time.monotonic() < until:
            time.sleep(0.1)
        assert [command(pid) for pid in alive(below)] == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    seen = len(reports.read_text().splitlines())
    process = started([*train, "--epochs", str(seen + 1), "--resume"], state, output)
    assert process.wait(START_S) == 0, written(output)
    epochs = [EpochReport.model_validate_json(line).epoch for line in reports.open()]
    assert epochs[seen] > 0, "the resumed run began anew instead of going on from a checkpoint"
    assert epochs[-1] == seen


def started(arguments: list[str], state: Path, output: IO[str]) -> subprocess.Popen[bytes]:
    """The command in a session of its own, as in a terminal of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", *arguments],
        env={**os.environ, "RECSYS_STATE_DIR": str(state)},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def written(output: IO[str]) -> str:
    output.seek(0)
    return output.read()
