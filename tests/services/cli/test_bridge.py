"""`recsys bridge`, from content in service to a bridge that says what it is from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys.registry import Spaces
from services.cli.main import app
from tests.genres import N_ITEMS, genre_tags, seal_space, world_in


def test_a_bridge_is_from_tags_too_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, spaces = world_in(tmp_path), Spaces(tmp_path / "spaces")
    version = spaces.add(
        "text",
        lambda folder: seal_space(folder, world, np.arange(N_ITEMS), tags=genre_tags(world)),
    )
    spaces.activate("text", version)
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))

    def recsys(*words: str) -> str:
        result = CliRunner().invoke(app, ["bridge", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    made = recsys("fit", "ials", "--data", str(tmp_path / "data"))
    assert "The bridge from text + 4 tags to ials v0001 is v0001, in service." in made
    assert "text + 4 tags" in recsys("list")
    assert "genre 0, genre 1, genre 2, genre 3" in recsys("show", "ials")
