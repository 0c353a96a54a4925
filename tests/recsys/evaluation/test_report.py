"""Reports: they survive JSON, and read well in a terminal."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from rich.console import Console

from recsys.evaluation.report import Estimate, Report, table

PROTOCOL: dict[str, str | int | float | bool] = {
    "split": "leave one out",
    "seen_masked": True,
    "users": 6040,
    "items": 3416,
    "interval": "95% bootstrap over users, 1000 resamples",
}


def _report(recall: float, **changed: str | int | float | bool) -> Report:
    return Report(
        metrics={
            "recall@10": Estimate(value=recall, low=recall - 0.01, high=recall + 0.01),
            "coverage@10": Estimate(value=0.5),
            "mean_popularity@10": Estimate(value=1234.5, low=1200, high=1250),
        },
        protocol={**PROTOCOL, **changed},
    )


def _text(reports: dict[str, Report]) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(reports))
    return captured.get()


def test_a_report_survives_json() -> None:
    report = _report(0.1)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Report.from_dict({**_report(0.1).to_dict(), "colour": "red"})


def test_the_table_has_models_as_rows_with_their_intervals() -> None:
    text = _text({"popularity": _report(0.0364), "ials": _report(0.1102)})
    row = next(line for line in text.splitlines() if "ials" in line)
    assert row.split() == ["ials", "0.1102", "0.5000", "1,234"]
    assert ".100-.120" in text


def test_the_table_says_how_it_was_measured() -> None:
    text = " ".join(_text({"ials": _report(0.1)}).split())
    assert "leave one out, train learnt; 6,040 users" in text
    assert "full-catalogue ranking of 3,416 items, seen items masked" in text


def test_the_table_says_that_different_protocols_do_not_compare() -> None:
    text = " ".join(_text({"a": _report(0.1), "b": _report(0.2, seen_masked=False)}).split())
    assert "the rows do not compare" in text


def test_of_ratings_the_table_has_every_metric_and_the_least_error_in_bold() -> None:
    protocol = {"split": "by hand", "users": 9, "ratings": 1234, "interval": "none"}
    reports = {
        name: Report(metrics={"rmse": Estimate(value=rmse)}, protocol=protocol)
        for name, rmse in (("better", 0.9), ("worse", 1.1))
    }
    (_, rmse) = table(reports).columns
    assert [getattr(cell, "style", None) for cell in rmse.cells] == ["bold", ""]
    text = " ".join(_text(reports).split())
    assert "better 0.9000 worse 1.1000" in text
    assert "by hand; 1,234 ratings by 9 users" in text


def test_six_metrics_with_their_intervals_fit_into_80_columns() -> None:
    of_users = Estimate(value=0.1234, low=0.1111, high=0.1357)
    metrics = {f"{name}@10": of_users for name in ("recall", "ndcg", "mrr")}
    metrics |= {f"{name}@10": Estimate(value=0.9876) for name in ("coverage", "gini")}
    metrics["mean_popularity@10"] = Estimate(value=2512.3, low=2500, high=2544)
    text = _text({"popularity": Report(metrics=metrics, protocol=PROTOCOL)})
    assert "…" not in text
    assert text.count(".111-.136") == 3
    assert "2,500-2,544" in text
