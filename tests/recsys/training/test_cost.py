"""The cost of a training: what Linux counts is read right. The counters are files of the shape of
/sys/class/powercap, which virtual machines have not."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import torch

from recsys.training.cost import Meter, of_both

CPU = torch.device("cpu")


def package(
    powercap: Path, zone: str, energy_uj: int, *, name: str = "package-0", end: int = 10**9
) -> Path:
    folder = powercap / zone
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{end}\n")
    return folder


def test_the_energy_of_all_packages_is_counted_and_no_part_or_whole_of_them_again(
    tmp_path: Path,
) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    package(tmp_path, "intel-rapl:0:0", 0, name="core")
    package(tmp_path, "intel-rapl:1", 500, name="package-1")
    package(tmp_path, "intel-rapl:2", 0, name="psys")
    meter = Meter(CPU, counts_processors=True, powercap=tmp_path)
    package(tmp_path, "intel-rapl:0", 36_000_000)
    package(tmp_path, "intel-rapl:0:0", 20_000_000, name="core")
    package(tmp_path, "intel-rapl:1", 36_000_500, name="package-1")
    package(tmp_path, "intel-rapl:2", 90_000_000, name="psys")
    assert meter.read().processors_wh == pytest.approx(72 / 3600)


def test_a_counter_that_starts_again_at_its_end_goes_on_counting(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 900_000_000)
    meter = Meter(CPU, counts_processors=True, powercap=tmp_path)
    package(tmp_path, "intel-rapl:0", 100_000_000)
    assert meter.read().processors_wh == pytest.approx(200 / 3600)
    package(tmp_path, "intel-rapl:0", 50_000_000)
    assert meter.read().processors_wh == pytest.approx(1150 / 3600)


def test_a_machine_that_tells_no_energy_is_not_said_to_have_used_none(tmp_path: Path) -> None:
    assert math.isnan(Meter(CPU, counts_processors=True, powercap=tmp_path).read().processors_wh)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_counters_that_may_not_be_read_tell_nothing(tmp_path: Path) -> None:
    (package(tmp_path, "intel-rapl:0", 0) / "energy_uj").chmod(0)
    assert math.isnan(Meter(CPU, counts_processors=True, powercap=tmp_path).read().processors_wh)


def test_the_second_worker_of_a_machine_adds_nothing_to_its_energy(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    meter = Meter(CPU, counts_processors=False, powercap=tmp_path)
    package(tmp_path, "intel-rapl:0", 36_000_000)
    assert meter.read().processors_wh == 0


def test_without_a_gpu_there_is_no_energy_of_one(tmp_path: Path) -> None:
    assert math.isnan(Meter(CPU, counts_processors=True, powercap=tmp_path).read().gpu_wh)


def test_within_its_block_it_is_read_often_enough_to_miss_no_end_of_a_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.training.cost.OFTEN", 0.01)
    package(tmp_path, "intel-rapl:0", 0)
    with Meter(CPU, counts_processors=True, powercap=tmp_path) as meter:
        for energy_uj in (900_000_000, 100_000_000, 900_000_000, 100_000_000):
            (tmp_path / "new").write_text(f"{energy_uj}\n")
            (tmp_path / "new").rename(tmp_path / "intel-rapl:0" / "energy_uj")
            time.sleep(0.1)
        assert meter.read().processors_wh == pytest.approx(2100 / 3600)


def test_core_seconds_are_those_since_the_meter_was_made(tmp_path: Path) -> None:
    meter = Meter(CPU, counts_processors=True, powercap=tmp_path)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert meter.read().core_seconds == pytest.approx(0.2, abs=0.1)
    assert meter.read().peak_rss_mb > 50


def test_of_two_fits_time_and_energy_add_up_and_the_larger_machine_counts() -> None:
    first = {"wall_s": 2.0, "core_s": 3.0, "gpu_s": 4.0, "peak_rss_mb": 10.0, "workers": 2.0}
    again = {"wall_s": 1.0, "core_s": 1.0, "gpu_s": 1.0, "peak_rss_mb": 20.0, "workers": 2.0}
    both = {"wall_s": 3.0, "core_s": 4.0, "gpu_s": 5.0, "peak_rss_mb": 20.0, "workers": 2.0}
    assert of_both(first, again) == both
    assert "processors_wh" not in of_both({**first, "processors_wh": 1.0}, again)
