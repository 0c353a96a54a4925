"""Report: what was measured, how, and how sure one can be; for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_LOWER_IS_BETTER = ("gini", "mae", "rmse")


class Estimate(BaseModel):
    """A measured value and its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    value: float
    """The mean over users, or the one value of all users together."""
    low: float | None = None
    """The interval's lower end; none for coverage and Gini, which a resample of the users would
    bias."""
    high: float | None = None
    """The interval's upper end; none where `low` is."""


class Report(BaseModel):
    """The metrics of one model on one holdout, and the protocol that they were measured by."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metrics: dict[str, Estimate]
    """By name and cut-off, as `ndcg@10`; of ratings, which have none, by name."""
    protocol: dict[str, str | int | float | bool]
    """All that must be equal for two reports to be comparable."""

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads back, of JSON's types."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The report that `to_dict` gave; raises pydantic's ValidationError."""
        return cls.model_validate(value)


def table(reports: Mapping[str, Report], title: str | None = None, k: int = 10) -> Table:
    """The metrics at k, and those without a cut-off, as columns and the models as rows; the best of
    a column in bold, its interval beneath each value. Reports of different protocols say so in the
    caption."""
    names = [
        name
        for name in dict.fromkeys(name for report in reports.values() for name in report.metrics)
        if name.partition("@")[2] in ("", str(k))
    ]
    best = {name: _best(name, reports) for name in names}
    shown = Table(title=title, title_justify="left", caption=_caption(reports), box=box.SIMPLE)
    shown.padding = (0, 1, 0, 0)  # six metrics with their intervals fit into 80 columns
    shown.caption_justify = "left"
    shown.add_column("model", no_wrap=True)
    for name in names:
        heading = name.replace("mean_popularity", "popularity").replace("@", "\n@")
        shown.add_column(escape(heading), justify="right", no_wrap=True)
    for model, report in reports.items():
        cells = [_cell(name, report.metrics.get(name), best=model in best[name]) for name in names]
        shown.add_row(Text(model), *cells)
    return shown


def _cell(name: str, estimate: Estimate | None, *, best: bool) -> Text:
    if estimate is None:
        return Text("-", style="dim")
    cell = Text(_number(name, estimate.value), style="bold" if best else "", justify="right")
    if estimate.low is not None and estimate.high is not None:
        low, high = (_short(_number(name, end, 3)) for end in (estimate.low, estimate.high))
        cell.append(f"\n{low}-{high}", style="not bold dim")
    return cell


def _number(name: str, value: float, digits: int = 4) -> str:
    if name.startswith("mean_popularity"):
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def _short(number: str) -> str:
    """0.123 as .123: three intervals side by side must fit."""
    return number[1:] if number.startswith("0.") else number


def _best(name: str, reports: Mapping[str, Report]) -> set[str]:
    """The models that share the best value; none where no value is better than another."""
    metric = name.partition("@")[0]
    values = {
        model: report.metrics[name].value
        for model, report in reports.items()
        if name in report.metrics
    }
    if metric == "mean_popularity" or not values:
        return set()
    extreme = min(values.values()) if metric in _LOWER_IS_BETTER else max(values.values())
    winners = {model for model, value in values.items() if value == extreme}
    return winners if len(winners) < len(values) else set()


def _caption(reports: Mapping[str, Report]) -> str | None:
    protocols = [report.protocol for report in reports.values()]
    if not protocols:
        return None
    if any(protocol != protocols[0] for protocol in protocols):
        return "the models were measured by different protocols: the rows do not compare"
    return escape(describe(protocols[0]))


def describe(protocol: Mapping[str, str | int | float | bool]) -> str:
    """The protocol in one line for a person."""
    if "ratings" in protocol:
        return (
            f"{protocol['split']}; {protocol['ratings']:,} ratings by {protocol['users']:,} users; "
            f"{protocol['interval']}"
        )
    seen = "masked" if protocol["seen_masked"] else "ranked too"
    learnt = protocol.get("learnt", "train")  # which earlier releases did not state
    return (
        f"{protocol['split']}, {learnt} learnt; {protocol['users']:,} users; "
        f"full-catalogue ranking of {protocol['items']:,} items, seen items {seen}; "
        f"{protocol['interval']}"
    )
