"""The plot of a study: what each trial reached, with the best so far, and how each came there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.figure import Figure

from recsys.training.study import Trial
from services.cli.console import short

COLOURS = {"finished": "#0b6e99", "pruned": "#c4951a", "failed": "#a3123f"}


def trials_plot(trials: Sequence[Trial], best: Trial) -> Figure:
    """A study's trials, of which at least one has finished; those that failed lie at the bottom."""
    worst = min(trial.ndcg for trial in trials if trial.outcome != "failed")
    reached = [worst if trial.outcome == "failed" else trial.ndcg for trial in trials]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [trial.number for trial in trials]
    left.step(numbers, list(itertools.accumulate(reached, max)), where="post", color="#777777")
    for outcome, colour in COLOURS.items():
        those = [i for i, trial in enumerate(trials) if trial.outcome == outcome]
        at = ([numbers[i] for i in those], [reached[i] for i in those])
        left.scatter(*at, color=colour, label=outcome, zorder=2)
    for trial in trials:
        epochs = range(1, len(trial.curve) + 1)
        width = 3.0 if trial == best else 0.8
        right.plot(epochs, trial.curve, color=COLOURS[trial.outcome], linewidth=width)
    values = ", ".join(f"{name} {short(value)}" for name, value in best.values.items())
    figure.suptitle(f"Best: trial {best.number}, NDCG@10 {best.ndcg:.4f}\n{values}", wrap=True)
    left.set(xlabel="trial", ylabel="validation NDCG@10, and the best so far")
    right.set(xlabel="epoch", ylabel="validation NDCG@10")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="#dddddd")
        axes.set_axisbelow(True)
    left.legend()
    return figure
