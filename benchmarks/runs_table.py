"""Runs side by side: how good they are, what it took, and when each equalled the best peer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from benchmarks.contender import K
from benchmarks.peers import PEERS
from benchmarks.runs import PATIENCE, Run
from recsys.evaluation.report import Report, describe

BASELINES = ("ease", *PEERS)
"""Whose best is the goal."""


def best_peer(runs: Iterable[Run]) -> Run | None:
    """Of the peers and EASE, the one that validates best; None if none of them finished."""
    peers = [each for each in runs if each.name in BASELINES]
    return max(peers, key=lambda each: each.ndcg[each.best], default=None)


def table(runs: Sequence[Run], failed: Iterable[str]) -> Table:
    """A row a run, and a row for the name of each that failed."""
    shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), caption_justify="left")
    for column in (
        "model", "epochs", "s an\nepoch", "s to\nbest", f"validation\nNDCG@{K}", f"R@{K}",
        f"NDCG@{K}", "s to\ngoal", "MB",
    ):  # fmt: skip
        shown.add_column(column, justify="left" if column == "model" else "right")
    peer = best_peer(runs)
    for run in runs:
        shown.add_row(
            f"{run.label}, {run.numbers}".replace(", ", "\n", 1),
            f"{len(run.ndcg)}\n{'cut off' if run.cut_off else 'ended'}",
            _seconds(run.seconds[-1] / len(run.seconds)),
            _seconds(run.seconds[run.best]),
            f"{run.ndcg[run.best]:.4f}",
            _estimate(run.test, f"recall@{K}"),
            _estimate(run.test, f"ndcg@{K}"),
            "-" if peer is None else _to_goal(run, peer),
            f"{run.peak_mb:,.0f}",
        )
    for name in failed:
        shown.add_row(name, "failed", *"-------")
    shown.caption = "\n".join(_caption(runs, peer))
    return shown


def _caption(runs: Sequence[Run], peer: Run | None) -> Iterable[str]:
    if runs:
        yield describe(runs[0].test.protocol)
    if peer is None:
        yield "goal: none, because no peer finished"
    else:
        cut_off = ", which was cut off" if peer.cut_off else ""
        yield (
            f"goal: validation NDCG@{K} {peer.ndcg[peer.best]:.4f}, the best of the peers, by "
            f"{peer.label}{cut_off}; below the seconds to it is their ratio to that peer's"
        )
    yield (
        f"ended: no rise of validation for {PATIENCE} epochs, a patience that is the same for all, "
        "or no epochs left; cut off: its minutes were over first, so it may have been rising still"
    )


def _to_goal(run: Run, peer: Run) -> str:
    theirs = peer.seconds[peer.best]
    ours = run.seconds_to(peer.ndcg[peer.best])
    if ours is None:
        return "not\nreached"
    ratio = ours / theirs
    return f"{_seconds(ours)}\n{ratio:,.2f}" if ratio >= 0.01 else f"{_seconds(ours)}\n{ratio:.1g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.{2 if seconds < 10 else 1}f}" if seconds < 100 else f"{seconds:,.0f}"


def _estimate(report: Report, name: str) -> str:
    found = report.metrics[name]
    return f"{found.value:.4f}\n" + f"{found.low:.3f}-{found.high:.3f}".replace("0.", ".")
