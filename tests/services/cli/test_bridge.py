"""`recsys bridge`, from content in service to a bridge that says what it is from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys.bundle import seal
from recsys.registry import Registry, Spaces
from services.cli.main import app
from tests.genres import N_ITEMS, genre_tags, seal_space, world_in


def recsys(*words: str) -> str:
    result = CliRunner().invoke(app, ["bridge", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


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

    made = recsys("fit", "ials", "--data", str(tmp_path / "data"))
    assert "The bridge from text + 4 tags to ials v0001 is v0001, in service." in made
    assert "text + 4 tags" in recsys("list")
    assert "genre 0, genre 1, genre 2, genre 3" in recsys("show", "ials")


def test_how_many_new_items_a_bridge_leaves_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, spaces = world_in(tmp_path), Spaces(tmp_path / "spaces")
    for name, lacks in (("text", 0), ("image", 5)):
        rows = np.arange(lacks, N_ITEMS)
        spaces.activate(
            name, spaces.add(name, partial(seal_space, world=world, rows=rows, name=name))
        )
    touched = np.array(world.model.popularity)
    touched[[1, 3, 7]] = 0
    registry = Registry(tmp_path / "models")
    version = registry.add(
        "ials",
        lambda folder: seal(
            folder,
            model=world.model.model,
            catalogue=world.model.catalogue,
            popularity=touched,
            index=world.model.index,
            data_fingerprint=world.dataset.fingerprint,
            metrics=[],
            cost={},
        ),
    )
    registry.activate("ials", version)
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    fit = ("fit", "ials", "--data", str(tmp_path / "data"), "--content", "text")
    assert "leaves out" not in recsys(*fit)
    left_out = "Items without events that it leaves out, for they have no text or image: 2."
    assert left_out in recsys(*fit, "--content", "image")
