"""`recsys spaces`: what a way back costs is told."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from tests.shop import Shop, item


def test_a_rollback_past_a_fold_tells_which_items_it_loses(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(shop.settings.state_dir))
    shop.put(item())
    shop.embed()
    shop.fold()
    told = CliRunner().invoke(app, ["spaces", "rollback", "text"])
    assert told.exit_code == 0
    assert "1 items that were put in over the API are in v0002" in " ".join(told.stderr.split())
    back = CliRunner().invoke(app, ["spaces", "activate", "text", "v0002"])
    assert back.stderr == ""
