"""A wrong value is wrong usage, told by the name of its option before anything is asked."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from services.cli.main import app

SEND = ("events", "send", "--user", "u", "--item", "1")
PREDICT = ("ratings", "predict", "x", "--data", "y", "--user", "u")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "-k", "0"), "'-k': "),
        (("recommend", "-k", "1001"), "-k: "),
        (("recommend", "--user", ""), "--user: "),
        (("recommend", "--history", "1", "--history", ""), "--history: "),
        (("recommend", "--model", ""), "--model: "),
        (("recommend", "--user", "1", "--history", "2"), "give either --user or --history"),
        (("recommend", "--queue", "--url", "http://here"), "--queue asks over Redis"),
        (("recommend", "--url", "http://[::1"), "'--url': 'http://[::1' is not a URL"),
        ((*SEND, "--url", "http://::1:8000"), "'--url': 'http://::1:8000' is not a URL"),
        ((*SEND, "--user", ""), "--user: "),
        ((*SEND, "--item", ""), "--item: "),
        ((*SEND, "--event", ""), "--event: "),
        ((*SEND, "--value", "nan"), "--value: "),
        (("train", "ials", "--data", "x", "--config", "/tmp"), "'--config': "),
        (("train", "ials", "--data", "x", "--config", "nowhere"), "'--config': "),
        (("index", "build", "text", "--space", "--data", "x"), "--data: a content space is"),
        (("evaluate", "--data", "x", "--part", "all"), "'--part': "),
        (("ratings", "train", "x", "--output", "y", "--dim", "-1"), "--dim: "),
        (("ratings", "train", "x", "--output", "y", "--seed", "-1"), "--seed: "),
        (("ratings", "evaluate", "x", "--regularization", "0"), "--regularization: "),
        ((*PREDICT, "-k", "0"), "'-k': "),
        ((*PREDICT, "-k", "5", "--item", "1"), "give either --item or -k"),
    ],
)
def test_a_wrong_value_is_told_by_its_option(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert f"Invalid value: {message}" in result.output or (
        f"Invalid value for {message}" in result.output
    )
