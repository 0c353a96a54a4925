"""`recsys index`: what is built, and what its recall was measured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys.registry import Registry
from services.cli.main import app
from tests.bazaar import bazaar, stock
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder

LISTS = ("--kind", "ivf_sq8", "--exact-below", "10", "--recall", "0.9")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def recsys(*arguments: object) -> Any:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return result


def test_who_gives_no_histories_is_told_what_the_recall_is_of(state: Path) -> None:
    stock(Registry(state / "models"), bazaar(state / "data"))
    build = ("index", "build", "ials", "--json", *LISTS)
    assert "histories may find far less" in " ".join(recsys(*build).stderr.split())
    result = recsys(*build, "--data", state / "data")
    assert json.loads(result.stdout)["index"]["measured_with"] == "600 given queries"
    assert result.stderr == ""


def test_the_index_of_a_content_space_is_built_anew_and_shown(state: Path) -> None:
    add_space(state / "spaces", HashingEncoder(), films())
    build = ("index", "build", "--space", "text", "--recall", "0.98", "--kind", "hnsw", "--json")
    built = json.loads(recsys(*build).stdout)
    assert (built["name"], built["version"], built["active"]) == ("text", "v0002", True)
    assert (built["index"]["promised"], built["index"]["kind"]) == (0.98, "hnsw")
    shown = json.loads(recsys("index", "show", "text", "--space", "--json").stdout)
    assert shown == built["index"]
