"""The plot of a study: every trial is a point and a curve, and the best one stands out."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from matplotlib.colors import to_hex

from recsys.training.study import Outcome, Trial
from services.cli.trials_plot import COLOURS, trials_plot


def trial(number: int, curve: list[float], outcome: Outcome = "finished") -> Trial:
    return Trial(number, {"block": "<gated>"}, curve, outcome, seconds=1.0, reason="")


TRIALS = [
    trial(1, [0.1, 0.2, 0.3]),
    trial(2, [0.1, 0.15], "pruned"),
    trial(3, [], "failed"),
    trial(4, [0.2, 0.4, 0.35]),
]


def test_a_trial_is_a_point_in_the_colour_of_its_outcome_at_the_height_it_reached() -> None:
    left, _ = trials_plot(TRIALS, TRIALS[3]).axes
    points = {
        (x, y): to_hex(group.get_facecolor()[0])
        for group in left.collections
        for x, y in group.get_offsets().tolist()
    }
    assert points == {
        (1, 0.3): COLOURS["finished"],
        (2, 0.15): COLOURS["pruned"],
        (3, 0.15): COLOURS["failed"],
        (4, 0.4): COLOURS["finished"],
    }


def test_the_best_so_far_never_falls_and_the_best_curve_is_the_boldest() -> None:
    left, right = trials_plot(TRIALS, TRIALS[3]).axes
    assert list(left.lines[0].get_ydata()) == [0.3, 0.3, 0.3, 0.4]
    widths = [line.get_linewidth() for line in right.lines]
    assert widths.index(max(widths)) == 3


def test_the_best_trial_is_told_with_its_values() -> None:
    title = trials_plot(TRIALS, TRIALS[3]).get_suptitle()
    assert title == "Best: trial 4, NDCG@10 0.4000\nblock <gated>"


def test_one_trial_of_one_epoch_can_be_drawn(tmp_path: Path) -> None:
    only = trial(1, [0.2])
    trials_plot([only], only).savefig(tmp_path / "trials.svg")
    assert ElementTree.parse(tmp_path / "trials.svg").getroot().tag.endswith("svg")
