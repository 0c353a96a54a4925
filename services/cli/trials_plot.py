"""The plot of a study, as an SVG file that any browser shows: what each trial reached, with the
best so far, and how each came there, epoch by epoch. A trial's values show under the pointer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from xml.sax.saxutils import escape

from recsys.training.study import Trial

WIDTH, HEIGHT, LEFT, TOP = 440, 340, 60, 30
COLOURS = {"finished": "#0b6e99", "pruned": "#c4951a", "failed": "#a3123f"}
STYLE = "text{font:12px sans-serif}.grid{stroke:#ddd}polyline{fill:none}"


class _Panel:
    """A pair of axes; the x-axis counts from 1, the y-axis goes from `low` to `high`."""

    def __init__(self, left: int, columns: int, low: float, high: float, x: str, y: str) -> None:
        self._left, self._columns, self._low = left + LEFT, columns, low
        self._span = (high - low) or 1.0
        self.parts = [_text(self._left, TOP - 12, "start", y)]
        for step in range(5):
            value = low + self._span * step / 4
            (x1, y1), (x2, _) = self.at(1, value), self.at(columns, value)
            self.parts.append(f'<path class="grid" d="M{x1:.1f} {y1:.1f}H{x2:.1f}"/>')
            self.parts.append(_text(x1 - 8, y1 + 4, "end", f"{value:.3f}"))
        for column in sorted({1, (columns + 1) // 2, columns}):
            self.parts.append(_text(self.at(column, low)[0], HEIGHT - 28, "middle", str(column)))
        self.parts.append(_text(self.at((columns + 1) / 2, low)[0], HEIGHT - 8, "middle", x))

    def at(self, column: float, value: float) -> tuple[float, float]:
        across = (column - 1) / max(self._columns - 1, 1)
        up = (value - self._low) / self._span
        return self._left + across * (WIDTH - LEFT - 30), HEIGHT - 46 - up * (HEIGHT - 46 - TOP)

    def line(self, values: Sequence[float], colour: str, width: float, title: str = "") -> None:
        points = [self.at(column, value) for column, value in enumerate(values, 1)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" stroke="{colour}" stroke-width="{width}">'
            f"<title>{escape(title)}</title></polyline>"
        )

    def point(self, column: int, value: float, colour: str, title: str) -> None:
        x, y = self.at(column, value)
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
            f"<title>{escape(title)}</title></circle>"
        )


def trials_plot(trials: Sequence[Trial], best: Trial) -> str:
    """The SVG of a study's trials, of which at least one has finished."""
    worst = min(trial.ndcg for trial in trials if trial.outcome != "failed")
    reached = [worst if trial.outcome == "failed" else trial.ndcg for trial in trials]
    left = _Panel(
        0, len(trials), worst, best.ndcg, "trial", "validation NDCG@10, and the best so far"
    )
    left.line(list(itertools.accumulate(reached, max)), "#777", 1.5)
    curves = [trial.curve for trial in trials if trial.curve]
    seen = list(itertools.chain.from_iterable(curves))
    right = _Panel(
        WIDTH, max(map(len, curves)), min(seen), max(seen), "epoch", "validation NDCG@10"
    )
    for trial in trials:
        values = ", ".join(f"{name} {value}" for name, value in trial.values.items())
        title = f"trial {trial.number}, {trial.outcome}: NDCG@10 {trial.ndcg:.4f}; {values}"
        left.point(trial.number, reached[trial.number - 1], COLOURS[trial.outcome], title)
        right.line(trial.curve, COLOURS[trial.outcome], 3 if trial == best else 0.8, title)
    legend = [
        f'<text x="{2 * WIDTH - 200 + 65 * i}" y="{TOP - 12}" fill="{colour}">{outcome}</text>'
        for i, (outcome, colour) in enumerate(COLOURS.items())
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>'
        + "".join([*left.parts, *right.parts, *legend])
        + "</svg>\n"
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
