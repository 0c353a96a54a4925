"""What is in service follows the registry, and a bundle that is refused changes nothing."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from recsys.bundle import BundleRefused
from recsys.registry import Registry
from services.active_models import ActiveModels, NoModel
from services.recommender import Query
from services.schemas import RecommendReply, RecommendRequest
from tests.planted import Planted, add_fitted


@pytest.fixture
def own(registry: Registry, tmp_path: Path) -> Registry:
    """A copy of the registry that a test may change."""
    shutil.copytree(registry.root, tmp_path / "models")
    return Registry(tmp_path / "models")


def version(models: ActiveModels, name: str) -> str:
    [reply] = models.recommender.recommend([Query(RecommendRequest(model=name), ())])
    assert isinstance(reply, RecommendReply)
    return reply.version


def alter(registry: Registry, name: str, version: str) -> None:
    with (registry.path(name, version) / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


def test_a_version_that_becomes_active_is_served(own: Registry, planted: Planted) -> None:
    models = ActiveModels(own)
    assert not models.refresh()
    add_fitted(own, "popularity", planted)
    assert models.refresh()
    assert version(models, "popularity") == "v0002"
    own.rollback("popularity")
    assert models.refresh()
    assert version(models, "popularity") == "v0001"


def test_requests_under_way_keep_the_models_they_began_with(
    own: Registry, planted: Planted
) -> None:
    models = ActiveModels(own)
    before = models.recommender
    add_fitted(own, "popularity", planted)
    models.refresh()
    assert before.bundles["popularity"].version == "v0001"
    assert models.recommender.bundles["ials"] is before.bundles["ials"]


def test_an_altered_bundle_is_refused_by_name_and_the_one_in_service_stays(
    own: Registry, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    models = ActiveModels(own)
    refused = add_fitted(own, "popularity", planted)
    alter(own, "popularity", refused)
    with caplog.at_level(logging.ERROR):
        assert not models.refresh()
        assert not models.refresh()
    assert version(models, "popularity") == "v0001"
    [record] = caplog.records
    assert f"popularity/{refused}" in record.getMessage()
    assert "weights.safetensors" in record.getMessage()
    own.rollback("popularity")
    assert not models.refresh()
    better = add_fitted(own, "popularity", planted)
    assert models.refresh()
    assert version(models, "popularity") == better


def test_at_the_start_the_models_that_verify_are_served(own: Registry) -> None:
    alter(own, "ials", "v0001")
    assert set(ActiveModels(own).recommender.bundles) == {"popularity", "sasrec"}


def test_if_no_bundle_verifies_there_is_no_start(own: Registry) -> None:
    for name in own.names():
        alter(own, name, "v0001")
    with pytest.raises(BundleRefused):
        ActiveModels(own)


def test_without_a_model_the_next_step_is_told(tmp_path: Path, own: Registry) -> None:
    with pytest.raises(NoModel, match="recsys train"):
        ActiveModels(Registry(tmp_path / "empty"))
    for name in own.names():
        (own.root / name / "ACTIVE").unlink()
    with pytest.raises(NoModel, match="recsys models activate"):
        ActiveModels(own)


def test_the_default_is_the_one_that_is_named(own: Registry) -> None:
    assert ActiveModels(own, "sasrec").recommender.default == "sasrec"
    described = ActiveModels(own, "sasrec").describe().models
    assert [model.name for model in described if model.default] == ["sasrec"]


def test_where_the_default_is_not_in_service_the_log_says_which_model_answers_for_it(
    own: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answering = ActiveModels(own, "ghost").recommender.default
    [record] = caplog.records
    assert f"'ghost' is not in service; {answering!r} answers" in record.getMessage()


def test_unless_one_is_named_the_best_measured_is_the_default(
    own: Registry, planted: Planted
) -> None:
    add_fitted(own, "ials", planted, ndcg=0.1)
    add_fitted(own, "popularity", planted, ndcg=0.2)
    models = ActiveModels(own)
    assert models.recommender.default == "popularity"
    add_fitted(own, "ials", planted, ndcg=0.3)
    models.refresh()
    assert models.recommender.default == "ials"
