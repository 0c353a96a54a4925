"""list, activate and rollback: the same of models, content spaces and bridges."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys.bridge_bundle import Part, seal_bridge
from recsys.registry import Bridges, Registry
from recsys.retrieval.bridge import Bridge, Fitted
from services.cli.main import app
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder
from tests.planted import add_fitted, plant


def add_model(state: Path) -> None:
    add_fitted(Registry(state / "models"), "popularity", plant())


def add_text(state: Path) -> None:
    add_space(state / "spaces", HashingEncoder(), films())


def add_bridge(state: Path) -> None:
    bridge = Bridge(np.ones((2, 3), np.float32), np.zeros(3, np.float32))
    fitted = Fitted(bridge, np.zeros((1, 3), np.float32), ridge=1.0, offset=0.0, explained=0.5)
    seal = partial(
        seal_bridge,
        fitted=fitted,
        model="popularity",
        model_version="v0007",
        parts=[Part(space="text", fingerprint="f", dim=2)],
        tags=[],
        learnt_items=1,
        data_fingerprint="",
        metrics=[],
        cost={},
    )
    bridges = Bridges(state / "bridges")
    bridges.activate("popularity", bridges.add("popularity", seal))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def recsys(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("group", "name", "add", "told"),
    [
        ("models", "popularity", add_model, {}),
        ("spaces", "text", add_text, {"encoder": "hashing", "items": 36, "index": "exact"}),
        ("bridge", "popularity", add_bridge, {"model version": "v0007", "content": "text"}),
    ],
)
def test_versions_are_listed_and_go_in_and_out_of_service(
    state: Path, group: str, name: str, add: Callable[[Path], None], told: dict[str, object]
) -> None:
    add(state)
    add(state)
    rows = [{"name": name, "version": f"v000{n}", "active": n == 2} | told for n in (1, 2)]
    assert recsys(group, "list") == rows
    first, second = ({"name": name, "version": row["version"]} for row in rows)
    assert recsys(group, "activate", name, "v0001") == first
    assert [row["active"] for row in recsys(group, "list")] == [True, False]
    assert recsys(group, "rollback", name) == second
    assert [row["active"] for row in recsys(group, "list")] == [False, True]


@pytest.mark.parametrize("group", ["models", "spaces", "bridge"])
def test_of_nothing_it_is_said_how_to_make_one(state: Path, group: str) -> None:
    result = CliRunner().invoke(app, [group, "list"])
    assert "yet: " in result.output
    assert "--data" in result.output
