"""The cost of a training: what Linux counts is read right. The counters are files of the shape of
/sys/class/powercap, which virtual machines have not."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import torch

from recsys.training.cost import Meter

CPU = torch.device("cpu")


def package(powercap: Path, name: str, energy_uj: int, end: int = 10**9) -> Path:
    folder = powercap / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{end}\n")
    return folder


def test_the_energy_of_all_packages_is_counted_and_that_of_their_parts_is_not_again(
    tmp_path: Path,
) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    package(tmp_path, "intel-rapl:0:0", 0)
    package(tmp_path, "intel-rapl:1", 500)
    meter = Meter(CPU, counts_processors=True, powercap=tmp_path)
    package(tmp_path, "intel-rapl:0", 36_000_000)
    package(tmp_path, "intel-rapl:0:0", 20_000_000)
    package(tmp_path, "intel-rapl:1", 36_000_500)
    assert meter.read()["energy_wh"] == pytest.approx(72 / 3600)


def test_a_counter_that_starts_again_at_its_end_goes_on_counting(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 900_000_000)
    meter = Meter(CPU, counts_processors=True, powercap=tmp_path)
    package(tmp_path, "intel-rapl:0", 100_000_000)
    assert meter.read()["energy_wh"] == pytest.approx(200 / 3600)
    package(tmp_path, "intel-rapl:0", 50_000_000)
    assert meter.read()["energy_wh"] == pytest.approx(1150 / 3600)


def test_a_machine_that_tells_no_energy_is_not_said_to_have_used_none(tmp_path: Path) -> None:
    assert math.isnan(Meter(CPU, counts_processors=True, powercap=tmp_path).read()["energy_wh"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_counters_that_may_not_be_read_tell_nothing(tmp_path: Path) -> None:
    (package(tmp_path, "intel-rapl:0", 0) / "energy_uj").chmod(0)
    assert math.isnan(Meter(CPU, counts_processors=True, powercap=tmp_path).read()["energy_wh"])


def test_the_second_worker_of_a_machine_adds_nothing_to_its_energy(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    meter = Meter(CPU, counts_processors=False, powercap=tmp_path)
    package(tmp_path, "intel-rapl:0", 36_000_000)
    assert meter.read()["energy_wh"] == 0


def test_core_seconds_are_those_since_the_meter_was_made(tmp_path: Path) -> None:
    meter = Meter(CPU, counts_processors=True, powercap=tmp_path)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert meter.read()["core_seconds"] == pytest.approx(0.2, abs=0.1)
    assert meter.read()["peak_rss_mb"] > 50
