"""`recsys train cross-encoder`: texts in, the folder of a re-ranker out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from encoders.cross_encoder import CrossEncoder
from recsys.data.dataset import write_dataset
from services.cli.main import app
from tests.encoders.models import tiny_bert
from tests.films import films


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "films", [], films(), "films")
    return tmp_path / "films"


def train(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", "cross-encoder", *map(str, arguments)])


def told(result: Any) -> str:
    return " ".join(f"{result.output} {result.exception or ''}".split())


def test_the_folder_is_a_cross_encoder_of_the_catalogues_texts(data: Path, tmp_path: Path) -> None:
    output, bert = tmp_path / "ranker", tiny_bert(tmp_path / "bert")
    result = train("--data", data, "--output", output, "--text-model", bert, "--steps", 2, "--json")
    assert result.exit_code == 0, told(result)
    report = json.loads(result.stdout)
    assert (report["output"], report["base"]) == (str(output), str(bert))
    assert (report["texts"], report["config"]["steps"]) == (36, 2)
    assert CrossEncoder.open(str(output)).scores("sheriff", ["a sheriff", "a rocket"]).shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--steps", "0"), "--steps: "),
        (("--text-model", "/no/such folder"), "there is no folder"),
        (("--output", "."), "exists already: name another folder"),
        (("--data", "/nowhere"), "/nowhere"),
    ],
)
def test_wrong_usage_is_told(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = train("--data", data, "--output", tmp_path / "ranker", *arguments)
    assert result.exit_code != 0
    assert reason in told(result)
    assert not (tmp_path / "ranker").exists()


def test_a_catalogue_of_a_few_texts_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "few", [], films().slice(0, 3), "films")
    bert = tiny_bert(tmp_path / "bert")
    result = train("--data", tmp_path / "few", "--output", tmp_path / "r", "--text-model", bert)
    assert "3 texts are too few" in told(result)


def test_its_options_are_its_own() -> None:
    shown = told(train("--help"))
    assert "--text-model" in shown
    assert "--warm-start" not in shown
    assert "cross-encoder" in told(CliRunner().invoke(app, ["train", "--help"]))
