"""Quality against time, as an SVG file that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 420, 70, 60
COLOURS = ("#0b6e99", "#c4551a", "#2f7d32", "#7b3fa0", "#a3123f", "#5f6b6d")


def quality_against_time(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], quality: str, file: Path
) -> None:
    """Draw each name's quality over its seconds of training, on a logarithmic scale."""
    seconds = [max(s, 0.1) for xs, _ in curves.values() for s in xs]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    top = 1.1 * max(max(ys) for _, ys in curves.values())

    def at(s: float, value: float) -> tuple[float, float]:
        x = LEFT + (math.log10(max(s, 0.1)) - low) / max(high - low, 1) * (WIDTH - LEFT - 150)
        return x, HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - 20)

    parts = []
    for power in range(low, high + 1):
        x, y = at(10**power, 0)
        parts.append(f'<line class="grid" x1="{x:.0f}" y1="20" x2="{x:.0f}" y2="{y:.0f}"/>')
        parts.append(_text(x, y + 20, "middle", f"{10**power:g}"))
    for step in range(5):
        x, y = at(10**low, top * step / 5)
        parts.append(
            f'<line class="grid" x1="{x:.0f}" y1="{y:.0f}" x2="{WIDTH - 150}" y2="{y:.0f}"/>'
        )
        parts.append(_text(x - 8, y + 4, "end", f"{top * step / 5:.3f}"))
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [at(s, value) for s, value in zip(xs, ys, strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = 40 + 22 * number
        parts.append(f'<text x="{WIDTH - 135}" y="{y}" fill="{colour}">{escape(name)}</text>')
    middle = (LEFT + WIDTH - 150) // 2
    parts.append(_text(middle, HEIGHT - 12, "middle", "seconds of training"))
    parts.append(_text(LEFT, 14, "start", quality))
    style = "text{font:13px sans-serif}.grid{stroke:#ddd}"
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>'
        + "".join(parts)
        + "</svg>",
        encoding="utf-8",
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
