"""A service that cannot start says so, and leaves the next one free to."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import RecsysError
from infra.loopback import free_port
from infra.settings import Settings
from recsys.registry import Registry
from services import serving as module
from services.serving import serving


def test_a_service_whose_models_vanish_while_it_starts_is_told_with_the_next_step(
    ray_cluster: None,
    registry: Registry,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(state_dir=tmp_path, namespace="failed", http_port=free_port())
    monkeypatch.setattr(module, "_check_models", lambda settings: None)  # they were there
    failed = pytest.raises(RecsysError, match=r"could not start the service.*recsys doctor")
    with failed, serving(settings, redis_url):
        pass
