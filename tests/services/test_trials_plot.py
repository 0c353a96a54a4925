"""The plot of a study: every trial is a point and a curve, and the best one stands out."""

from __future__ import annotations

from xml.etree import ElementTree

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
    svg = ElementTree.fromstring(trials_plot(TRIALS, TRIALS[3]))
    points = svg.findall(".//{*}circle")
    assert [point.get("fill") for point in points] == [COLOURS[each.outcome] for each in TRIALS]
    heights = [float(point.get("cy", "")) for point in points]
    assert heights[3] < heights[0] < heights[1] == heights[2]
    assert "trial 2, pruned: NDCG@10 0.1500; block <gated>" in points[1][0].text


def test_the_best_so_far_never_falls_and_the_best_curve_is_the_boldest() -> None:
    svg = ElementTree.fromstring(trials_plot(TRIALS, TRIALS[3]))
    best_so_far, *curves = svg.findall(".//{*}polyline")
    heights = [float(pair.split(",")[1]) for pair in best_so_far.get("points", "").split()]
    assert heights == sorted(heights, reverse=True)
    widths = [float(curve.get("stroke-width", "")) for curve in curves]
    assert widths.index(max(widths)) == 3


def test_one_trial_of_one_epoch_can_be_drawn() -> None:
    only = trial(1, [0.2])
    assert ElementTree.fromstring(trials_plot([only], only)).findall(".//{*}circle")
