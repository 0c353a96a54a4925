"""What a training costs: processor seconds, memory and, where the machine tells it, energy."""

from __future__ import annotations

import math
import resource
import threading
from pathlib import Path
from typing import NamedTuple, Self

import pynvml
import torch

POWERCAP = Path("/sys/class/powercap")
"""Where Linux tells the energy of the processor's packages (Intel's and AMD's RAPL)."""


OFTEN = 30.0
"""Seconds between readings: the smallest of the processors' counters start again after minutes."""


class Used(NamedTuple):
    """What one worker has used."""

    core_seconds: float
    peak_rss_mb: float
    """The most memory that the process has held."""
    processors_wh: float
    """Watt-hours of all the machine's processors, whatever else they did; NaN where it does not
    tell them, as most virtual machines do not."""
    gpu_wh: float
    """The same of the worker's GPU; NaN without one."""
    peak_gpu_mb: float
    """The most of the GPU's memory that PyTorch has held for tensors; NaN without one."""


SUMS = ("wall_s", "core_s", "gpu_s", "processors_wh", "gpus_wh")
"""Of a fit's cost, what two fits add up to; memory and machines are the larger one's."""


def of_both(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """The cost of two fits, one after the other: what both know."""
    return {
        name: first[name] + second[name] if name in SUMS else max(first[name], second[name])
        for name in first
        if name in second
    }


class Meter:
    """What this process uses in a block.

    The energy of the processors is that of the whole machine, so of the processes on one machine
    only one should count it; another's is 0.
    """

    def __init__(
        self, device: torch.device, *, counts_processors: bool, powercap: Path = POWERCAP
    ) -> None:
        self._core_seconds = _core_seconds()
        self._packages = _packages(powercap) if counts_processors else []
        self._told = bool(self._packages) or not counts_processors
        self._last = [_number(package / "energy_uj") for package in self._packages]
        self._processors_uj = 0.0
        self._device = device
        self._gpu = _gpu(device)
        self._gpu_before = self._gpu_mj()
        self._reading = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, name="energy", daemon=True)

    def __enter__(self) -> Self:
        if self._packages:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._packages:
            self._thread.join()

    def read(self) -> Used:
        """What was used since the meter was made."""
        with self._reading:
            for i, package in enumerate(self._packages):
                now = _number(package / "energy_uj")
                if now < self._last[i]:
                    self._processors_uj += _number(package / "max_energy_range_uj")
                self._processors_uj += now - self._last[i]
                self._last[i] = now
        return Used(
            core_seconds=_core_seconds() - self._core_seconds,
            peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            processors_wh=self._processors_uj / 3.6e9 if self._told else math.nan,
            gpu_wh=(self._gpu_mj() - self._gpu_before) / 3.6e6 if self._gpu else math.nan,
            peak_gpu_mb=_peak_gpu_mb(self._device),
        )

    def _keep_reading(self) -> None:
        while not self._ended.wait(OFTEN):
            self.read()

    def _gpu_mj(self) -> float:
        if self._gpu is None:
            return 0.0
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))


def _peak_gpu_mb(device: torch.device) -> float:
    if device.type != "cuda":
        return math.nan
    return torch.cuda.max_memory_allocated(device) / 2**20


def _core_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _packages(powercap: Path) -> list[Path]:
    """The folders of all packages; none if one may not be read, which from Linux 5.10 on is root's
    alone unless the machine's owner says otherwise.

    The other zones are parts of a package, or `psys`, the platform that the packages are part of.
    """
    zones = sorted(powercap.glob("intel-rapl:*"))
    packages = [zone for zone in zones if (zone / "name").read_text().startswith("package-")]
    try:
        for package in packages:
            _number(package / "energy_uj")
    except PermissionError:
        return []
    return packages


def _number(file: Path) -> int:
    return int(file.read_text())


def _gpu(device: torch.device) -> pynvml.c_nvmlDevice_t | None:
    """NVML's handle of the GPU; None for another device, or one that counts no energy."""
    if device.type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        )
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return handle
