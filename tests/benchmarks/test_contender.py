"""Contenders: what a process gives is read as it comes, and how it dies is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contender import MODELS, ContenderFailed, epochs_of, settings_of
from benchmarks.environments import NoEnvironment, environment
from benchmarks.peers import PEERS
from recsys.models.presets import PRESETS

TWO_EPOCHS = """
import os, sys
import numpy as np

for number in range(2):
    np.savez("part.npz", label="it", numbers="float32", seconds=number, peak_mb=1,
             validation=np.full((2, 10), number), test=np.zeros((2, 10)))
    os.rename("part.npz", f"{number:04d}.npz")
"""


def seconds_of(program: str, folder: Path) -> tuple[list[float], str]:
    """The seconds of the epochs that a program gives, and why it failed, if it did."""
    output, log = folder / "out", folder / "log"
    output.mkdir()
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=output, stdout=said, stderr=said
        )
        seconds: list[float] = []
        try:
            for epoch in epochs_of(process, output, log):
                assert epoch.validation[0, 0] == len(seconds)
                seconds.append(epoch.seconds)
        except ContenderFailed as error:
            return seconds, str(error)
        finally:
            process.kill()
            process.wait()
    return seconds, ""


def test_a_contender_ends_with_its_last_epoch(tmp_path: Path) -> None:
    assert seconds_of(TWO_EPOCHS + "open('ended', 'w')", tmp_path) == ([0, 1], "")


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("raise MemoryError('too much')", "died with status 1: MemoryError: too much ("),
        ("os.kill(os.getpid(), 9)", "died with SIGKILL: it said nothing ("),
        ("sys.exit(0)", "died with status 0: it said nothing ("),
    ],
)
def test_one_that_dies_before_its_last_epoch_has_failed_and_says_how(
    tmp_path: Path, end: str, told: str
) -> None:
    seconds, reason = seconds_of(TWO_EPOCHS + end, tmp_path)
    assert seconds == [0, 1]
    assert told in reason
    assert str(tmp_path / "log") in reason


def test_an_environment_that_cannot_be_made_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):  # it is not taken for made afterwards
        with pytest.raises(NoEnvironment, match=r"no-such-peer==1\.0 .*peer\.log"):
            environment(tmp_path, "peer", "no-such-peer==1.0")


@pytest.mark.parametrize("preset", PRESETS["sasrec"])
@pytest.mark.parametrize("name", MODELS)
def test_what_a_contender_is_told_is_of_jsons_types_and_seeded(name: str, preset: str) -> None:
    settings = settings_of(name, preset, 7)
    assert json.loads(json.dumps(settings)) == settings
    assert name == "ease" or settings["seed"] == 7  # EASE draws nothing


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_settings_for_data_of_either_sort(name: str) -> None:
    assert PEERS[name].settings.keys() == PRESETS["sasrec"].keys()
    long, short = (settings_of(name, preset, 0) for preset in PRESETS["sasrec"])
    assert long != short
