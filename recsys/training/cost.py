"""What a training costs: processor seconds, memory and, where the machine tells it, energy."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import pynvml
import torch

POWERCAP = Path("/sys/class/powercap")
"""Where Linux tells the energy of the processor's packages (Intel's and AMD's RAPL)."""


class Meter:
    """What this process has used since the meter was made.

    The energy of the processors is that of the whole machine, whatever else it does, so of the
    processes on one machine only one should count it. A machine that tells nothing, which is what
    most virtual machines do, is told apart from one that used nothing.
    """

    def __init__(
        self, device: torch.device, *, counts_processors: bool, powercap: Path = POWERCAP
    ) -> None:
        self._core_seconds = _core_seconds()
        self._packages = _packages(powercap) if counts_processors else []
        self._told = bool(self._packages) or not counts_processors
        self._last = [_number(package / "energy_uj") for package in self._packages]
        self._processors_uj = 0.0
        self._gpu = _gpu(device)
        if device.type == "cuda":
            self._told = self._told and self._gpu is not None
        self._gpu_before = self._gpu_mj()

    def read(self) -> dict[str, float]:
        """`core_seconds`; `peak_rss_mb`, the most memory held at once; `energy_wh`, watt-hours, or
        NaN where the machine does not tell them.

        The processors' counters start again at their end, after 40 minutes or more: read it more
        often than that.
        """
        for i, package in enumerate(self._packages):
            now = _number(package / "energy_uj")
            if now < self._last[i]:
                self._processors_uj += _number(package / "max_energy_range_uj")
            self._processors_uj += now - self._last[i]
            self._last[i] = now
        joules = self._processors_uj / 1e6 + (self._gpu_mj() - self._gpu_before) / 1e3
        return {
            "core_seconds": _core_seconds() - self._core_seconds,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "energy_wh": joules / 3600 if self._told else math.nan,
        }

    def _gpu_mj(self) -> float:
        if self._gpu is None:
            return 0.0
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))


def _core_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _packages(powercap: Path) -> list[Path]:
    """The folders of the processors' packages whose counters may be read, which from Linux 5.10 on
    is root's alone unless the machine's owner says otherwise."""
    packages = []
    for package in sorted(powercap.glob("intel-rapl:*")):
        if package.name.count(":") > 1:  # a part of a package, which the package counts
            continue
        try:
            _number(package / "energy_uj")
        except PermissionError:
            continue
        packages.append(package)
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
