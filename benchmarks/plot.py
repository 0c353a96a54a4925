"""Quality against time, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def quality_against_time(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], quality: str, file: Path
) -> None:
    """Draw each name's quality over its seconds of training, on a logarithmic scale, into a file of
    the format that its name says."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, (seconds, values) in curves.items():
        axes.plot(seconds, values, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="seconds of training", ylabel=quality)
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd")
    axes.legend()
    figure.savefig(file)
