"""What is refused before anything is started to serve."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.settings import Settings
from recsys.registry import Registry
from services.active_models import NoModel
from services.serving import serving


def test_a_default_model_that_is_not_active_is_refused_by_the_settings_name(
    registry: Registry, tmp_path: Path
) -> None:
    settings = Settings(state_dir=tmp_path, default_model="ghost")
    shutil.copytree(registry.root, settings.models_dir)
    refused = pytest.raises(NoModel, match=r"RECSYS_DEFAULT_MODEL names 'ghost'.*there are .*ials")
    with refused, serving(settings, "redis://not-asked"):
        pass
